"""Values that have the right type and still make no sense, and values that contradict each other."""

from __future__ import annotations

import math

from grpo.advantages import ADVANTAGES
from grpo.config import Config
from grpo.loss import AGGREGATIONS, KL_ESTIMATORS, RATIOS

CHOICES = {
    "model.dtype": ("float32", "bfloat16"),
    "loss.advantage": tuple(ADVANTAGES),
    "loss.ratio": tuple(RATIOS),
    "loss.kl": tuple(KL_ESTIMATORS),
    "loss.kl_in": ("loss", "reward"),
    "loss.aggregation": tuple(AGGREGATIONS),
    "optim.schedule": ("constant", "linear", "cosine"),
    "reject.reflection": ("any", "prefer", "only"),
}
POSITIVE = (
    "tokens_per_micro_batch model.lora.alpha sampling.max_new_tokens sampling.max_rows loss.eps_high loss.tau_pos "
    "loss.tau_neg optim.lr optim.eps optim.max_grad_norm grpo.steps grpo.prompts_per_step grpo.group_size "
    "grpo.updates_per_batch sft.batch_size sft.epochs reject.samples reject.per_problem eval.samples log.save_every "
    "log.keep_checkpoints"
).split()
NOT_NEGATIVE = (
    "seed threads model.lora.rank sampling.temperature loss.eps_low loss.beta optim.warmup_steps optim.weight_decay "
    "optim.final_lr_share grpo.max_refills sft.steps eval.temperature log.completions_per_step"
).split()


def value_of(config: Config, key: str):
    """The value at a dotted key."""
    for name in key.split("."):
        config = getattr(config, name)
    return config


def check(config: Config) -> list[str]:
    """One line per mistake; empty if there is none."""
    mistakes = []
    for key, choices in CHOICES.items():
        if (value := value_of(config, key)) not in choices:
            mistakes.append(f"{key} must be one of {', '.join(choices)}, not {value!r}")
    for keys, ok, what in (
        (POSITIVE, lambda x: 0 < x < math.inf, "above 0"),
        (NOT_NEGATIVE, lambda x: 0 <= x < math.inf, "0 or more"),
    ):
        mistakes += [
            f"{key} must be {what}, not {value_of(config, key)}"
            for key in keys
            if not ok(value_of(config, key))
        ]
    return mistakes + _contradictions(config)


def _contradictions(config: Config) -> list[str]:
    mistakes = []
    if config.loss.delta is not None and config.loss.delta <= 1 + config.loss.eps_high:
        mistakes.append(f"loss.delta must be above 1 + loss.eps_high, not {config.loss.delta}")
    if config.grpo.group_size < 2:
        mistakes.append("grpo.group_size must be at least 2: an advantage compares siblings")
    if any(k < 1 or k > config.eval.samples for k in config.eval.pass_at):
        mistakes.append(
            f"eval.pass_at={list(config.eval.pass_at)} must lie between 1 and eval.samples={config.eval.samples}"
        )
    if not all(0 <= beta < 1 for beta in config.optim.betas):
        mistakes.append(f"optim.betas={list(config.optim.betas)} must lie in [0, 1)")
    if not config.run.strip():
        mistakes.append("run must name a folder")
    return mistakes
