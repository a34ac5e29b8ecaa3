"""The tables and intervals of README and docs are what the committed results say."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from experiments import pages
from experiments.lab import dividing, page_tables, tables
from experiments.lab.plan import read_plan
from grpo.results.statistics import Difference, crossed
from grpo.runs.settings import load_config

PAIR = re.compile(r"([-+]0\.\d{3})\s+\[([-+]0\.\d{3}), ([-+]0\.\d{3})\]")


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_the_tables_are_current(page):
    text = page.read_text(encoding="utf-8")
    assert pages.MARKS.search(text) and pages.replaced(text) == text, "write it again: make docs"


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_each_interval_in_the_text_is_one_of_a_table(page):
    """Text may repeat an interval of a table, of this page or another, and state no other."""
    texts = [page.read_text(encoding="utf-8") for page in pages.PAGES]
    there = {pair for text in texts for table in pages.MARKS.finditer(text) for pair in PAIR.findall(table[0])}
    assert set(PAIR.findall(page.read_text(encoding="utf-8"))) <= there


def test_a_difference_is_that_of_the_lab():
    found = {"right": {"a": {"sampled": [[1.0, 0.5, 0.0], [1.0, 1.0, 0.5]]}, "b": {"sampled": [[0.0] * 3] * 2}}}
    d = tables.difference(found, "a", "b", "sampled")
    assert d == crossed(np.array(found["right"]["a"]["sampled"]), np.zeros((2, 3)))
    assert tables.in_a_cell(Difference(0.1, -0.05, 0.25, 3, 2)) == "+0.100 [-0.050, +0.250] | not shown"
    assert tables.in_a_cell(Difference(0.1, 0.05, 0.15, 3, 2)).endswith("| shown")


def test_the_figure_has_the_same_bytes_for_the_same_values(tmp_path):
    pytest.importorskip("matplotlib")
    for name in "ab":
        assert pages.draw(tmp_path / f"{name}.svg")
    text = (tmp_path / "a.svg").read_bytes()
    assert text == (tmp_path / "b.svg").read_bytes() and b"SFT + GRPO" in text and b"dc:date" not in text


def test_a_table_that_nothing_writes_is_an_error():
    with pytest.raises(KeyError, match="nothing"):
        pages.replaced("<!-- python -m experiments.pages nothing -->\n<!-- end -->")
    assert pages.replaced("no marks") == "no marks"


# ---- tables ---------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder of results: `two`, two arms of two seeds, and the same again."""
    monkeypatch.setattr(tables, "RESULTS", tmp_path)

    def write(name, gain, **more):
        right = {"a": [[0.0, 0.5, 1.0, 0.5]] * 2, "b": [[min(1.0, x + gain) for x in (0.0, 0.5, 1.0, 0.5)]] * 2}
        accuracy = {arm: float(np.mean(rows)) for arm, rows in right.items()}
        evaluation = {"format": 1.0, "reflections": 0.5, "length": 40.0}
        variants = {
            arm: {"grpo": [{kind: {"accuracy": x, **evaluation} for kind in tables.KINDS} | {"samples": 2}] * 2}
            for arm, x in accuracy.items()
        }
        found = {
            "seeds": [0, 1], "baseline": "a", "variants": variants, "commit": "abc", "command": "python -m x",
            "processor": "P", "right": {arm: dict.fromkeys(tables.KINDS, rows) for arm, rows in right.items()}, **more,
        }  # fmt: skip
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "results.json").write_text(json.dumps(found))

    return write


def test_a_table_of_arms_has_values_and_differences(results):
    results("two", 0.25)
    lines = tables.arms("two").splitlines()
    assert lines[0].startswith("| arm | sampled | less a | greedy | less a |")
    half = "0.500 [0.500, 0.500]"
    tail = f"0.750 [0.750, 0.750] |  | 1.000 [1.000, 1.000] | {half} | 40.0 [40.0, 40.0] |"
    assert lines[2] == f"| a | {half} |  | {half} |  | {tail}"
    cells = [cell.strip() for cell in lines[3].split("|")]
    d = tables.difference(tables.read("two"), "b", "a", "sampled")
    assert cells[3] == (f"**{tables.interval(d)}**" if d.shown else tables.interval(d)) and cells[3].startswith(
        "+0.188"
    )
    assert lines[-1].startswith("A difference in bold") and "`python -m x`" in lines[-1] and "commit abc" in lines[-1]


