"""The policy loss: ratio x surrogate x weight x KL x aggregation, each a small registered function.

    loss = - aggregate_it( w_it surrogate(rho_it, A_it) - beta kl_it ) - c mean_it( H_it )

    rho_it = exp(logp_it - old_logp_it)                                          ratio "token"
    surrogate = min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A)               surrogate "clip"
    w_it = 1                                                                     weight: see weights.py
    kl_it = exp(ref_it - logp_it) - (ref_it - logp_it) - 1                       kl "k3"
    aggregate = mean over tokens of a completion, then over completions          aggregation "sequence_mean"
    c = 0                                                                        entropy_bonus; H_it: entropy

That is GRPO (arXiv:2402.03300, eq. 3 and 4). Every other published variant here changes some of these functions, and
a preset (`presets.py`) is a combination of them. A surrogate and a weight of your own are named by their import path,
`loss.surrogate: my_module:quadratic` and `loss.weight: ["my_module:rare"]`:

    def quadratic(ratio, advantages, logps, config, strength=1.0):  # [B, T] each; strength from `loss.args`
        return ratio * advantages - strength * advantages.abs() * (ratio - 1) ** 2  # [B, T], to be maximised

    def rare(tokens, most=0.9):  # `weights.Tokens` of [B, T] each; most from `args`
        return tokens.logps.exp() < most  # [B, T], float or bool; no gradient flows through it
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grpo.presets import PRESETS, LossConfig
from grpo.registry import named, register
from grpo.weights import MAX_LOG_RATIO, Tokens, product, register_weight

__all__ = ["PRESETS", "Counts", "LossConfig", "policy_loss", "register_surrogate", "register_weight", "token_loss"]

# ---- ratio: (logps, old_logps, advantages, mask [B, T] each, config) -> [B, T] -------------------------------


def token_ratio(logps: Tensor, old_logps: Tensor, *_: Any) -> Tensor:
    """rho_it = exp(logp_it - old_logp_it). [B, T]."""
    return (logps - old_logps).clamp(max=MAX_LOG_RATIO).exp()


def sequence_ratio(logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """GSPO, arXiv:2507.18071 eq. 7 and 14: s_i = exp(mean_t(logp_it - old_logp_it)) for every token of i.

    The value is s_i; the gradient of token t is s_i * d logp_it (straight through), so that advantages may
    differ between tokens. So with weights that differ between tokens this is GSPO-token (section 4.3). [B, T].
    """
    return _mean_ratio(logps - old_logps, mask)


def geometric_ratio(logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """GMPO, arXiv:2507.20673: the same mean, of log-ratios that are clipped before it, token by token.

    Where A > 0 they are at most log(1 + eps_high), else at least log(1 - eps_low), so the surrogate need not clip.
    """
    log_ratio = logps - old_logps
    low = math.log(max(1 - config.eps_low, 1e-9))  # eps_low = 1: no lower bound
    clipped = torch.where(advantages > 0, log_ratio.clamp(max=math.log(1 + config.eps_high)), log_ratio.clamp(min=low))
    return _mean_ratio(clipped, mask)


def _mean_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """exp(mean_t log_ratio_it), with the gradient of each token's own log-ratio. [B, T]."""
    value = log_ratio.detach()
    s = (value * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)  # [B, 1]
    return s.clamp(max=MAX_LOG_RATIO).exp() * (log_ratio - value).exp()


RATIOS = {"token": token_ratio, "sequence": sequence_ratio, "geometric": geometric_ratio}

# ---- surrogate: the per-token objective, to be maximised ----------------------------------------------------

Surrogate = Callable[..., Tensor]  # (ratio [B, T], advantages [B, T], logps [B, T], config) -> objective [B, T]


def clip(ratio: Tensor, advantages: Tensor, logps: Tensor, config: LossConfig) -> Tensor:
    """PPO, arXiv:1707.06347 eq. 7: min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A), `min` for both signs of A.

    For A < 0 nothing bounds rho from above: one token whose probability has grown tenfold has ten times the gradient.
    `delta` bounds it. Tokens with a ratio above delta then get no gradient (`clip_fraction_delta`).
    """
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
register_surrogate = functools.partial(register, SURROGATES)


def get_surrogate(config: LossConfig) -> Surrogate:
    """The surrogate that `config` names, with its further arguments. Raises ValueError where there is none."""
    return named("surrogate", config.surrogate, SURROGATES, config.args)


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

# ---- aggregation: from a value per token to one number ------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """What a sum over tokens is divided by: counts of a whole mini-batch, before it is cut into micro-batches. Where
    mini-batches differ in size, they are those of an average one (`trainer.count`)."""

    tokens: float
    """Sampled tokens that are learned from."""
    sequences: float
    """N: completions that are learned from."""
    max_length: int
    """L_max: the length limit of a completion in tokens."""


def sequence_mean(x: Tensor, mask: Tensor, counts: Counts) -> Tensor:
    """GRPO: 1/N sum_i 1/|o_i| sum_t x_it."""
    return ((x * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sum() / counts.sequences


def token_mean(x: Tensor, mask: Tensor, counts: Counts) -> Tensor:
    """DAPO: 1 / (sum_i |o_i|) sum_i sum_t x_it, over all tokens of the mini-batch."""
    return (x * mask).sum() / counts.tokens


def constant(x: Tensor, mask: Tensor, counts: Counts) -> Tensor:
    """Dr. GRPO: 1 / (N L_max) sum_i sum_t x_it; a completion's length does not weigh its tokens."""
    return (x * mask).sum() / (counts.sequences * counts.max_length)


