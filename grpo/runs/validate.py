"""Values that have the right type and still make no sense, and values that contradict each other."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any

from grpo.advantages import ADVANTAGES
from grpo.loss import AGGREGATIONS, KL_ESTIMATORS, RATIOS, SURROGATES
from grpo.runs.config import Config
from grpo.trials import check_surrogate, check_weights
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
    grpo.mini_batches grpo.updates_per_batch sft.batch_size sft.epochs reject.samples reject.per_problem eval.samples
    log.save_every log.keep_checkpoints sandbox.seconds sandbox.megabytes
"""
NOT_NEGATIVE = """
    seed threads model.lora.rank sampling.temperature loss.eps_low loss.beta loss.entropy_bonus optim.warmup_steps
    optim.weight_decay optim.final_lr_share grpo.max_refills sft.steps sft.max_tokens eval.temperature
    log.megabytes
"""


def check(config: Config) -> Iterator[Mistake]:
    """Every mistake as (key, what is wrong with it)."""
    for key, choices in CHOICES.items():
        if (value := value_of(config, key)) not in choices:
            yield key, f"must be one of {', '.join(choices)}, not {value!r}{did_you_mean(value, choices)}"
    for keys, least in ((POSITIVE, "above 0"), (NOT_NEGATIVE, "0 or more")):
        for key in keys.split():
            value = value_of(config, key)
            if not 0 <= value < math.inf or (value == 0 and keys is POSITIVE):
                yield key, f"must be {least}, not {value}"
    yield from _contradictions(config)
    yield from _functions(config)


def value_of(config: Config, key: str) -> Any:
    """The value at a dotted key."""
    return functools.reduce(getattr, key.split("."), config)


def did_you_mean(value: object, choices: Iterable[str]) -> str:
    """The nearest choice, as the end of an error; empty if none is near."""
    near = difflib.get_close_matches(str(value), choices, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _contradictions(config: Config) -> Iterator[Mistake]:
    loss, samples, pass_at, betas = config.loss, config.eval.samples, config.eval.pass_at, config.optim.betas
    if loss.delta is not None and not 1 + loss.eps_high < loss.delta < math.inf:
        yield "loss.delta", f"must be above 1 + loss.eps_high, not {loss.delta}"
    if config.sampling.top_p != 1:
        yield "sampling.top_p", "is 1 in training, whose log-probs are of all tokens; set eval.top_p for the evaluation"
    if not 0 < config.eval.top_p <= 1:
        yield "eval.top_p", f"must be above 0 and at most 1, not {config.eval.top_p}"
    if loss.eps_low > 1:
        yield "loss.eps_low", f"must be at most 1, not {loss.eps_low}: a ratio is never below 0"
    if loss.max_length is not None and loss.max_length < 1:
        yield "loss.max_length", f"must be at least 1, not {loss.max_length}"
    if unknown := [name for name in config.grpo.drop_by if name not in config.rewards]:
        yield (
            "grpo.drop_by",
            f"{unknown[0]!r} is no reward of this run; there are {', '.join(config.rewards) or 'none'}",
        )
    if config.grpo.drop_by and not config.grpo.drop_zero_spread:
        yield "grpo.drop_by", "does nothing with grpo.drop_zero_spread=false; leave one of the two out"
    if loss.delta is not None and loss.surrogate in SURROGATES and loss.surrogate != "clip":
        yield "loss.delta", f"does nothing with loss.surrogate={loss.surrogate}; it bounds the ratio of `clip`"
    if config.grpo.mini_batches > config.grpo.prompts_per_step:
        yield (
            "grpo.mini_batches",
            f"must be at most grpo.prompts_per_step={config.grpo.prompts_per_step}: groups stay whole",
        )
    if config.grpo.group_size < 2:
        yield "grpo.group_size", "must be at least 2: an advantage compares siblings"
    if not all(1 <= k <= samples for k in pass_at):
        yield "eval.pass_at", f"{list(pass_at)} must lie between 1 and eval.samples={samples}"
    if not all(0 <= beta < 1 for beta in betas):
        yield "optim.betas", f"{list(betas)} must lie in [0, 1)"
    if not config.run.strip():
        yield "run", "must name a folder"


def _functions(config: Config) -> Iterator[Mistake]:
    """Functions that the configuration names must be there before a run begins."""
    for name, reward in config.rewards.items():
        if not math.isfinite(reward.weight):
            yield f"rewards.{name}.weight", f"must be a finite number, not {reward.weight}"
        try:
            get_reward(reward.function or name, **reward.args)
        except (ValueError, TypeError) as error:
            yield f"rewards.{name}", f"cannot be used: {error}"
    if config.eval.reward not in config.rewards:
        try:
            get_reward(config.eval.reward)
        except ValueError as error:
            yield "eval.reward", f"is none of the rewards and cannot be used: {error}"
    functions = {"loss.surrogate": (check_surrogate, config.loss), "loss.weight": (check_weights, config.loss)}
    for key, (check_it, what) in functions.items():
        try:
            check_it(what)
        except Exception as error:  # the user's module may fail in any way at all
            yield key, f"cannot be used: {error}"
