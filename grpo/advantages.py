"""Group-normalised advantages: how much better a completion is than its siblings.

    r_i = sum_k w_k r_ik                                        total reward of completion i
    A_i = (r_i - mean(r)) / (std(r) + eps)                      over the G completions of one prompt; std: of G - 1

Sources: GRPO, arXiv:2402.03300 (section 4.1); Dr. GRPO, arXiv:2503.20783; RLOO, arXiv:2402.14740;
GDPO, arXiv:2601.05242; MaxRL, arXiv:2602.02710; batch-level std, arXiv:2508.08221.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-4  # the constant of the published implementations; far below any reward's natural spread


def total_reward(rewards: Tensor, weights: Tensor) -> Tensor:
    """r_i = sum_k w_k r_ik, where NaN means "this reward does not apply" and adds nothing.

    rewards: [N, K], weights: [K]. Returns [N], NaN for a completion to which no reward applies: it has no total, which
    is not the same as a total of 0, and stays out of its group's mean and spread.
    """
    total = (rewards.nan_to_num(nan=0.0) * weights).sum(dim=1)  # [N]
    return total.masked_fill(unscored(rewards), torch.nan)


def unscored(rewards: Tensor) -> Tensor:
    """Completions to which no reward applies, as one whose scoring was killed: bool [N]. rewards: [N, K]."""
    return rewards.isnan().all(dim=1)


def _std(x: Tensor) -> Tensor:
    """Standard deviation (G - 1) along the last axis, kept; NaN entries stay out of it. 0 for a single value."""
    squares = (x - x.nanmean(dim=-1, keepdim=True)).nan_to_num(nan=0.0).square().sum(dim=-1, keepdim=True)
    return (squares / ((~x.isnan()).sum(dim=-1, keepdim=True) - 1).clamp(min=1)).sqrt()


def _standardise(x: Tensor) -> Tensor:
    """(x - mean) / (std + eps) along the last axis; NaN entries stay out of both, and become 0."""
    return ((x - x.nanmean(dim=-1, keepdim=True)) / (_std(x) + EPS)).nan_to_num(nan=0.0)


def _group(rewards: Tensor, weights: Tensor, group_size: int) -> Tensor:
    """GRPO: A_i = (r_i - mean(r)) / (std(r) + eps) in the group."""
    return _standardise(total_reward(rewards, weights).view(-1, group_size)).flatten()


def _none(rewards: Tensor, weights: Tensor, group_size: int) -> Tensor:
    """Dr. GRPO: A_i = r_i - mean(r), no division by the spread, which favours too easy and too hard prompts."""
    r = total_reward(rewards, weights).view(-1, group_size)  # [P, G]
    return (r - r.nanmean(dim=1, keepdim=True)).nan_to_num(nan=0.0).flatten()


def _batch(rewards: Tensor, weights: Tensor, group_size: int) -> Tensor:
    """A_i = (r_i - mean(r in the group)) / (std(r in the batch) + eps)."""
    return _none(rewards, weights, group_size) / (_std(total_reward(rewards, weights)) + EPS)


def _rloo(rewards: Tensor, weights: Tensor, group_size: int) -> Tensor:
    """RLOO: A_i = r_i - mean of the *other* completions' rewards = G / (G - 1) (r_i - mean(r))."""
    scored = (~unscored(rewards)).view(-1, group_size)  # [P, G]
    n = scored.sum(dim=1, keepdim=True).clamp(min=2).expand_as(scored).flatten()  # [N]: G, less those without a score
    return _none(rewards, weights, group_size) * n / (n - 1)


def _gdpo(rewards: Tensor, weights: Tensor, group_size: int) -> Tensor:
    """GDPO: standardise each reward in its group, sum with the weights, standardise over the batch."""
    groups = rewards.view(-1, group_size, rewards.shape[1]).transpose(1, 2)  # [P, K, G]
    per_reward = _standardise(groups).transpose(1, 2).reshape(rewards.shape)  # [N, K]
    return _standardise((per_reward * weights).sum(dim=1).masked_fill(unscored(rewards), torch.nan))


def _maxrl(rewards: Tensor, weights: Tensor, group_size: int) -> Tensor:
    """MaxRL: A_i = (r_i - mean(r)) / mean(r), for rewards of 0 and 1; 0 where none succeeds (mean <= eps)."""
    r = total_reward(rewards, weights).view(-1, group_size)  # [P, G]
    if (r < 0).any():
        raise ValueError(f"the advantage maxrl needs total rewards of at least 0; one is {r[r < 0].min().item():.3g}")
    mean = r.nanmean(dim=1, keepdim=True)
    return torch.where(mean > EPS, (r - mean) / mean, 0.0).nan_to_num(nan=0.0).flatten()


ADVANTAGES = {"group": _group, "none": _none, "batch": _batch, "rloo": _rloo, "gdpo": _gdpo, "maxrl": _maxrl}


def group_advantages(rewards: Tensor, weights: Tensor, group_size: int, normalise: str = "group") -> Tensor:
    """Advantage of each completion relative to its group.

    rewards: [N, K] fp32, K reward functions, NaN where one does not apply; the rows of a group are adjacent.
    weights: [K]. group_size: G, at least 2, divides N. normalise: `group` (GRPO), `none` (Dr. GRPO), `batch`,
    `rloo`, `gdpo`, `maxrl`. Returns [N] fp32. Raises ValueError for an unknown variant, sizes that do not fit, and
    with `maxrl` for a total reward below 0.
    """
    if normalise not in ADVANTAGES:
        raise ValueError(f"unknown advantage {normalise!r}; choose one of {', '.join(ADVANTAGES)}")
    if group_size < 2 or rewards.shape[0] % group_size:
        raise ValueError(f"{rewards.shape[0]} rewards cannot form groups of {group_size} (at least 2 a group)")
    return ADVANTAGES[normalise](rewards.float(), weights.float(), group_size)


def zero_spread(rewards: Tensor, weights: Tensor, group_size: int, normalise: str = "group") -> Tensor:
    """Groups whose completions all earned the same, so that their advantage is 0. Returns bool [P].

    With a KL in the loss they would still pull the policy to the reference.

    `gdpo` looks at each reward on its own, so there a group counts only if every weighted reward is flat.
    """
    if normalise == "gdpo":
        r = (rewards * weights).view(-1, group_size, rewards.shape[1])  # [P, G, K]
    else:
        r = total_reward(rewards, weights).view(-1, group_size, 1)  # [P, G, 1]
    highest, lowest = r.nan_to_num(nan=-torch.inf).amax(dim=1), r.nan_to_num(nan=torch.inf).amin(dim=1)
    width = highest - lowest  # [P, K or 1]; -inf where a reward applies to none of the group
    return (width < 1e-6).all(dim=1)  # far above the rounding of a sum of rewards


def spread(rewards: Tensor, weights: Tensor, group_size: int) -> float:
    """Mean over the groups of the std of the total reward: the signal that GRPO learns from."""
    return _std(total_reward(rewards, weights).view(-1, group_size)).mean().item()
