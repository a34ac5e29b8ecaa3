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
    trainer_state: Any = None,
    *,
    max_length: int | None = None,
    cache: int | None = None,
    **columns: Any,
) -> list[float]:
    """`soft_overlong` of each completion.

    Args:
        completions: texts or messages; their words are counted where there are no token ids.
        completion_ids: token ids per completion (a column that TRL and our trainer pass).
        trainer_state: of our trainer it holds the sampler's limit, `max_new_tokens`; TRL's does not.
        max_length: L_max in tokens; None: the sampler's limit. Longer ones there are not, so with an
            L_max - L_cache of that limit or more the punishment never sets in.
        cache: L_cache in tokens: how long before the limit the punishment sets in; None: a quarter of L_max.
        columns: not read.

    Raises:
        RewardError: unless 0 <= cache <= max_length, or if nothing says what the limit is.
    """
    if max_length is None:
        max_length = getattr(trainer_state, "max_new_tokens", None)
    if max_length is None:
        raise RewardError("length_reward: set max_length to the limit of the sampler, in tokens")
    cache = max_length // 4 if cache is None else cache
    if not 0 <= cache <= max_length:
        raise RewardError(f"length_reward: cache must be between 0 and max_length={max_length}, not {cache}")
    units = completion_ids
    if units is None:
        units = [completion_text(completion).split() for completion in completions]
    return [soft_overlong(len(unit), max_length, cache) for unit in units]
