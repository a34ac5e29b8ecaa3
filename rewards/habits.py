"""The paper's reflection reward: words of four habits of thinking (arXiv:2603.14041, after arXiv:2503.01307).

    s = sum over habits, sum over the habit's matches i = 1 .. n:  0.5 / (1 + (i - 1) / 2.5)
    c = 0.8 ln(1 + s)
    r = 1 - 1 / (1 + c^1.2)                                        rounded to two places

It reads the whole completion in lower case, tags or not, right or wrong. It pays words, so "Step 1" to "Step 9" earns
as much as nine subgoals. `reflection.py` counts sentences instead.
"""

from __future__ import annotations

import math
import re
from typing import Any

from rewards.registry import register_reward
from rewards.text import completion_text


def _habit(words: str, *phrases: str) -> re.Pattern[str]:
    """Any of the phrases, or one of the words as a whole; a phrase goes before a word in it."""
    return re.compile(rf"\b(?:{'|'.join([*phrases, *words.split()])})\b".replace(" ", r"\s+"))


HABITS: dict[str, re.Pattern[str]] = {
    "backtracking": _habit(
        "backtrack error fix mistake", "re-evaluat(?:e|ion)", "(?:flawed|incorrect) (?:approach|step)"
    ),
    "verification": _habit(
        "verify check confirm test", "(?:cross|re)-validat(?:e|ion)", "(?:unit|dimension) analysis", "edge case",
        "boundary check",
    ),
    "subgoals": _habit(
        "step stage phase subtask", r"decompose in(?:to)? \d+", r"(?:milestone|checkpoint) \d+",
        "track progress (?:at|on)",
    ),
    "backward chaining": _habit(
        "target goal required", "work(?:ing)? backwards", "reverse (?:engineer|logic)", "deduce from (?:final|outcome)"
    ),
}  # fmt: skip


def count_habits(text: str) -> dict[str, int]:
    """The number of matches of each habit in a text, without overlap."""
    text = text.lower()
    return {name: sum(1 for _ in pattern.finditer(text)) for name, pattern in HABITS.items()}


def habits_value(counts: dict[str, int]) -> float:
    """r of the formula above, from the matches of each habit.

    >>> habits_value({"verification": 1}), habits_value(dict.fromkeys(HABITS, 2))
    (0.21, 0.55)
    """
    s = sum(0.5 / (1 + (i - 1) / 2.5) for n in counts.values() for i in range(1, n + 1))
    c = 0.8 * math.log1p(s)
    return round(1 - 1 / (1 + c**1.2), 2)


@register_reward("habits")
def habits_reward(completions: list, **columns: Any) -> list[float]:
    """The paper's reflection reward, in [0, 1): see the formula at the head of this file.

    Args:
        completions: texts or messages.
        columns: not read; a wrong completion earns as much as a right one.
    """
    return [habits_value(count_habits(completion_text(completion))) for completion in completions]
