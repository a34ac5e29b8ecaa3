"""The policy loss: ratio x surrogate x aggregation x KL, each a small registered function.

    loss = - aggregate_it( surrogate(rho_it, A_i) - beta * kl_it )

    rho_it = exp(logp_it - old_logp_it)                                          ratio "token"
    surrogate = min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A)               surrogate "clip"
    kl_it = exp(ref_it - logp_it) - (ref_it - logp_it) - 1                       kl "k3"
    aggregate = mean over tokens of a completion, then over completions          aggregation "sequence_mean"

That is GRPO (arXiv:2402.03300, eq. 3 and 4). Every other published variant here changes some of the four functions, and
a preset is a combination of them. To try a surrogate of your own, write a function and name it by its import path,
`loss.surrogate: my_module:quadratic`; its further arguments are `loss.args`:

    def quadratic(ratio, advantages, logps, config, strength=1.0):
        return ratio * advantages - strength * advantages.abs() * (ratio - 1) ** 2
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0  # exp(20) = 5e8: far outside any clip range, far inside fp32


@dataclass(frozen=True)
class LossConfig:
    """One point in the space of policy losses; `PRESETS` names the published ones."""

    advantage: str = "group"
    """How rewards become advantages: group, none (Dr. GRPO), batch, rloo, gdpo. See `advantages.py`."""
    ratio: str = "token"
    """Importance ratio per `token`, or per `sequence` (GSPO)."""
    surrogate: str = "clip"
    """clip, reinforce, cispo, sapo, or the import path of your own, `module:function`."""
    args: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of your own surrogate."""
    eps_low: float = 0.2
    """Lower clip distance: the ratio is clipped at 1 - eps_low."""
    eps_high: float = 0.2
    """Upper clip distance: the ratio is clipped at 1 + eps_high (DAPO's clip-higher: 0.28)."""
    delta: float | None = None
    """Upper bound of the ratio where A < 0, which `min` leaves open (two-sided clip, arXiv:2505.07291)."""
    tau_pos: float = 1.0
    """SAPO's gate temperature where A > 0."""
    tau_neg: float = 1.05
    """SAPO's gate temperature where A <= 0."""
    kl: str = "k3"
    """Estimator of KL(policy || reference): k1, k2 or k3."""
    kl_in: str = "loss"
    """Where the KL acts: `loss` (per token, differentiated) or `reward` (per completion, not differentiated)."""
    beta: float = 0.04
    """Weight of the KL. 0 needs no reference model at all."""
    aggregation: str = "sequence_mean"
    """sequence_mean (GRPO), token_mean (DAPO), constant (Dr. GRPO)."""
    max_length: int | None = None
    """Length divisor of `constant`, in tokens; null: the sampler's max_new_tokens."""


PRESETS: dict[str, LossConfig] = {
    "grpo": LossConfig(),  # arXiv:2402.03300
    "dr_grpo": LossConfig(advantage="none", beta=0.0, aggregation="constant"),  # arXiv:2503.20783
    "dapo": LossConfig(eps_high=0.28, beta=0.0, aggregation="token_mean"),  # arXiv:2503.14476
    "gspo": LossConfig(ratio="sequence", eps_low=3e-4, eps_high=4e-4, beta=0.0),  # arXiv:2507.18071
    # arXiv:2506.13585; its lower bound is off
    "cispo": LossConfig(surrogate="cispo", eps_low=1.0, eps_high=4.0, beta=0.0, aggregation="token_mean"),
    "sapo": LossConfig(surrogate="sapo", beta=0.0),  # arXiv:2511.20347
    "rloo": LossConfig(  # arXiv:2402.14740
        advantage="rloo", surrogate="reinforce", kl="k1", kl_in="reward", beta=0.05, aggregation="constant"
    ),
    "reinforce": LossConfig(advantage="none", surrogate="reinforce", beta=0.0, aggregation="token_mean"),
}

# ---- ratio ------------------------------------------------------------------------------------------------


def token_ratio(logps: Tensor, old_logps: Tensor, mask: Tensor) -> Tensor:
    """rho_it = exp(logp_it - old_logp_it). [B, T]."""
    return (logps - old_logps).clamp(max=MAX_LOG_RATIO).exp()


