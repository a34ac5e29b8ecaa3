"""What a reward gives a batch, checked; where it fails, the error names the reward and the completion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rewards.registry import Reward, RewardError
from rewards.sandbox.call import UnusableReward, call_reward
from rewards.sandbox.sandbox import Sandbox, Scores


class RewardFailure(ValueError):
    """A reward that raised or returned what is not a score: its name, the problem and the completion."""


def checked_scores(name: str, reward: Reward | Sandbox, columns: Mapping[str, Any], places: list[str]) -> Scores:
    """The scores of a batch, finite numbers, or NaN where the reward does not apply.

    columns: all arguments of the reward by name, `completions` among them. places: what a failure calls each
    completion. Raises RewardFailure.
    """
    try:
        scores = _scores(reward, columns)
    except UnusableReward as error:
        raise RewardFailure(f"reward {name!r} cannot be used: {error}") from error
    except Exception as error:
        row = _culprit(reward, columns, len(places))
        place = "the whole batch, though on no completion alone" if row is None else places[row]
        reason = str(error).strip().splitlines()[-1] if isinstance(error, RewardError) else repr(error)
        raise RewardFailure(f"reward {name!r} raised {reason} on {place}") from error
    for score, place in zip(scores.values, places, strict=True):
        if score is not None and not _is_score(score):
            raise RewardFailure(f"reward {name!r} returned {score!r}, not a finite number, on {place}")
    return Scores([math.nan if score is None else float(score) for score in scores.values], scores.killed)


def _scores(reward: Reward | Sandbox, columns: Mapping[str, Any]) -> Scores:
    return reward.score(columns) if isinstance(reward, Sandbox) else Scores(call_reward(reward, columns))


def _is_score(score: Any) -> bool:
    try:
        return not isinstance(score, str) and math.isfinite(float(score))  # float("1") is 1, but no text is a score
    except (TypeError, ValueError, OverflowError):
        return False


def _culprit(reward: Reward | Sandbox, columns: Mapping[str, Any], count: int) -> int | None:
    """The first completion on which the reward raises when it is called with that one alone."""
    for row in range(count):
        single = {k: [v[row]] if isinstance(v, list) else v for k, v in columns.items()}
        try:
            _scores(reward, single)
        except Exception:
            return row
    return None
