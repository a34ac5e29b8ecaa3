"""The page in a real browser: every view and filter, by mouse and by keyboard, at desktop and phone width.

Needs Chromium with its driver (`apt-get install chromium chromium-driver`) and the extra `dev`; skipped without them.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from helpers_report import evaluation, html_of, write_run

selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install -e .[dev]")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium and chromedriver on this machine"),
]


def completion(step: int, group: int, i: int, right: bool, **more) -> dict:
    text = f"<think>{step} + {group} = {i}. Wait, again.</think><answer>{i}</answer>" + " z" * 3000 * (i == 3)
    facts = {"step": step, "problem": f"p/{group}", "question": f"Question {group} of step {step}?", "answer": "1"}
    row = {**facts, "completion": text, "rewards": {"accuracy": float(right), "waits": 0.5}, "total": right + 1.5}
    row |= {
        "advantage": 0.5 if right else -0.5,
        "kept": True,
        "truncated": i == 3,
        "length": 9,
        "reflections": int(i == 2),
    }
    return row | more


def token_values(change: float) -> dict:
    series = {"before": [-1.0, -2.0, -0.5], "after": [-1.0, -2.0 + change, -0.5]}
    return {
        "text": ["one ", "two", "\n"],
        **series,
        "kl": [0.0, 0.1, 0.0],
        "entropy": [1.0, 0.5, 0.1],
        "clipped": [0, 1, 0],
    }


def judged(right: bool, i: int, kind: str) -> dict:
    facts = {
        "problem": i,
        "id": f"h/{i}",
        "question": f"Held-out {i}?",
        "gold": "7",
        "kind": kind,
        "sample": 0,
        "level": "1",
    }
    return {**facts, "text": f"<answer>{7 if right else 8}</answer>", "correct": right}


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A folder with a base run and a GRPO run whose reward is hacked."""
    folder = tmp_path_factory.mktemp("pages") / "runs"
    held = [[judged(i < right, i, kind) for kind in ("sampled", "greedy") for i in range(4)] for right in (1, 3)]
    write_run(
        folder / "1-base", metrics__jsonl=None, completions__jsonl=None, eval__jsonl=[{"origin": "x"}, *held[0]],
        manifest__json={"stage": "base", "finished": "today"}, config__yaml="model: {path: tiny}\n",
        eval__json=evaluation(0.3) | {"paired": {}},
    )  # fmt: skip
    dropped = {"kept": False, "dropped": "all the same", "advantage": None}
    rows = [
        completion(step, group, i, right=i < 2, **(dropped if group == 3 else {}))
        for step in (1, 2, 3)
        for group in (1, 2, 3)
        for i in range(4)
    ]
    for row in rows:
        if row["problem"] == "p/2":
            row["tokens"] = token_values(0.75 if row["total"] > 2 else -0.25)
    metrics = [
        {"step": i, "reward": 1 + i / 3, "reward_accuracy": 0.8 - 0.03 * i, "reward_waits": i / 9, "kl": 0.01 * i,
         "groups": 32, "dropped": 9, "lr": 0.001, "spread_share_accuracy": 0.1, "spread_share_waits": 0.9}
        for i in range(1, 21)
    ]  # fmt: skip
    config = "rewards: {accuracy: {weight: 1.0}, waits: {weight: 3.0}}\nmodel: {path: tiny}\n"
    write_run(
        folder / "2-grpo", metrics__jsonl=metrics, completions__jsonl=rows, config__yaml=config,
        manifest__json={"stage": "grpo", "finished": "today", "parent": {"model": "tiny"}},
        eval__json=evaluation(0.6), eval__jsonl=[{"origin": "x"}, *held[1]],
    )  # fmt: skip
    html_of(folder)
    return folder / "report.html"


@pytest.fixture(
    scope="module",
    params=[(1280, False), (1280, True), (390, False), (390, True), (320, False)],
    ids=["desktop", "desktop-dark", "phone", "phone-dark", "narrow"],
)
def browser(request, page):
    """The page, open, at a width and in a colour scheme."""
    width, dark = request.param
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    driver.get(page.as_uri())
    until(lambda: driver.find_elements(By.CSS_SELECTOR, "body[data-ready]"))
    yield driver
    driver.quit()


