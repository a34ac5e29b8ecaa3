"""Values that have the right type and still make no sense, and values that contradict each other."""

from __future__ import annotations

import difflib
import math

from grpo.advantages import ADVANTAGES
from grpo.loss import AGGREGATIONS, KL_ESTIMATORS, RATIOS, get_surrogate
from grpo.runs.config import Config
from rewards import get_reward

Mistake = tuple[str, str]

CHOICES = {
    "model.dtype": ("float32", "bfloat16"),
    "model.recompute": ("none", "full"),
    "parallel": ("ddp", "fsdp"),
    "loss.advantage": tuple(ADVANTAGES),
    "loss.ratio": tuple(RATIOS),
    "loss.kl": tuple(KL_ESTIMATORS),
    "loss.kl_in": ("loss", "reward"),
    "loss.aggregation": tuple(AGGREGATIONS),
    "optim.schedule": ("constant", "linear", "cosine"),
    "reject.reflection": ("any", "prefer", "only"),
}
POSITIVE = """
    tokens_per_micro_batch max_skipped model.lora.alpha sampling.max_new_tokens sampling.max_rows loss.eps_high
    loss.tau_pos loss.tau_neg optim.lr optim.eps optim.max_grad_norm grpo.steps grpo.prompts_per_step grpo.group_size
    grpo.updates_per_batch sft.batch_size sft.epochs reject.samples reject.per_problem eval.samples log.save_every
    log.keep_checkpoints sandbox.seconds sandbox.megabytes
"""
NOT_NEGATIVE = """
    seed threads model.lora.rank sampling.temperature loss.eps_low loss.beta optim.warmup_steps optim.weight_decay
    optim.final_lr_share grpo.max_refills sft.steps eval.temperature log.completions_per_step
"""


def value_of(config: Config, key: str):
    """The value at a dotted key."""
    for name in key.split("."):
        config = getattr(config, name)
    return config


def check(config: Config) -> list[Mistake]:
    """Every mistake as (key, what is wrong with it); empty if there is none."""
    mistakes = []
    for key, choices in CHOICES.items():
        if (value := value_of(config, key)) not in choices:
            mistakes.append((key, f"must be one of {', '.join(choices)}, not {value!r}{_near(value, choices)}"))
    for keys, ok, what in (
        (POSITIVE, lambda x: 0 < x < math.inf, "above 0"),
        (NOT_NEGATIVE, lambda x: 0 <= x < math.inf, "0 or more"),
    ):
        mistakes += [
            (key, f"must be {what}, not {value_of(config, key)}")
            for key in keys.split()
            if not ok(value_of(config, key))
        ]
    return mistakes + _contradictions(config) + _names(config)


def _near(value: str, choices: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(value), choices, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _contradictions(config: Config) -> list[Mistake]:
    mistakes = []
    if config.loss.delta is not None and not 1 + config.loss.eps_high < config.loss.delta < math.inf:
        mistakes.append(("loss.delta", f"must be above 1 + loss.eps_high, not {config.loss.delta}"))
    if config.loss.eps_low > 1:
        mistakes.append(("loss.eps_low", f"must be at most 1, not {config.loss.eps_low}: a ratio is never below 0"))
    if config.loss.max_length is not None and config.loss.max_length < 1:
        mistakes.append(("loss.max_length", f"must be at least 1, not {config.loss.max_length}"))
    if config.grpo.group_size < 2:
        mistakes.append(("grpo.group_size", "must be at least 2: an advantage compares siblings"))
    if any(k < 1 or k > config.eval.samples for k in config.eval.pass_at):
        what = f"{list(config.eval.pass_at)} must lie between 1 and eval.samples={config.eval.samples}"
        mistakes.append(("eval.pass_at", what))
    if not all(0 <= beta < 1 for beta in config.optim.betas):
        mistakes.append(("optim.betas", f"{list(config.optim.betas)} must lie in [0, 1)"))
    if not config.run.strip():
        mistakes.append(("run", "must name a folder"))
    return mistakes


def _names(config: Config) -> list[Mistake]:
    """Functions that the configuration names must be there before a run begins."""
    mistakes = []
    for name, reward in config.rewards.items():
        if not math.isfinite(reward.weight):
            mistakes.append((f"rewards.{name}.weight", f"must be a finite number, not {reward.weight}"))
        try:
            get_reward(reward.function or name, **reward.args)
        except (ValueError, TypeError) as error:
            mistakes.append((f"rewards.{name}", f"cannot be used: {error}"))
    try:
        get_surrogate(config.loss.surrogate)
    except Exception as error:  # the user's module may fail in any way at all
        mistakes.append(("loss.surrogate", f"cannot be used: {error}"))
    return mistakes
