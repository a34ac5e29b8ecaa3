"""Weights w_it of the policy term: detached functions of what is known of each token, multiplied into its surrogate.

    objective_it = w_it * surrogate_it - beta * kl_it        w_it: product of the weights that `loss.weight` names, or 1

A weight gets `Tokens` and returns [B, T], float, or bool for a mask. It is a constant for the gradient. A token of
weight 0 still counts in the normaliser. Yours is named by its import path, `loss.weight: [{name: "my_module:rare"}]`:

    def rare(tokens, most=0.9):
        return tokens.logps.exp() < most
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from grpo.registry import named, register

MAX_LOG_RATIO = 20.0  # exp(20) = 5e8: far outside any clip range, far inside fp32


@dataclass(frozen=True)
class Tokens:
    """What a loss and a weight may look at, of the tokens of a micro-batch: [B, T] each, 0 where the mask is false.

    Log-probs are in nats.
    """

    logps: Tensor
    """Under the policy that is trained; with gradient in the loss, without in a weight."""
    old: Tensor
    """Under the policy before its first update on the batch, computed as in training."""
    sampler: Tensor
    """As the sampler saw them."""
    reference: Tensor | None
    """Under the frozen reference; None where `loss.beta` is 0."""
    entropy: Tensor | None
    """Of the distribution that the token was drawn from, in nats, under the policy that is trained."""
    advantages: Tensor
    mask: Tensor
    """bool: true at sampled tokens."""
    batch_entropy: Tensor | None = None
    """[M]: entropies of all tokens of the mini-batch, before the first update; None: the micro-batch is all of it."""

    @classmethod
    def of(cls, mask: Tensor, batch_entropy: Tensor | None = None, **values: Tensor | None) -> Tokens:
        """Tokens with 0 in all values where the mask is false. advantages may be [B], one for each completion."""
        if values["advantages"].dim() == 1:
            values["advantages"] = values["advantages"][:, None].expand(mask.shape)
        # not a product: 0 * NaN is NaN
        clean = {name: None if x is None else torch.where(mask, x, 0.0) for name, x in values.items()}
        return cls(**clean, mask=mask, batch_entropy=batch_entropy)

    def detach(self) -> Tokens:
        """The same values without gradient."""
        return replace(self, **{name: x.detach() for name, x in vars(self).items() if x is not None})


def correction(tokens: Tokens, level: str) -> Tensor:
    """pi_old / pi_sampler of each token, or their product over the completion where the level is `sequence`. [B, T]."""
    if level not in ("token", "sequence"):
        raise ValueError(f"level must be token or sequence, not {level!r}")
    log_ratio = tokens.old - tokens.sampler
    if level == "sequence":
        log_ratio = (log_ratio * tokens.mask).sum(dim=1, keepdim=True).expand_as(log_ratio)
    return log_ratio.clamp(max=MAX_LOG_RATIO).exp()


def tis(tokens: Tokens, cap: float = 2.0, floor: float = 0.0, level: str = "token") -> Tensor:
    """Truncated importance sampling: clip(pi_old / pi_sampler, floor, cap). https://fengyao.notion.site/off-policy-rl"""
    return correction(tokens, level).clamp(floor, cap)


def mis(tokens: Tokens, cap: float = 2.0, floor: float = 0.0, level: str = "token") -> Tensor:
    """Masked importance sampling: the same ratio, 0 outside [floor, cap]. IcePop is `floor: 0.5, cap: 5`."""
    ratio = correction(tokens, level)
    return ratio * ((ratio >= floor) & (ratio <= cap))


def opsm(tokens: Tokens, delta: float = 0.5) -> Tensor:
    """Off-policy sequence mask, arXiv:2512.02556 eq. 9, which leaves delta open:

    0 where A_it < 0 and mean_t(log pi_sampler - log pi) > delta, else 1.
    """
    gap = ((tokens.sampler - tokens.logps) * tokens.mask).sum(dim=1, keepdim=True)
    return (tokens.advantages >= 0) | (gap / tokens.mask.sum(dim=1, keepdim=True).clamp(min=1) <= delta)


