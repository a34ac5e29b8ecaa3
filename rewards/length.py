"""A soft punishment for completions that come near the length limit."""

from __future__ import annotations

from typing import Any

from rewards.registry import RewardError, register_reward
from rewards.text import completion_text


def soft_overlong(length: int, max_length: int, cache: int) -> float:
    """DAPO's soft overlong punishment (arXiv:2503.14476, equation 13), in [-1, 0].

              0                                   if |y| <= L_max - L_cache
        R =   ((L_max - L_cache) - |y|) / L_cache   if L_max - L_cache < |y| <= L_max
              -1                                  if L_max < |y|

    >>> [soft_overlong(n, max_length=100, cache=20) for n in (80, 90, 100, 101)]
    [0.0, -0.5, -1.0, -1.0]
    """
    free = max_length - cache
    if length <= free:
        return 0.0
    return max((free - length) / cache, -1.0) if cache else -1.0


@register_reward("length")
def length_reward(
    completions: list,
    completion_ids: list | None = None,
    *,
    max_length: int = 1024,
    cache: int = 256,
    **columns: Any,
) -> list[float]:
    """`soft_overlong` of each completion.

    Args:
        completions: texts or messages; their words are counted where there are no token ids.
        completion_ids: token ids per completion (a column that TRL and our trainer pass).
        max_length: L_max in tokens; set it to the sampler's limit.
        cache: L_cache in tokens: how long before the limit the punishment sets in.
        columns: not read.

    Raises:
        RewardError: unless 0 <= cache <= max_length.
    """
    if not 0 <= cache <= max_length:
        raise RewardError(f"length_reward: cache must be between 0 and max_length={max_length}, not {cache}")
    units = completion_ids
    if units is None:
        units = [completion_text(completion).split() for completion in completions]
    return [soft_overlong(len(unit), max_length, cache) for unit in units]