def test_a_climb_has_each_row_less_the_row_above_and_counts_a_problem_solved_once(results):
    results("two", 0.25)
    heads, _, first, second = (row.split(" | ") for row in tables.climb("two").splitlines()[:4])
    passes = heads.index("pass@2")
    assert (first[passes], second[passes]) == ("0.750 [0.750, 0.750]", "1.000 [1.000, 1.000]")
    assert first[passes + 1] == "" and second[passes + 1].strip("*").startswith("+0.250")
    assert second[2].strip("*").startswith("+0.188")


@pytest.mark.parametrize(("gain", "within"), [(0.25, "yes"), (-0.9, "no")])
def test_other_seeds_lie_within_the_first_interval_or_not(results, gain, within):
    results("two", 0.25)
    results("again/two", gain)
    cells = tables.again("two", (("b", "a"),)).splitlines()[2].split(" | ")
    assert cells[3] == within
    both = tables.together([tables.read("two"), tables.read("again/two")], "b", "a", "sampled")
    assert both.seeds == 4 and cells[4].replace("*", "").removesuffix(" |") == tables.interval(both)
    assert both.mean == pytest.approx((0.1875 + (0.1875 if within == "yes" else -0.9)) / 2)


def test_one_seed_is_never_in_bold():
    assert tables.in_bold(Difference(0.1, 0.05, 0.15, 3, 2)) == "**+0.100 [+0.050, +0.150]**"
    assert tables.in_bold(Difference(0.1, 0.05, 0.15, 3, 1)) == "+0.100 [+0.050, +0.150]"
    assert tables.in_bold(Difference(0.1, -0.05, 0.25, 3, 2)) == "+0.100 [-0.050, +0.250]"


def test_signs_have_their_steps_and_how_many_runs_gave_them(results):
    results("two", 0.0, signs={"a": [{}, {}], "b": [{"format": 9, "kl": 3}, {"kl": 5}]})
    assert tables.signs("two").splitlines()[2:] == [
        "| a | nothing | 2 of 2 |",
        "| b | `kl`: 3 to 5 | 2 of 2 |",
        "| b | `format`: 9 | 1 of 2 |",
    ]


def test_seconds_are_of_the_same_seed(results):
    ours, theirs = ([{"seconds": some} for some in seeds] for seeds in (([1, 2, 9], [4, 4]), ([6, 6, 1], [2, 2])))
    results("trl", 0.0, training={"ours": ours, "TRL": theirs})
    lines = page_tables.seconds().splitlines()
    assert lines[2:5] == [
        "| ours | 3.00 [2.00, 4.00] |",
        "| TRL | 4.00 [2.00, 6.00] |",
        "| TRL / ours, same seed | 1.75 [0.50, 3.00] |",
    ]


def test_one_seed_has_an_interval_and_no_verdict():
    some = {"mean": 0.2, "low": 0.1, "high": 0.3, "problems": 9}
    assert tables.in_a_cell(Difference(**some)) == "+0.200 [+0.100, +0.300] | one seed"
    assert tables.in_a_cell(Difference(**some, seeds=2)).endswith("| shown")
    assert tables.in_a_cell(Difference(**{**some, "low": -0.1}, seeds=2)).endswith("| not shown")


def test_hours_are_added_over_all_results(results):
    results("two", 0.25, hours=1.25)
    results("again/two", 0.25, hours=2.5)
    text = page_tables.hours()
    assert "| again/two | abc | 2 | 2.5 | `python -m x` |" in text and "Together 4 hours" in text


