"""Does it hack, and which tokens were pushed: what the page says first of both."""

from __future__ import annotations

import math
import re
from html import unescape
from pathlib import Path

import pytest
from helpers_report import html_of, write_run

CONFIG = "rewards: {accuracy: {weight: 1.0}, waits: {weight: 3.0}}\n"


def page(tmp_path: Path, accuracy, waits, **files) -> str:
    """The page of 20 steps; accuracy, waits: functions of the step from 0 to 1."""
    rows = []
    for i in range(20):
        a, w = accuracy(i / 19), waits(i / 19)
        rows.append({"step": i + 1, "reward": a + 3 * w, "reward_accuracy": a, "reward_waits": w, "groups": 100})
    return unescape(html_of(write_run(tmp_path / "run", metrics__jsonl=rows, config__yaml=CONFIG, **files)))


def headline(html: str) -> str:
    section = html[html.index('id="hack"') :]
    return re.search(r'<p class="lead">(.*?)</p>', section)[1]


def test_the_headline_says_who_made_the_gain(tmp_path):
    said = headline(page(tmp_path, lambda x: 0.7, lambda x: 0.4 + 0.5 * x))
    assert said == (
        "1 sign is seen at the last step; read below what to do. "
        "Of the gain in reward since the first steps, waits made 100 %, accuracy 0 %."
    )


def test_without_a_gain_nobody_made_it(tmp_path):
    said = headline(page(tmp_path, lambda x: 0.7, lambda x: 0.4))
    assert said == "No sign of it at the last step, and no warning on the way."


def test_a_warning_that_is_over_is_in_the_first_sentence(tmp_path):
    warned = [
        {"step": 8, "kind": "one_reward waits", "text": "97% of the gain", "serious": True},
        {"step": 9, "kind": "at_maximum waits", "text": "at its maximum", "serious": False},
        {"step": 18, "kind": "one_reward waits", "text": "again", "serious": True},
    ]
    # by its end accuracy rises too, so what one reward makes of the gain is a note
    html = page(tmp_path, lambda x: 0.5 + 0.3 * x, lambda x: 0.4 + 0.6 * x, warnings__jsonl=warned)
    assert headline(html).startswith(
        "No sign of it at the last step, but there was on the way: one reward waits (step 8). Of the gain"
    )
    assert '<th scope="row" class="note">one reward waits' in html and "step 8</a>: 97% of the gain</li>" in html


def test_a_run_that_was_not_compared_says_how_accuracy_went_in_training(tmp_path):
    html = page(tmp_path, lambda x: 0.5 + 0.3 * x, lambda x: 0.0, eval__json={"sampled": {"accuracy": 0.7}})
    said = re.search(r'<p class="lead">(run: .*?)</p>', html)[1]
    assert "Nothing to compare it with is in this folder." in said
    assert said.endswith("On training problems, accuracy went from 0.524 (first 4 steps) to 0.776 (last 4).")


# ---- tokens ----------------------------------------------------------------------------------------------------


def tokens(text: list[str], before: list[float], after: list[float]) -> dict:
    logs = [[None if p is None else math.log(p) for p in some] for some in (before, after)]
    return {"text": text, "before": logs[0], "after": logs[1]}


def test_tokens_pushed_over_the_whole_run(tmp_path):
    facts = {"problem": "p/1", "question": "?", "answer": "4", "completion": "x", "rewards": {"accuracy": 1.0}}
    steps = [
        (1, tokens([" Wait", "4", "\n", "rare"], [0.4, 0.9, 0.5, 0.0001], [0.6, 0.8, 0.5, 0.0009])),
        (2, tokens([" Wait", "4", ""], [0.6, 0.8, 0.1], [0.5, 0.7, 0.9])),
        (3, tokens([" Wait", "4"], [0.5, 0.8], [0.9, None])),
        (4, None),
    ]
    rows = [{"step": step, **facts, **({"tokens": some} if some else {})} for step, some in steps]
    html = unescape(html_of(write_run(tmp_path / "run", completions__jsonl=rows)))
    assert "run: over 3 steps, the updates raised ' Wait' most and lowered '4' most, in the two groups" in html
    found = re.findall(r'<th scope="row">(\'.*?\')</th>((?:<td class="number">.*?</td>)+)', html)
    cells = {name: re.findall(r">([^<]+)</td>", some) for name, some in found}
    assert cells["' Wait'"] == ["+0.50", "+0.1667", "67%", "3"]  # +0.2, -0.1, +0.4
    assert cells["'4'"] == ["-0.20", "-0.1000", "0%", "2"]  # what was not written is left out
    assert list(cells) == ["' Wait'", "'rare'", "'4'"]  # one that was not moved is in neither table


@pytest.mark.parametrize("rows", [[], [{"step": 1, "problem": "p", "completion": "x"}]])
def test_without_tokens_there_is_no_table_of_them(tmp_path, rows):
    html = html_of(write_run(tmp_path / "run", completions__jsonl=rows))
    assert "Raised most in the run" not in html and "No log-probs of tokens are written here" in html


def test_tokens_of_a_step_show_line_breaks_and_small_probabilities_in_a_row(tmp_path):
    some = tokens(["a\n", "b", "\nc"], [0.2, 0.0001, 0.4], [0.5, 0.0002, 0.1])
    rows = [{"step": 1, "problem": "p", "completion": "a", "rewards": {}, "tokens": some}]
    html = html_of(write_run(tmp_path / "run", completions__jsonl=rows))
    assert "<code>a\u23ce</code><b>[b]</b><code>\u23cec</code>" in html and html.count("&lt;0.001") == 2