def sequence_ratio(logps: Tensor, old_logps: Tensor, mask: Tensor) -> Tensor:
    """GSPO, arXiv:2507.18071 eq. 7 and 14: s_i = exp(mean_t(logp_it - old_logp_it)) for every token of i.

    The value is s_i; the gradient of token t is s_i * d logp_it (straight through), so that advantages may
    differ between tokens. [B, T].
    """
    log_ratio = (logps - old_logps).detach()
    s = (log_ratio * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)  # [B, 1]
    return s.clamp(max=MAX_LOG_RATIO).exp() * (logps - logps.detach()).exp()


RATIOS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"token": token_ratio, "sequence": sequence_ratio}

# ---- surrogate: the per-token objective, to be maximised ----------------------------------------------------

Surrogate = Callable[..., Tensor]  # (ratio [B, T], advantages [B, T], logps [B, T], config) -> objective [B, T]


def clip(ratio: Tensor, advantages: Tensor, logps: Tensor, config: LossConfig) -> Tensor:
    """PPO, arXiv:1707.06347 eq. 7: min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A), `min` for both signs of A."""
    clipped = ratio.clamp(1 - config.eps_low, 1 + config.eps_high)
    bounded = ratio if config.delta is None else ratio.clamp(max=config.delta)
    return torch.minimum(bounded * advantages, clipped * advantages)


def reinforce(ratio: Tensor, advantages: Tensor, logps: Tensor, config: LossConfig) -> Tensor:
    """A log pi: the plain policy gradient, right only on-policy (no importance correction)."""
    return advantages * logps


def cispo(ratio: Tensor, advantages: Tensor, logps: Tensor, config: LossConfig) -> Tensor:
    """CISPO, arXiv:2506.13585 eq. 4: sg(clip(rho)) A log pi; the *weight* is clipped, no token loses its gradient."""
    weight = ratio.detach().clamp(1 - config.eps_low, 1 + config.eps_high)
    return weight * advantages * logps


def sapo(ratio: Tensor, advantages: Tensor, logps: Tensor, config: LossConfig) -> Tensor:
    """SAPO, arXiv:2511.20347 eq. 6: (4 / tau) sigmoid(tau (rho - 1)) A, a soft gate in place of the clip."""
    tau = torch.where(advantages > 0, config.tau_pos, config.tau_neg)
    return torch.sigmoid(tau * (ratio - 1)) * (4 / tau) * advantages


SURROGATES: dict[str, Surrogate] = {"clip": clip, "reinforce": reinforce, "cispo": cispo, "sapo": sapo}


def get_surrogate(config: LossConfig) -> Surrogate:
    """The surrogate that `config` names, with its further arguments. Raises ValueError where there is none."""
    name, (module, _, function) = config.surrogate, config.surrogate.partition(":")
    try:
        found = SURROGATES[name] if name in SURROGATES else getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        known = ", ".join(SURROGATES)
        raise ValueError(f"unknown surrogate {name!r} ({error}); choose {known} or `module:function`") from None
    return functools.partial(found, **config.args)


def check_surrogate(config: LossConfig) -> None:
    """Try the surrogate on two completions of three tokens.

    Raises ValueError unless it gives each token a value, in the type of the log-probs, that depends on the log-probs.
    """
    logps = torch.full((2, 3), -1.0, requires_grad=True)
    ratio, advantages = (logps + 1).exp(), torch.tensor([[1.0], [-1.0]]).expand(2, 3)
    objective = get_surrogate(config)(ratio, advantages, logps, config)
    if not isinstance(objective, Tensor) or (objective.shape, objective.dtype) != (logps.shape, logps.dtype):
        shown = f"{objective.dtype} {list(objective.shape)}" if isinstance(objective, Tensor) else repr(objective)
        raise ValueError(f"it must return a float32 tensor [B, T], a value for each token: of [2, 3] it made {shown}")
    gradient = torch.autograd.grad(objective.sum(), logps, allow_unused=True)[0] if objective.requires_grad else None
    if gradient is None or not gradient.any():
        raise ValueError("what it returns does not depend on the log-probs, so nothing would be learned")


# ---- KL(policy || reference), estimated per token (http://joschu.net/blog/kl-approx.html) -------------------


