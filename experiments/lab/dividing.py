"""The tables of docs/findings/spread.md: three rewards, with an advantage that divides and without; and one of
docs/findings/reflection.md, which compares the rules for dropping groups."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.lab.questions import UNPAID
from experiments.lab.results import of_arrays, spread
from experiments.lab.tables import facts, in_bold, judged, read
from grpo.results.statistics import Difference

REWARDS = {"gated": "reflection", "ungated": "reflection", "waits": "waits"}
"""The arms, and the name of the reward that each is paid by."""
WEIGHTS = {"accuracy": 1.0, "format": 0.2}
WEIGHT = 0.2
"""Of the rewards above, in the two plans."""
TASKS = {"a check corrects a slip": ("reflection", "spread_helps"), "a check repeats a slip": ("incompetent", "spread")}
"""Each task's results: with groups dropped by accuracy, and by their total reward."""


def dividing(name: str) -> str:
    """What each reward changes with `group`, which divides by the spread, with `none`, and the one less the other."""
    found = read(name)
    heads = ["less the arm without a reflection reward", "with `group`", "with `none`", "`group` less `none`"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for reward in REWARDS:
        for what in ("accuracy", "greedy accuracy", "reflections", "length"):
            gains = []
            for advantage in ("group", "none"):
                paid, unpaid = (measured(found, f"{one}, {advantage}", what) for one in (reward, UNPAID))
                gains.append(paid - unpaid)
            pairs = [(gain, np.zeros_like(gain)) for gain in gains] + [tuple(gains)]
            lines.append(f"| {reward}: {what} | {' | '.join(of_a_gain(*pair) for pair in pairs)} |")
    ends = "In bold: 0 lies outside of the interval. Accuracy: over seeds and problems; the others: over seeds."
    return "\n".join([*lines, "", f"{ends} {facts(found)}"])


def of_a_gain(one: np.ndarray, other: np.ndarray) -> str:
    """one - other, of accuracy in three digits, [S, P], and of another figure in two, [1, S]."""
    d = of_arrays(one, other)
    return in_bold(d) if len(one) > 1 else in_digits(d, 2)


def in_digits(d: Difference, digits: int = 3) -> str:
    """A difference over seeds; in bold if it is shown."""
    text = f"{d.mean:+.{digits}f} [{d.low:+.{digits}f}, {d.high:+.{digits}f}]"
    return f"**{text}**" if d.shown else text


def measured(found: dict[str, Any], arm: str, what: str) -> np.ndarray:
    """Accuracy, sampled or greedy, [S, P]; another figure of the last evaluation [1, S], a value for each seed."""
    if what.endswith("accuracy"):
        return np.array(found["right"][arm]["greedy" if what.startswith("greedy") else "sampled"])
    *_, evaluations = found["variants"][arm].values()
    return np.array([[evaluation["sampled"][what] for evaluation in evaluations]])


def totals(name: str) -> str:
    """The held-out total reward of an arm, by the weights it was trained with: over seeds."""
    found = read(name)
    heads = ["total reward, held out", "with `group`", "with `none`", "`group` less `none`", "its own reward: the same"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for arm in (UNPAID, *REWARDS):
        group, none = (total(found, arm, advantage) for advantage in ("group", "none"))
        cells = [spread(list(group[0])), spread(list(none[0])), in_digits(of_arrays(group, none))]
        own = [
            np.array([[each[REWARDS[arm]] for each in paid(found, arm, a)]])
            for a in ("group", "none")
            if arm in REWARDS
        ]
        lines.append(f"| {' | '.join([arm, *cells, in_digits(of_arrays(*own)) if own else ''])} |")
    return "\n".join(lines)


def total(found: dict[str, Any], arm: str, advantage: str) -> np.ndarray:
    """The weighted sum of the rewards that an arm is paid, [1, S]: a value for each seed."""
    weights = WEIGHTS | ({REWARDS[arm]: WEIGHT} if arm in REWARDS else {})
    each_seed = paid(found, arm, advantage)
    return np.array([[sum(weight * each[reward] for reward, weight in weights.items()) for each in each_seed]])


def paid(found: dict[str, Any], arm: str, advantage: str) -> list[dict[str, float]]:
    """The mean of each reward, held out, before its weight: one for each seed."""
    *_, evaluations = found["variants"][f"{arm}, {advantage}"].values()
    return [evaluation["sampled"]["rewards"] for evaluation in evaluations]


def by_total() -> str:
    """Groups dropped by total reward, less the same with groups dropped by accuracy: one setting differs."""
    lines, kinds = [], []
    for task, (by_accuracy, by_reward) in TASKS.items():
        for arm in (UNPAID, "gated", "ungated"):
            one, other = (
                judged(read(by_reward), f"{arm}, group"),
                judged(read(by_accuracy), arm.replace(UNPAID, "none")),
            )
            kinds = list(one)
            lines.append(
                f"| {task} | {arm} | {' | '.join(in_bold(of_arrays(one[kind], other[kind])) for kind in kinds)} |"
            )
    heads = ["by total reward, less by accuracy", "reward", *kinds]
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *lines])