def test_dividing_is_the_gain_with_group_less_the_gain_with_none(results, tmp_path):
    results("spread", 0.0)
    found = tables.read("spread")
    gains = {"no reflection reward": 0.0, "gated": 0.25, "ungated": 0.5, "waits": 0.0}
    right, variants = {}, {}
    for reward, gain in gains.items():
        for advantage in ("group", "none"):
            more = gain * (advantage == "group")
            right[f"{reward}, {advantage}"] = {"sampled": [[0.25 + more] * 3] * 2, "greedy": [[0.5 - more] * 3] * 2}
            seeds = [{"samples": 2, "sampled": {"reflections": r + 4 * more, "length": 40.0}} for r in (1.0, 2.0)]
            variants[f"{reward}, {advantage}"] = {"sft": seeds, "grpo": seeds}
    (tmp_path / "spread/results.json").write_text(json.dumps({**found, "right": right, "variants": variants}))
    table = page_tables.dividing("spread").splitlines()
    rows = {cells[1].strip(): cells[2:5] for row in table if (cells := row.split("|"))[4:]}
    assert [cell.strip(" *")[:6] for cell in rows["ungated: accuracy"]] == ["+0.500", "+0.000", "+0.500"]
    assert [cell.strip(" *")[:6] for cell in rows["ungated: greedy accuracy"]] == ["-0.500", "+0.000", "-0.500"]
    assert [cell.strip(" *")[:5] for cell in rows["gated: reflections"]] == ["+1.00", "+0.00", "+1.00"]
    assert rows["gated: reflections"][0].startswith(" **") and "*" not in rows["gated: reflections"][1]
    assert [cell.strip(" *")[:5] for cell in rows["waits: length"]] == ["+0.00"] * 3


def test_a_total_holds_the_reward_that_the_arm_was_paid_and_no_other(results, tmp_path):
    results("spread", 0.0)
    variants = {}
    for arm in ("no reflection reward", "gated", "ungated", "waits"):
        for advantage, paid in (("group", 0.5), ("none", 1.0)):
            rewards = {"accuracy": 0.5, "format": 1.0, "reflection": paid, "waits": paid / 2}
            variants[f"{arm}, {advantage}"] = {"sft": [], "grpo": [{"sampled": {"rewards": rewards}}] * 2}
    (tmp_path / "spread/results.json").write_text(json.dumps({**tables.read("spread"), "variants": variants}))
    rows = [row.strip("|").split("|") for row in page_tables.totals("spread").splitlines()[2:]]
    values = {arm.strip(): [cell.strip(" *")[:6] for cell in cells] for arm, *cells in rows}
    assert values == {
        "no reflection reward": ["0.700 ", "0.700 ", "+0.000", ""],
        "gated": ["0.800 ", "0.900 ", "-0.100", "-0.500"],
        "ungated": ["0.800 ", "0.900 ", "-0.100", "-0.500"],
        "waits": ["0.750 ", "0.800 ", "-0.050", "-0.250"],
    }


@pytest.mark.parametrize("name", ["spread", "spread_helps"])
def test_the_weights_of_a_total_are_those_of_the_plan(name):
    plan = read_plan(pages.REPO / f"experiments/ablations/{name}.yaml")
    for arm in plan.variants:
        stage, settings = plan.of(arm)[-1]
        given = {reward: c.weight for reward, c in load_config(stage.file, settings).rewards.items() if c.weight}
        own = dividing.REWARDS.get(arm.split(", ")[0])
        assert given == dividing.WEIGHTS | ({own: dividing.WEIGHT} if own else {})


