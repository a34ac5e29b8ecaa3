"""Weights w_it of the policy term: detached functions of what is known of each token, multiplied into its surrogate.

    objective_it = w_it * surrogate_it - beta * kl_it        w_it: product of the weights that `loss.weight` names, or 1

A weight gets `Tokens` and returns [B, T], float, or bool for a mask. It is a constant for the gradient, and masked
tokens still count in the normaliser. Yours is named by its import path, `loss.weight: [{name: "my_module:rare"}]`:

    def rare(tokens, most=0.9):
        return tokens.logps.exp() < most
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0  # exp(20) = 5e8: far outside any clip range, far inside fp32


@dataclass(frozen=True)
class Tokens:
    """The tokens of a micro-batch as a weight sees them: [B, T] each, detached, 0 where the mask is false.

    logps, old, sampler, reference: log-probs in nats under the policy that is trained, the one that began the rollout
    (computed as in training), as the sampler saw them (`old` where that is not known), and under the frozen reference.
    entropy: of the distribution that the token was drawn from, in nats, under the policy that is trained.
    batch_entropy: [M] entropies of all tokens of the batch before its first update; None: the micro-batch is the batch.
    """

    logps: Tensor
    old: Tensor
    sampler: Tensor
    reference: Tensor | None
    entropy: Tensor | None
    advantages: Tensor
    mask: Tensor
    batch_entropy: Tensor | None = None


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
    """arXiv:2506.01939: 1 for the `share` of the batch's tokens of highest entropy, else 0."""
    if tokens.entropy is None:
        raise ValueError("top_entropy needs entropy; got None")
    every = tokens.entropy[tokens.mask] if tokens.batch_entropy is None else tokens.batch_entropy  # [M]
    rank = 1 + math.ceil((1 - share) * (len(every) - 1))
    return tokens.entropy >= (every.kthvalue(rank).values if len(every) else 0.0)


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


WEIGHTS: dict[str, Callable[..., Tensor]] = {
    "tis": tis,
    "mis": mis,
    "opsm": opsm,
    "top_entropy": top_entropy,
    "dppo": dppo,
}


def register(known: dict[str, Callable], name: str) -> Callable[[Callable], Callable]:
    """Decorator that makes a function available under `name` to a program that imports it; the latest one counts."""
    return lambda function: known.update({name: function}) or function


register_weight = functools.partial(register, WEIGHTS)


def named(kind: str, name: str, known: dict[str, Callable], args: dict[str, Any]) -> Callable:
    """The function of that name or import path, with further arguments bound. Raises ValueError where there is none."""
    module, _, function = name.partition(":")
    try:
        found = known[name] if name in known else getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        choices = ", ".join(known)
        raise ValueError(f"unknown {kind} {name!r} ({error}); choose {choices} or `module:function`") from None
    return functools.partial(found, **args)


def product(weights: tuple[Any, ...], tokens: Tokens) -> Tensor:
    """w_it, the product of the weights, without gradient: fp32 [B, T], 1 where none is named, 0 outside the mask.

    weights: names, or `{name: ..., args: {...}}`. Raises ValueError for one that does not exist or is of another shape.
    """
    total = tokens.mask.float()  # [B, T]
    for weight in weights:
        entry = {"name": weight} if isinstance(weight, str) else weight
        if not isinstance(entry, dict) or not {"name"} <= entry.keys() <= {"name", "args"}:
            raise ValueError(f"a weight is a name, or {{name: ..., args: {{...}}}}, not {weight!r}")
        function = named("weight", str(entry["name"]), WEIGHTS, entry.get("args", {}))
        with torch.no_grad():
            value = function(tokens)
        if not isinstance(value, Tensor) or value.shape != total.shape:
            shown = list(value.shape) if isinstance(value, Tensor) else repr(value)
            raise ValueError(f"a weight must return a tensor [B, T], a value for each token; it made {shown}")
        total = total * torch.where(tokens.mask, value.float(), 0.0)
    return total


def check_weights(weights: tuple[Any, ...]) -> None:
    """Try the weights on two completions of three tokens. Raises what `product` and the functions raise."""
    x = torch.full((2, 3), -1.0)
    product(weights, Tokens(x, x, x, x, -x, torch.tensor([[1.0], [-1.0]]).expand(2, 3), x < 0))