def sequence_sum(x: Tensor, mask: Tensor, counts: Counts) -> Tensor:
    """LUSPO, arXiv:2602.05261: 1/N sum_i |o_i| mean_t x_it, so that a long completion is not weighed down."""
    return (x * mask).sum() / counts.sequences


AGGREGATIONS = {f.__name__: f for f in (sequence_mean, token_mean, constant, sequence_sum)}

# ---- the loss -----------------------------------------------------------------------------------------------


def token_loss(tokens: Tokens, config: LossConfig, counts: Counts) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a micro-batch; the sum over all micro-batches is the loss of the mini-batch that `counts` counts.

    Returns the loss, and the values of each token that are logged (`token_values`). Raises ValueError if a term needs
    log-probs of the reference, or entropies, that are not there.
    """
    detached = tokens.detach()
    ratio = RATIOS[config.ratio](tokens.logps, tokens.old, tokens.advantages, tokens.mask, config)  # [B, T]
    weight = product(config.weight, detached)  # [B, T]
    objective = weight * get_surrogate(config)(ratio, tokens.advantages, tokens.logps, config)  # [B, T]
    objective = torch.where(tokens.mask, objective, 0.0)  # a surrogate of yours may be infinite in an empty slot
    if config.beta and config.kl_in == "loss":
        if tokens.reference is None:
            raise ValueError(f"beta = {config.beta} with the KL in the loss needs ref_logps; got None")
        kl = KL_ESTIMATORS[config.kl](tokens.logps, tokens.reference)  # [B, T]
        objective = objective - config.beta * (kl * token_ratio(tokens.logps, tokens.old) if config.kl_ratio else kl)
    loss = AGGREGATIONS[config.aggregation](-objective, tokens.mask, counts)
    if config.entropy_bonus:
        if tokens.entropy is None:
            raise ValueError(f"entropy_bonus = {config.entropy_bonus} needs entropy; got None")
        loss = loss - config.entropy_bonus * tokens.entropy.sum() / counts.tokens
    return loss, token_values(ratio.detach() * tokens.mask, weight, detached, config)


def token_values(ratio: Tensor, weight: Tensor, tokens: Tokens, config: LossConfig) -> dict[str, Tensor]:
    """What is logged of each token, [B, T] each: ratio, KL, weight, whether the ratio is beyond the clip range on the
    side of its advantage, and whether the token has no gradient for that (`clipped`, known of the surrogate `clip`)."""
    clipped = token_ratio(tokens.logps, tokens.old) if config.ratio == "geometric" else ratio
    bad, good = (tokens.advantages < 0) & tokens.mask, (tokens.advantages > 0) & tokens.mask
    values = {"clip_fraction_low": (clipped < 1 - config.eps_low) & bad}
    values["clip_fraction_high"] = (clipped > 1 + config.eps_high) & good
    if config.delta is not None:
        values["clip_fraction_delta"] = (ratio > config.delta) & bad
    values["clipped"] = sum(x.float() for x in values.values()) * (config.surrogate == "clip")
    values["ratio"] = ratio
    if config.weight:
        values["weight"] = weight
    if tokens.reference is not None:
        values["kl"] = k3(tokens.logps, tokens.reference)
    if tokens.entropy is not None:
        values["entropy"] = tokens.entropy
    return values


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
    sampler_logps: Tensor | None = None,
    entropy: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`token_loss` for tensors of yours: the loss of one micro-batch, and its metrics.

    logps, old_logps, ref_logps: [B, T] fp32 log-probs of the sampled tokens, in nats (ref_logps may be None when
    beta is 0). advantages: [B] or [B, T]. mask: [B, T] bool, true at sampled tokens, the EOS included. Masked slots may
    hold anything, NaN and inf included.
    num_tokens, num_sequences: counts of the global batch (default: of this one, rows with an empty mask included). The
    aggregation `constant` divides by `config.max_length` too (default: T, where the batch is in one piece).
    sampler_logps, entropy: for weights, see `Tokens`; without the first, the sampler is the old policy.

    Returns (loss, metrics). Metrics are detached scalars that add up over micro-batches like the loss, except
    `ratio_max` (take the maximum). Raises ValueError if a term needs ref_logps, entropy or a length that is not there.
    """
    if config.aggregation == "constant" and not config.max_length and (num_tokens or num_sequences):
        raise ValueError("the aggregation constant over several micro-batches, whose widths differ, needs max_length")
    tokens = Tokens.of(
        mask, logps=logps, old=old_logps, sampler=old_logps if sampler_logps is None else sampler_logps,
        reference=ref_logps, entropy=entropy, advantages=advantages,
    )  # fmt: skip
    num_tokens = mask.sum().clamp(min=1) if num_tokens is None else num_tokens
    num_sequences = mask.shape[0] if num_sequences is None else num_sequences
    counts = Counts(num_tokens, num_sequences, config.length_divisor(mask.shape[1]))
    loss, values = token_loss(tokens, config, counts)
    return loss, token_means(values, num_tokens)


def token_means(values: dict[str, Tensor], num_tokens: float) -> dict[str, Tensor]:
    """The metrics of a micro-batch, whose sum is the mean over `num_tokens`; `ratio_max` is the largest of its own."""
    means = {name: x.sum() / num_tokens for name, x in values.items() if name != "clipped"}
    return means | {"ratio_max": values["ratio"].max()}