def test_the_rules_for_dropping_are_compared_total_reward_less_accuracy(results, tmp_path):
    for name, more in (("reflection", 0.0), ("incompetent", 0.25), ("spread_helps", 0.0), ("spread", 0.0)):
        results(name, 0.0)
        arms = ["none", "gated", "ungated"]
        if name.startswith("spread"):
            arms = ["no reflection reward, group", "gated, group", "ungated, group"]
        right = {arm: {kind: [[0.25 + more] * 3] * 2 for kind in ("sampled", "greedy")} for arm in arms}
        variants = {arm: {"grpo": [{"samples": 4}] * 2} for arm in arms}
        found = {**tables.read(name), "right": right, "variants": variants}
        (tmp_path / name / "results.json").write_text(json.dumps(found))
    heads, _, *rows = page_tables.by_total().splitlines()
    assert heads == "| by total reward, less by accuracy | reward | sampled | greedy | pass@4 |" and len(rows) == 6
    values = {
        tuple(x.strip() for x in cells[:2]): cells[2].strip(" *")[:6]
        for cells in (r.strip("|").split("|") for r in rows)
    }
    assert values["a check corrects a slip", "gated"] == "+0.000"
    assert (
        values["a check repeats a slip", "no reflection reward"]
        == values["a check repeats a slip", "ungated"]
        == "-0.250"
    )


def test_arms_are_compared_in_the_order_of_a_pair(results, monkeypatch):
    results("two", 0.25)
    monkeypatch.setattr(page_tables, "BETWEEN", {"two": [("b", "a"), ("a", "b")]})
    heads, _, *rows = page_tables.between("two").splitlines()[:4]
    assert heads == "| difference | sampled | greedy | pass@2 |"
    for row, label, signs in zip(rows, ("`b` less `a`", "`a` less `b`"), ("+++", "---"), strict=True):
        cells = [cell.strip(" *") for cell in row.strip("|").split("|")]
        values = [f"{sign}{x}" for sign, x in zip(signs, ("0.188", "0.188", "0.250"), strict=True)]
        assert cells[0] == label and [cell[:6] for cell in cells[1:]] == values


def test_learning_rates_stand_beside_each_other_by_kind_of_sft(results, tmp_path):
    results("sft_lr", 0.0)
    found = tables.read("sft_lr")
    arms = {"full, 1e-3": 0.5, "full, 3e-3": 0.25, "LoRA 4, attention, 1e-3": 0.75, "LoRA 4, attention, 3e-3": 1.0}
    variants = {arm: {"sft": [{"sampled": {"accuracy": x}}] * 2} for arm, x in arms.items()}
    (tmp_path / "sft_lr/results.json").write_text(json.dumps({**found, "variants": variants}))
    rows = page_tables.sft_rates().splitlines()[2:4]
    assert rows[0] == "| full | 1e-3: 0.500 [0.500, 0.500] | 3e-3: 0.250 [0.250, 0.250] |"
    assert rows[1].startswith("| LoRA 4, attention | 1e-3: 0.750 ")


def test_metrics_of_the_training_are_means_over_steps_then_over_seeds(results):
    results("two", 0.0, training={"a": [{"kl": [1.0, None, 3.0]}, {"kl": [4.0, 4.0, 4.0]}]})
    rows = page_tables.in_training("two", "kl", "entropy").splitlines()
    assert rows[2] == "| a | 3.00 [2.00, 4.00] | - |"  # a metric that no run has


def test_what_sft_costs_stands_beside_the_demos(results, tmp_path, monkeypatch):
    monkeypatch.setattr(page_tables, "RESULTS", tmp_path)
    results("sft", 0.0, costs={"LoRA": {"sft": [{"saved": 1234, "seconds": 0.5}, {"saved": 1234, "seconds": 0.7}]}})
    arms = {"LoRA": {"trained": 5678, "seconds": [3.0, 1.0, 2.0], "gb": [2.5, 2.7]}}
    cost = {"arms": arms, "threads": 1, "rows": 4, "processor": "P", "commit": "abc", "command": "python -m x"}
    (tmp_path / "sft_cost.json").write_text(json.dumps(cost))
    lines = page_tables.sft_cost().splitlines()
    row = "| LoRA | 1,234 | 0.600 [0.500, 0.700] | 5,678 | 2.00 [1.00, 3.00] | 2.60 [2.50, 2.70] |"
    assert lines[2] == row and "of 3 steps in two processes, 4 examples a step, 1 thread; P; commit abc" in lines[-1]
