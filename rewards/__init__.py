"""Pluggable scores of one completion, in TRL's convention:

reward(completions, **columns) -> list[float | None]
"""

from __future__ import annotations

from rewards.accuracy import accuracy_reward
from rewards.answer import GradingConfig
from rewards.format import format_reward
from rewards.grader.explain import Explanation, explain
from rewards.habits import habits_reward
from rewards.length import length_reward
from rewards.reflection import count_reflections, reflection_reward
from rewards.registry import RewardError, get_reward, register_reward, reward_names
from rewards.repetition import repetition_reward
from rewards.sandbox.call import UnusableReward, call_reward

__all__ = [
    "Explanation",
    "GradingConfig",
    "RewardError",
    "UnusableReward",
    "accuracy_reward",
    "call_reward",
    "count_reflections",
    "explain",
    "format_reward",
    "get_reward",
    "habits_reward",
    "length_reward",
    "reflection_reward",
    "register_reward",
    "repetition_reward",
    "reward_names",
]
