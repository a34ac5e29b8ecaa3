"""A penalty for completions that say the same thing over and over."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from rewards.registry import RewardError, register_reward
from rewards.text import completion_text


def repeated_share(units: Sequence[Hashable], size: int) -> float:
    """The share of n-grams that occurred before: 1 - distinct / total; 0 where there is no n-gram.

    Linear: each n-gram is an id made from the id of its first n-1 units and the last unit, so that no
    n-gram is ever sliced out or hashed whole.

    >>> repeated_share("a b a b a b".split(), size=2)
    0.6
    """
    total = len(units) - size + 1
    if total <= 0:
        return 0.0
    # After round k, ids[i] identifies the k-gram at i: two are equal if and only if their k units are.
    ids: list[int] = [0] * len(units)
    for k in range(size):
        seen: dict[tuple[int, Hashable], int] = {}
        ids = [seen.setdefault((ids[i], units[i + k]), len(seen)) for i in range(len(units) - k)]
    return 1.0 - len(set(ids)) / total


@register_reward("repetition")
def repetition_reward(
    completions: list,
    completion_ids: list | None = None,
    *,
    ngram_size: int = 10,
    max_penalty: float = -1.0,
    **columns: Any,
) -> list[float]:
    """n-gram repetition penalty (Yeo et al., arXiv:2502.03373, appendix C.2), one value each as in open-r1:

        R = max_penalty * (1 - distinct n-grams / n-grams)

    Args:
        completions: texts or messages; lower-cased words are the units where there are no token ids.
        completion_ids: token ids per completion (a column that TRL and our trainer pass).
        ngram_size: n. Worked arithmetic repeats short phrases honestly; ten units in a row it does not.
        max_penalty: the value for a completion that is all repetition; not positive.
        columns: not read.

    Raises:
        RewardError: for an n below 1 or a positive penalty.
    """
    if ngram_size < 1 or max_penalty > 0:
        raise RewardError("repetition_reward: ngram_size must be at least 1 and max_penalty at most 0")
    units = completion_ids
    if units is None:
        units = [completion_text(completion).lower().split() for completion in completions]
    return [max_penalty * repeated_share(unit, ngram_size) for unit in units]
