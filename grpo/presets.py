"""The settings of a policy loss, and the published combinations of them: all that a preset means stands here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from grpo.ranges import NotNegative, Positive, PositiveInt


@dataclass(frozen=True)
class LossConfig:
    """One point in the space of policy losses; `PRESETS` names the published ones."""

    advantage: str = "group"
    """How rewards become advantages: group, none (Dr. GRPO), batch, rloo, gdpo, maxrl. See `advantages.py`."""
    ratio: str = "token"
    """Importance ratio per `token`, per `sequence` (GSPO), or `geometric` (GMPO)."""
    surrogate: str = "clip"
    """clip, reinforce, cispo, sapo, or the import path of your own, `module:function`."""
    args: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of your own surrogate."""
    weight: tuple[Any, ...] = ()
    """Weights of the tokens, multiplied: names of `weights.py` or import paths, or `{name: ..., args: {...}}`."""
    eps_low: NotNegative = 0.2
    """Lower clip distance: the ratio is clipped at 1 - eps_low."""
    eps_high: Positive = 0.2
    """Upper clip distance: the ratio is clipped at 1 + eps_high (DAPO's clip-higher: 0.28)."""
    delta: float | None = None
    """Upper bound of the ratio where A < 0, which `min` leaves open (two-sided clip, arXiv:2505.07291)."""
    tau_pos: Positive = 1.0
    """SAPO's gate temperature where A > 0."""
    tau_neg: Positive = 1.05
    """SAPO's gate temperature where A <= 0."""
    kl: str = "k3"
    """Estimator of KL(policy || reference): k1, k2 or k3."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where the KL acts: `loss` (per token, differentiated) or `reward` (per completion, not differentiated)."""
    beta: NotNegative = 0.04
    """Weight of the KL. 0 needs no reference model at all."""
    kl_ratio: bool = False
    """Multiply a KL in the loss by the token's ratio: with k3, the gradient is the reverse KL's (arXiv:2512.02556)."""
    entropy_bonus: NotNegative = 0.0
    """Weight of the policy's mean entropy per token, which is added to the objective."""
    aggregation: str = "sequence_mean"
    """sequence_mean (GRPO), token_mean (DAPO), constant (Dr. GRPO), sequence_sum (LUSPO)."""
    max_length: PositiveInt | None = None
    """Length divisor of `constant`, in tokens; null: the sampler's max_new_tokens."""

    @property
    def kl_in_reward(self) -> bool:
        """Whether the KL is a part of the reward."""
        return bool(self.beta) and self.kl_in == "reward"

    def length_divisor(self, max_new_tokens: int) -> int:
        """L_max of the aggregation `constant`, in tokens, for completions of at most `max_new_tokens`."""
        return self.max_length or max_new_tokens


# While a batch gets one update (grpo.mini_batches and grpo.updates_per_batch are 1), every ratio pi / pi_old is 1: no
# clip and no gate has an effect. Presets then differ in advantage, aggregation, KL and weights alone. Of the weights,
# top_entropy acts as ever; those of deepseek_v32 and dppo act only where the policy differs from its sampler.
# "not given": the paper leaves it open; "not checked": its text was not at hand.
PRESETS: dict[str, LossConfig] = {
    "grpo": LossConfig(),  # arXiv:2402.03300
    "dr_grpo": LossConfig(advantage="none", beta=0.0, aggregation="constant"),  # arXiv:2503.20783
    "dapo": LossConfig(eps_high=0.28, beta=0.0, aggregation="token_mean"),  # arXiv:2503.14476
    "gspo": LossConfig(ratio="sequence", eps_low=3e-4, eps_high=4e-4, beta=0.0),  # arXiv:2507.18071
    # arXiv:2506.13585; eps_low = 1 switches the lower clip off
    "cispo": LossConfig(surrogate="cispo", eps_low=1.0, eps_high=4.0, beta=0.0, aggregation="token_mean"),
    "sapo": LossConfig(surrogate="sapo", beta=0.0),  # arXiv:2511.20347
    "rloo": LossConfig(  # arXiv:2402.14740
        advantage="rloo", surrogate="reinforce", kl="k1", kl_in="reward", beta=0.05, aggregation="constant"
    ),
    "reinforce": LossConfig(advantage="none", surrogate="reinforce", beta=0.0, aggregation="token_mean"),
    # arXiv:2507.20673: log rho is clipped at -0.4 and 0.4
    "gmpo": LossConfig(ratio="geometric", eps_low=1 - math.exp(-0.4), eps_high=math.exp(0.4) - 1, beta=0.0),
    # arXiv:2602.05261; clip range of its section 5.1 as TRL's documentation has it, not checked
    "luspo": LossConfig(ratio="sequence", eps_low=2e-3, eps_high=2.5e-3, beta=0.0, aggregation="sequence_sum"),
    # arXiv:2602.02710; clip, KL and aggregation of its authors' qwen3_experiments/run_qwen3_training.sh
    "maxrl": LossConfig(advantage="maxrl", beta=0.0, aggregation="token_mean"),
    # arXiv:2512.02556; beta, clip range and delta of opsm not given
    "deepseek_v32": LossConfig(advantage="none", beta=1e-3, kl_ratio=True, weight=("opsm",)),
    # arXiv:2506.01939: DAPO's loss on a fifth of the tokens, without its rule for groups
    "top_entropy": LossConfig(eps_high=0.28, beta=0.0, aggregation="token_mean", weight=("top_entropy",)),
    # arXiv:2602.04879, eq. 12 and 23: w_it = mask min(pi / pi_sampler, C) with C = 5 and delta = 0.2 of its appendix E
    "dppo": LossConfig(
        advantage="none", surrogate="reinforce", beta=0.0, aggregation="sequence_sum",
        weight=({"name": "dppo", "args": {"divergence": "tv", "delta": 0.2}},
                {"name": "rollout_ratio", "args": {"cap": 5.0}}),
    ),
}  # fmt: skip

DROP_BY_CORRECTNESS = {"dapo"}
"""Presets that drop a group by its answers alone (DAPO, section 3.2), whatever the other rewards say: there
`grpo.drop_by` is the reward of correctness, `eval.reward`, unless it is set."""