def k1(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """logp - ref: unbiased value; *in the loss* its expected on-policy gradient is zero."""
    return logps - ref_logps


def k2(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """(logp - ref)^2 / 2: biased value, but its on-policy gradient is that of the reverse KL."""
    return 0.5 * (logps - ref_logps).square()


def k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """exp(ref - logp) - (ref - logp) - 1: unbiased and never negative; its gradient is that of the forward KL."""
    log_ratio = (ref_logps - logps).clamp(max=MAX_LOG_RATIO)
    return log_ratio.exp() - log_ratio - 1


KL_ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}

# ---- aggregation: from per-token values to one number, with the counts of the GLOBAL batch ------------------


def sequence_mean(x: Tensor, mask: Tensor, num_tokens: float, num_sequences: float, max_length: int) -> Tensor:
    """GRPO: 1/N sum_i 1/|o_i| sum_t x_it."""
    return ((x * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sum() / num_sequences


def token_mean(x: Tensor, mask: Tensor, num_tokens: float, num_sequences: float, max_length: int) -> Tensor:
    """DAPO: 1 / (sum_i |o_i|) sum_i sum_t x_it, over all tokens of the global batch."""
    return (x * mask).sum() / num_tokens


def constant(x: Tensor, mask: Tensor, num_tokens: float, num_sequences: float, max_length: int) -> Tensor:
    """Dr. GRPO: 1 / (N L_max) sum_i sum_t x_it; a completion's length does not weigh its tokens."""
    return (x * mask).sum() / (num_sequences * max_length)


AGGREGATIONS = {"sequence_mean": sequence_mean, "token_mean": token_mean, "constant": constant}

# ---- the loss -----------------------------------------------------------------------------------------------


def policy_loss(
    logps: Tensor,
    old_logps: Tensor,
    ref_logps: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    config: LossConfig,
    *,
    num_tokens: float | None = None,
    num_sequences: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The policy loss of one micro-batch, so normalised that the sum over micro-batches is the whole batch's loss.

    logps, old_logps, ref_logps: [B, T] fp32 log-probs of the sampled tokens, in nats (ref_logps may be None when
    beta is 0 or the KL is in the reward). advantages: [B] or [B, T]. mask: [B, T] bool, true at sampled tokens,
    the EOS included. Masked slots may hold anything, NaN and inf included.
    num_tokens, num_sequences: counts of the global batch (default: of this one, rows with an empty mask included).

    Returns (loss, metrics). Metrics are detached scalars that add up over micro-batches like the loss, except
    `ratio_max` (take the maximum). Raises ValueError if beta needs ref_logps that are not there.
    """
    num_tokens = mask.sum().clamp(min=1) if num_tokens is None else num_tokens
    num_sequences = mask.shape[0] if num_sequences is None else num_sequences
    if advantages.dim() == 1:
        advantages = advantages[:, None].expand_as(logps)  # [B, T]
    # `where`, not a product: 0 * NaN is NaN, in the value and in the gradient
    logps, old_logps, advantages = (torch.where(mask, x, 0.0) for x in (logps, old_logps, advantages))

    ratio = RATIOS[config.ratio](logps, old_logps, mask)  # [B, T]
    objective = get_surrogate(config)(ratio, advantages, logps, config)  # [B, T]
    metrics = _metrics(ratio.detach(), advantages, mask, config, num_tokens)
    if config.beta and config.kl_in == "loss":
        if ref_logps is None:
            raise ValueError(f"beta = {config.beta} with the KL in the loss needs ref_logps; got None")
        kl = KL_ESTIMATORS[config.kl](logps, torch.where(mask, ref_logps, 0.0))  # [B, T]
        objective = objective - config.beta * kl
    if ref_logps is not None:
        metrics["kl"] = (k3(logps.detach(), torch.where(mask, ref_logps, 0.0)) * mask).sum() / num_tokens

    aggregate = AGGREGATIONS[config.aggregation]
    loss = aggregate(-objective, mask, num_tokens, num_sequences, config.max_length or mask.shape[1])
    return loss, metrics


def _metrics(ratio: Tensor, advantages: Tensor, mask: Tensor, config: LossConfig, num_tokens: float) -> dict:
    """Shares of the batch's tokens whose gradient the clip cuts off, and the ratio itself."""
    low = (ratio < 1 - config.eps_low) & (advantages < 0) & mask
    high = (ratio > 1 + config.eps_high) & (advantages > 0) & mask
    metrics = {
        "clip_fraction_low": low.sum() / num_tokens,
        "clip_fraction_high": high.sum() / num_tokens,
        "ratio": (ratio * mask).sum() / num_tokens,
        "ratio_max": (ratio * mask).max(),
    }
    if config.delta is not None:
        metrics["clip_fraction_delta"] = ((ratio > config.delta) & (advantages < 0) & mask).sum() / num_tokens
    return metrics