def until(found, seconds: float = 60.0):
    """What `found` returns as soon as that is true."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.05)
    return value


def control(driver, area: str, label: str):
    """A select, input or button of a part of the page, by its label."""
    box = driver.find_element(By.ID, area)
    for node in box.find_elements(By.CSS_SELECTOR, "label"):
        if node.text.startswith(label):
            return node.find_element(By.CSS_SELECTOR, "select, input")
    return next(b for b in box.find_elements(By.CSS_SELECTOR, "button") if b.text == label)


def press(driver, node):
    """Click in the middle of the window, where nothing is in the way."""
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", node)
    node.click()


def heading(driver) -> str:
    return driver.find_element(By.CSS_SELECTOR, "#browser h3").text


def status(driver, area: str = "browser") -> str:
    return driver.find_element(By.CSS_SELECTOR, f"#{area} [role=status]").text


@pytest.fixture(autouse=True)
def fresh(request):
    """Each test begins with the newest group and without a filter."""
    if "browser" in request.fixturenames:
        driver = request.getfixturevalue("browser")
        driver.refresh()
        until(lambda: driver.find_elements(By.CSS_SELECTOR, "body[data-ready]"))


def test_nothing_is_wider_than_the_window_and_the_console_is_silent(browser):
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.get_log("browser") == []
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []


def test_axe_finds_nothing(browser):
    axe = pytest.importorskip("axe_selenium_python", reason="axe-selenium-python is not installed").Axe(browser)
    axe.inject()
    violations = axe.run()["violations"]
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in violations] == []


def test_the_first_answers_are_sentences(browser):
    learn, hack = (browser.find_element(By.ID, name).text for name in ("learn", "hack"))
    assert "2-grpo: it is better than the/parent by +0.100 (+0.020 to +0.180) on the same 256 problems" in learn
    assert "1-base: sampled accuracy 0.300 on held-out problems" in learn
    assert "Yes, by its signs: the reward rises and accuracy falls." in hack and "'waits'" in hack


def test_groups_by_mouse(browser):
    assert heading(browser) == "2-grpo, step 3, p/2: 2 of 4 right"  # the newest with tokens
    assert status(browser) == "Group 8 of 9."
    press(browser, control(browser, "browser", "Next group"))
    assert (
        heading(browser) == "2-grpo, step 3, p/3: 2 of 4 right"
        and not control(browser, "browser", "Next group").is_enabled()
    )
    press(browser, control(browser, "browser", "Previous group"))
    assert heading(browser).startswith("2-grpo, step 3, p/2")
    Select(control(browser, "browser", "Step")).select_by_visible_text("step 1")
    assert heading(browser).startswith("2-grpo, step 1, p/1")
    Select(control(browser, "browser", "Problem")).select_by_visible_text("p/3 (dropped)")
    assert heading(browser).startswith("2-grpo, step 1, p/3")
    cards = browser.find_elements(By.CSS_SELECTOR, "#browser article")
    assert len(cards) == 4 and all("not learned from: all the same" in card.text for card in cards)
    assert "accuracy 1 \u00d7 1 + waits 0.5 \u00d7 3 = 2.5" in cards[0].text


def test_groups_by_keyboard(browser):
    region = browser.find_element(By.CSS_SELECTOR, "#browser [role=region]")
    region.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert status(browser) == "Group 6 of 9."
    region.send_keys("n")
    assert status(browser) == "Group 7 of 9."
    region.send_keys("/")
    search = browser.switch_to.active_element
    assert search.get_attribute("type") == "search"
    search.send_keys("question 1 of step 2")  # the letter n is a letter here
    assert status(browser) == "Group 1 of 1 that match." and heading(browser).startswith("2-grpo, step 2, p/1")


@pytest.mark.parametrize(
    ("name", "groups", "cards"),
    [("right", 9, 2), ("wrong", 9, 2), ("dropped", 3, 4), ("reflecting", 9, 1), ("truncated", 9, 1)],
)
def test_filters(browser, name, groups, cards):
    Select(control(browser, "browser", "Completions")).select_by_visible_text(name)
    assert status(browser).endswith(f"of {groups} that match.")
    assert len(browser.find_elements(By.CSS_SELECTOR, "#browser article.match")) == cards


def test_a_search_that_finds_nothing_says_so(browser):
    control(browser, "browser", "Search").send_keys("nowhere to be found")
    assert status(browser) == "No group matches."
    control(browser, "browser", "Search").send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.BACKSPACE)
    assert status(browser).endswith("of 9.")


def test_right_and_wrong_are_told_by_more_than_colour_and_long_texts_keep_their_end(browser):
    cards = browser.find_elements(By.CSS_SELECTOR, "#browser article")
    assert "✓ right" in cards[0].text and "✗ wrong" in cards[3].text
    fold = cards[3].find_element(By.TAG_NAME, "summary")
    assert "more characters" in fold.text and cards[3].find_element(By.CSS_SELECTOR, ".text").text.endswith("z")
    fold.send_keys(Keys.ENTER)
    assert cards[3].find_element(By.TAG_NAME, "details").get_attribute("open")
    assert [u.text for u in cards[0].find_elements(By.TAG_NAME, "u")] == ["Wait"]


def test_a_sign_leads_to_its_step(browser):
    link = browser.find_element(By.CSS_SELECTOR, "#hack a[data-step]")
    press(browser, link)
    assert heading(browser).startswith(
        "2-grpo, step 3"
    )  # the completions of step 9 were not written: the next there is
    assert browser.current_url.endswith("#write")


def test_held_out_problems_before_and_after(browser):
    area = browser.find_element(By.ID, "heldout")
    assert "Problem 1 of 4." in area.text and "1-base" in area.text and "2-grpo" in area.text
    Select(control(browser, "heldout", "Problems")).select_by_visible_text("wrong, then right")
    assert status(browser, "heldout") == "Problem 1 of 2."
    area.find_element(By.CSS_SELECTOR, "[role=region]").send_keys(Keys.ARROW_RIGHT)
    assert status(browser, "heldout") == "Problem 2 of 2." and "Held-out 2?" in area.text
    Select(control(browser, "heldout", "Completion")).select_by_visible_text("sampled")
    Select(control(browser, "heldout", "Problems")).select_by_visible_text("right, then wrong")
    assert status(browser, "heldout") == "No problem is like that."


def test_tokens_by_mouse_and_keyboard(browser):
    area = browser.find_element(By.ID, "pushed")
    tables = area.find_elements(By.CSS_SELECTOR, "table")
    assert "[two]" in tables[0].text and "+0.750" in tables[0].text and "\u22120.250" in tables[1].text
    Select(control(browser, "pushed", "Shade by")).select_by_visible_text("entropy")
    assert "shaded by entropy" in area.text
    Select(control(browser, "pushed", "Step")).select_by_visible_text("step 1")
    assert "2-grpo, step 1" in area.text
    box = area.find_element(By.CSS_SELECTOR, "article .text")
    box.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    read = area.find_element(By.CSS_SELECTOR, "article .read")
    assert read.text == "“two”: log p -2 → -1.25 (+0.750), kl 0.1, entropy 0.5, clipped"
    assert box.find_elements(By.CSS_SELECTOR, ".token.clipped")[0].text == "two"


def test_a_chart_s_values_are_read_by_mouse_and_keyboard(browser):
    plot = browser.find_element(By.CSS_SELECTOR, '.plot[aria-label^="reward;"]')
    plot.send_keys(Keys.END)
    read = plot.find_element(By.CSS_SELECTOR, ".read")
    assert read.text == "step 20: 7.6667"
    plot.send_keys(Keys.ARROW_LEFT)
    assert read.text == "step 19: 7.3333"
    svg = plot.find_element(By.TAG_NAME, "svg")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", svg)
    webdriver.ActionChains(browser).move_to_element(svg).perform()
    assert read.text.startswith("step ") and read.text != "step 19: 7.3333"


def test_without_a_script_the_answers_and_the_newest_group_are_there(page):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        driver.get(page.as_uri())
        assert not driver.find_elements(By.CSS_SELECTOR, "body[data-ready]")
        text = driver.find_element(By.TAG_NAME, "main").text
        assert (
            "the reward rises and accuracy falls" in text and "Question 2 of step 3?" in text and "Most raised" in text
        )
    finally:
        driver.quit()
