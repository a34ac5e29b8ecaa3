"""Calling a reward: columns by name in a mapping until here, settings before columns, and a list of scores back."""

from __future__ import annotations

import asyncio
import functools
import inspect
import warnings
from collections.abc import Iterable, Mapping, Set
from typing import Any

from rewards.registry import Reward, RewardError, reward_label, settings_of


class UnusableReward(RewardError):
    """A reward that cannot be used at all: no completion is to blame, so there is no culprit to look for."""


def call_reward(reward: Reward, columns: Mapping[str, Any]) -> list[Any]:
    """What the reward gives each completion.

    Args:
        reward: a function, a callable object, or one that is `async`, which is run to its end as TRL does.
        columns: all arguments by name, `completions` among them. A data column may have any name at all.

    Raises:
        UnusableReward: it returns something else than a list of one score for each completion.
        Exception: whatever the reward raises.
    """
    columns = usable_columns(reward, columns)
    scores = reward(**columns)
    if inspect.iscoroutine(scores):
        scores = asyncio.run(scores)
    scores = score_list(scores, reward_label(reward))
    if len(scores) != (count := len(columns["completions"])):
        raise UnusableReward(f"{reward_label(reward)} returned {len(scores)} scores for {count} completions")
    return scores


def usable_columns(reward: Reward, columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns without those that have the name of one of the reward's settings: the setting wins, with a warning.

    Nor is there a place for a column `self` where the reward is a method or a callable object.
    """
    clashes = settings_of(reward) & columns.keys()
    for name in sorted(clashes):
        warnings.warn(
            f"{reward_label(reward)}: the data has a column {name!r}, which is a setting of this reward: the setting "
            "wins, the column is not read; rename it if the reward should read it",
            stacklevel=2,
        )
    kept = {name: column for name, column in columns.items() if name not in clashes}
    if not inspect.isfunction(_innermost(reward)):
        kept.pop("self", None)
    return kept


def score_list(scores: Any, label: str) -> list[Any]:
    """The returned scores as a list. Whatever has them in order will do: a tuple, a generator, an array, a tensor.

    Raises:
        UnusableReward: it is something else: a dict would pay its keys, a text its letters, a set in any order.
    """
    if hasattr(scores, "tolist"):
        scores = scores.tolist()
    if isinstance(scores, Mapping | Set | str | bytes) or not isinstance(scores, Iterable):
        raise UnusableReward(f"{label} returned a {type(scores).__name__}, not a list with a score for each completion")
    return list(scores)


def _innermost(reward: Reward) -> Reward:
    while isinstance(reward, functools.partial):
        reward = reward.func
    return reward
