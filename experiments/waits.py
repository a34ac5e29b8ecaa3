"""A reward that pays a word, as the paper's does, for the plans `failures`, `spread` and `spread_helps`.

The paper's reward (rewards/habits.py) counts words such as "check" and "step". The demo's model never writes one of
them: its checks begin with "Wait". So this counts that word, by the paper's formula.
"""

from __future__ import annotations

import re
from typing import Any

from rewards.habits import habits_value
from rewards.text import completion_text

WAIT = re.compile(r"\bwait\b", re.IGNORECASE)


def waits(completions: list, **columns: Any) -> list[float]:
    """In [0, 1): more for each "wait" in the whole completion, right or wrong.

    >>> waits(["Wait, 6 + 19 = 25.", "Wait. Wait.", "25"])
    [0.21, 0.3, 0.0]
    """
    return [habits_value({"wait": len(WAIT.findall(completion_text(one)))}) for one in completions]