def top_entropy(tokens: Tokens, share: float = 0.2) -> Tensor:
    """arXiv:2506.01939: 1 for the `share` of the mini-batch's tokens of highest entropy, else 0.

    What is high is decided by the entropies before the first update on the batch.
    """
    if tokens.entropy is None:
        raise ValueError("top_entropy needs entropy; got None")
    every = tokens.entropy[tokens.mask] if tokens.batch_entropy is None else tokens.batch_entropy  # [M]
    rank = 1 + math.ceil((1 - share) * (len(every) - 1))
    return tokens.entropy >= every.kthvalue(rank).values


def dppo(tokens: Tokens, divergence: str = "tv", delta: float = 0.15) -> Tensor:
    """DPPO, arXiv:2602.04879 eq. 12 to 14; p = pi(o_it), q = pi_sampler(o_it). delta there: tv .15 to .2, kl .05.

    0 where D > delta and the update would move p further from q: A > 0 and p > q, or A < 0 and p < q; else 1.
    D = |q - p| (tv), or q log(q / p) + (1 - q) log((1 - q) / (1 - p)) (kl), of "this token or another".
    """
    p, q = tokens.logps.exp(), tokens.sampler.exp()
    if divergence == "tv":
        distance = (q - p).abs()
    elif divergence == "kl":
        others = ((1 - q).clamp(min=1e-8) / (1 - p).clamp(min=1e-8)).log()
        distance = q * (tokens.sampler - tokens.logps) + (1 - q) * others
    else:
        raise ValueError(f"divergence must be tv or kl, not {divergence!r}")
    return ~((distance > delta) & (tokens.advantages * (p - q) > 0))


def rollout_ratio(tokens: Tokens, cap: float = 5.0) -> Tensor:
    """DPPO's importance weight, arXiv:2602.04879 eq. 12: min(pi / pi_sampler, cap), of the policy that is trained.

    With the surrogate `reinforce`, min(pi / pi_sampler, cap) A log pi. (`tis` is pi_old / pi_sampler.)
    """
    return (tokens.logps - tokens.sampler).clamp(max=MAX_LOG_RATIO).exp().clamp(max=cap)


WEIGHTS: dict[str, Callable[..., Tensor]] = {f.__name__: f for f in (tis, mis, opsm, top_entropy, dppo, rollout_ratio)}
LOCAL = {tis, mis, opsm, dppo, rollout_ratio}
"""Weights that look at nothing but the completion that a token is in."""


def needs_batch_entropy(weights: tuple[Any, ...]) -> bool:
    """Whether a weight may look at `Tokens.batch_entropy`. It costs one more forward pass. A weight of your own is
    assumed to look at it."""
    return any(WEIGHTS.get(name_of(weight)) not in LOCAL for weight in weights)


def name_of(weight: Any) -> str:
    """The name, or the import path, in an entry of `loss.weight`. Raises ValueError for an entry of another form."""
    if isinstance(weight, str):
        return weight
    if not isinstance(weight, dict) or not {"name"} <= weight.keys() <= {"name", "args"}:
        raise ValueError(f"a weight is a name, or {{name: ..., args: {{...}}}}, not {weight!r}")
    return str(weight["name"])


register_weight = functools.partial(register, WEIGHTS)


def product(weights: tuple[Any, ...], tokens: Tokens) -> Tensor:
    """w_it, the product of the weights, without gradient: fp32 [B, T], 1 where none is named, 0 outside the mask.

    weights: names, or `{name: ..., args: {...}}`. Raises ValueError for one that does not exist or is of another shape.
    """
    total = tokens.mask.float()  # [B, T]
    if not tokens.mask.any():  # of several processes, one that has no micro-batch left: no weight is asked
        return total
    for weight in weights:
        name = name_of(weight)
        function = named("weight", name, WEIGHTS, {} if name is weight else weight.get("args", {}))
        with torch.no_grad():
            value = function(tokens)
        if not isinstance(value, Tensor) or value.shape != total.shape:
            shown = list(value.shape) if isinstance(value, Tensor) else repr(value)
            raise ValueError(f"a weight must return a tensor [B, T], a value for each token; it made {shown}")
        total = total * torch.where(tokens.mask, value.float(), 0.0)
    return total
