"""Before training: can each gold be graded at all, and do two rows contradict each other?

A gold that the run's own accuracy reward does not pay when a completion states it word for word earns nothing in any
group. Two rows with one question and different golds teach against each other.
"""

from __future__ import annotations

import warnings

from data import DataConfig, DataError
from grpo.runs.config import RewardConfig
from grpo.types import Problem
from rewards import get_reward
from rewards.answer import equivalent


def gradable(problems: list[Problem], rewards: dict[str, RewardConfig], data: DataConfig) -> list[Problem]:
    """The problems whose gold the accuracy reward of the run pays; a warning names those that are left out.

    Without an accuracy reward, all. With `data.keep_ungradable` they stay, and the warning as well. Questions that
    stand there twice with different golds are named, and stay.

    Raises:
        DataError: none is left.
    """
    accuracy = next((r for name, r in rewards.items() if (r.function or name) == "accuracy"), None)
    if accuracy is None:
        return problems
    reward = get_reward("accuracy", **accuracy.args)
    warn_of_contradictions(problems)
    golds = [problem.answer for problem in problems]
    scores = reward([f"<think>It is so.</think>\n<answer>{gold}</answer>" for gold in golds], answer=golds)
    unpaid = {problem.id: problem for problem, score in zip(problems, scores, strict=True) if score != 1.0}
    if not unpaid:
        return problems
    text = (
        f"{len(unpaid)} of {len(problems)} answers are not paid when a completion states them word for word "
        f"({_first([f'{problem.called} {problem.answer[:40]!r}' for problem in unpaid.values()])})"
    )
    if data.keep_ungradable:
        warnings.warn(f"{text}: data.keep_ungradable=true keeps them", stacklevel=2)
        return problems
    if len(unpaid) == len(problems):
        raise DataError(f"{text}: look at data.answer_field, and at rewards.accuracy.args")
    warnings.warn(f"{text}: left out; data.keep_ungradable=true keeps them", stacklevel=2)
    return [problem for problem in problems if problem.id not in unpaid]


def warn_of_contradictions(problems: list[Problem]) -> None:
    """Name the questions that stand there twice, with answers that are not equivalent."""
    first: dict[str, Problem] = {}
    pairs = []
    for problem in problems:
        question = " ".join(f"{[turn['content'] for turn in problem.turns]} {problem.question}".split())
        other = first.setdefault(question, problem)
        golds = other.answer, problem.answer
        if golds[0] != golds[1] and not (equivalent(*golds) or equivalent(*golds[::-1])):  # either may be 5!, for 120
            pairs.append(f"{other.called} {other.answer[:40]!r} and {problem.called} {problem.answer[:40]!r}")
    if pairs:
        text = f"{len(pairs)} questions stand there again with another answer ({_first(pairs)})"
        warnings.warn(f"{text}: correct or remove one of each", stacklevel=3)


def _first(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
