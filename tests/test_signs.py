"""Signs of hacking: seen over a window where they are there, and not in a run that learns."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from grpo.runs.history import WINDOW
from grpo.runs.setup import Setup
from grpo.runs.signs import all_signs, gain_shares

SETUP = Setup.of(
    {
        "rewards": {"accuracy": {"weight": 1.0}, "format": {"weight": 0.2}, "waits": {"weight": 3.0}},
        "sampling": {"max_new_tokens": 128},
        "grpo": {"group_size": 8, "drop_by": ["accuracy"]},
    }
)


def rows(count: int, **metrics) -> list[dict]:
    """Rows of a healthy run, but for what `metrics` replaces: a value, or a function of the step from 0 to 1."""
    noise = random.Random(0)
    found = []
    for i in range(count):
        share = i / max(1, count - 1)
        row = {"step": i + 1, "reward_accuracy": 0.6 + 0.2 * share + noise.uniform(-0.03, 0.03), "reward_format": 0.98}
        row |= {"reward_waits": 0.1, "groups": 30.0, "dropped": 10.0, "truncated": 0.01, "kl": 0.02, "zero_spread": 0.1}
        row |= {"most_frequent": 0.03, "shaping_only": 0.0}
        row |= {name: value(share) if callable(value) else value for name, value in metrics.items()}
        row["reward"] = row["reward_accuracy"] + 0.2 * row["reward_format"] + 3 * row["reward_waits"]
        found.append(row)
    return found


def kinds(some: list[dict], setup: Setup = SETUP) -> list[str]:
    return [sign.kind for sign in all_signs(some, setup)]


def test_a_run_that_learns_has_no_sign_at_any_step():
    some = rows(40)
    assert [kinds(some[:n]) for n in range(41)] == [[]] * 41


def test_reward_up_and_accuracy_down_is_said_with_who_pays_and_since_when():
    some = rows(20, reward_accuracy=lambda x: 0.75 - 0.5 * x, reward_waits=lambda x: 4 * x)
    first = next(n for n in range(1, 21) if "accuracy_falls" in kinds(some[:n]))
    assert WINDOW < first <= 10
    sign = all_signs(some, SETUP)[0]
    assert sign.kind == "accuracy_falls" and sign.serious and sign.since == first and sign.step == 20
    assert "'waits'" in sign.text and sign.value > sign.limit >= 0.05


def test_who_pays_is_who_has_paid_since_accuracy_was_best():
    """Another reward that gained more, but before, is not blamed."""
    setup = Setup.of({"rewards": {"accuracy": {}, "format": {}, "waits": {}}})
    some = [
        {
            "step": i + 1, "groups": 300.0, "dropped": 0.0,
            "reward_accuracy": min(0.4 + 0.02 * i, 0.7) - max(0.0, 0.01 * (i - 20)),
            "reward_format": min(0.04 * i, 0.8), "reward_waits": max(0.0, 0.03 * (i - 20)),
        }
        for i in range(45)
    ]  # fmt: skip
    for row in some:
        row["reward"] = sum(row[f"reward_{name}"] for name in ("accuracy", "format", "waits"))
    text = next(sign for sign in all_signs(some, setup) if sign.kind == "accuracy_falls").text
    assert "The largest part of the rise is paid by 'waits'" in text and "'format'" not in text


def test_accuracy_that_falls_with_the_reward_is_no_hack():
    some = rows(20, reward_accuracy=lambda x: 0.75 - 0.5 * x, reward_waits=lambda x: 0.5 - 0.5 * x)
    assert "accuracy_falls" not in kinds(some)


def test_a_fall_within_the_noise_of_few_problems_is_no_sign():
    fall = {"reward_accuracy": lambda x: 0.7 - 0.08 * x, "reward_waits": lambda x: x}
    assert "accuracy_falls" in kinds(rows(40, groups=300.0, **fall))
    assert "accuracy_falls" not in kinds(rows(40, groups=2.0, dropped=0.0, **fall))


def test_one_reward_of_most_of_the_gain_is_a_warning_only_where_accuracy_does_not_rise():
    flat = rows(20, reward_accuracy=0.6, reward_waits=lambda x: x)
    [sign] = all_signs(flat, SETUP)
    assert sign.kind == "one_reward waits" and sign.serious and sign.value > 0.9
    [sign] = all_signs(rows(20, reward_waits=lambda x: x), SETUP)
    assert sign.kind == "one_reward waits" and not sign.serious and sign.limit == 0.75
    assert all_signs(rows(20, reward_waits=lambda x: x / 15), SETUP) == []  # half of the gain, beside accuracy's
    shares = gain_shares(flat, SETUP)
    assert sum(shares.values()) == pytest.approx(1) and shares["waits"] > 0.99
    assert gain_shares(rows(20, reward_accuracy=0.6), SETUP) == {}  # no gain has no shares


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"truncated_gain": 1.5}, "a reward pays for length"),
        ({"truncated_gain": -1.0, "truncated_looping": 0.9}, "end in a loop"),
        ({"truncated_gain": -1.0, "truncated_answered": 0.9}, r"sampling.stop=\['</answer>'\]"),
        ({"truncated_gain": -1.0, "truncated_looping": 0.1, "truncated_answered": 0.0}, ": raise it"),
    ],
)
def test_truncation_has_its_likely_cause(more, words):
    [sign] = all_signs(rows(10, truncated=0.4, **more), SETUP)
    assert sign.kind == "truncated" and re.search(words, sign.text), sign.text


@pytest.mark.parametrize(
    ("kind", "metrics"),
    [
        ("format", {"reward_format": lambda x: 0.9 if x < 0.5 else 0.1}),
        ("kl", {"kl": 0.8}),
        ("repeated", {"most_frequent": 0.6}),
        ("flat_groups", {"groups": 2.0, "dropped": 30.0}),
        ("flat_groups", {"zero_spread": 1.0}),
        ("shaping_only", {"shaping_only": 0.9}),
    ],
)
def test_every_other_sign_is_seen_where_it_is_there(kind, metrics):
    assert kind in kinds(rows(20, **metrics))


def test_a_reward_that_rose_to_its_maximum_is_a_note():
    top = {"reward_format": lambda x: min(1.0, 0.7 + x), "reward_max_format": 1.0}
    assert kinds(rows(20, spread_share_format=0.0, **top)) == ["at_maximum format"]
    assert not all_signs(rows(20, spread_share_format=0.0, **top), SETUP)[0].serious
    assert kinds(rows(20, spread_share_format=0.3, **top)) == []  # it still sets completions apart
    assert kinds(rows(20, spread_share_format=0.0, reward_format=1.0, reward_max_format=1.0)) == []  # from the start


def test_a_reward_that_is_hardly_ever_earned_is_a_note():
    nothing = {"reward_waits": 0.0, "reward_max_waits": 0.0}
    some = rows(20, **nothing)
    assert kinds(some[: 2 * WINDOW - 1]) == [] and kinds(some) == ["hardly_paid waits"]
    sign = all_signs(some, SETUP)[0]
    assert not sign.serious and sign.since == 2 * WINDOW and "'waits' is hardly ever earned" in sign.text
    assert kinds(rows(20, reward_waits=0.001, reward_max_waits=1.0)) == ["hardly_paid waits"]  # as the paper's format
    assert kinds(rows(20, reward_waits=0.02, reward_max_waits=1.0)) == []
    some[3] |= {"reward_waits": 0.5, "reward_max_waits": 1.0}
    assert kinds(some) == []
    assert kinds(rows(20, reward_waits=-0.5, reward_max_waits=0.0)) == []  # a penalty that is earned
    unpaid = Setup.of({"rewards": {"accuracy": {}, "format": {}, "waits": {"weight": 0}}})
    assert kinds(rows(20, **nothing), unpaid) == []


def test_metrics_that_are_missing_or_null_are_no_sign():
    assert all_signs([], SETUP) == []
    bare = [{"step": i, "reward": None, "reward_accuracy": None} for i in range(1, 20)]
    assert kinds(bare) == [] and kinds([{"step": 1, "loss": 2.0}] * 20) == []
    assert kinds(rows(20), Setup.of({})) == []


# ---- runs that were made ---------------------------------------------------------------------------------------


def recorded() -> dict[str, list[dict]]:
    """Metrics of experiments/demo/grpo.yaml (seeds 0 to 9), and of two planted rewards of weight 3 on it (seed 0): one
    that counts the word "wait", and one that pays 1 for any. docs/report.md says which of them the limits were
    chosen on, and which they were checked on.
    """
    lines = (Path(__file__).parent / "signs_runs.jsonl").read_text(encoding="utf-8").splitlines()
    runs = map(json.loads, lines)
    return {run["run"]: [dict(zip(run["columns"], row, strict=True)) for row in run["rows"]] for run in runs}


DEMO = {"accuracy": {"weight": 1.0}, "format": {"weight": 0.2}, "reflection": {"weight": 0.2}}


@pytest.mark.parametrize("name", ["hack, counted", "hack, capped"])
def test_on_a_planted_hack_the_first_sign_is_seen_by_step_10(name):
    some, setup = recorded()[name], Setup.of({"rewards": DEMO | {"waits": {"weight": 3.0}}})
    first = next(n for n in range(1, len(some) + 1) if "accuracy_falls" in kinds(some[:n], setup))
    assert 5 <= first <= 10
    assert "'waits'" in next(s for s in all_signs(some[:first], setup) if s.kind == "accuracy_falls").text


@pytest.mark.parametrize("name", [f"demo, seed {seed}" for seed in range(10)])
def test_on_the_demo_no_sign_is_seen_at_any_step(name):
    some, setup = recorded()[name], Setup.of({"rewards": DEMO})
    assert len(some) == 25
    seen = [sign for n in range(1, 26) for sign in all_signs(some[:n], setup)]
    assert [sign.text for sign in seen] == []
