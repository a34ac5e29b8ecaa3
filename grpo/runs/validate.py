"""Values that have the right type and still make no sense, and values that contradict each other."""

from __future__ import annotations

import functools
import math
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

from grpo.presets import PRESETS, LossConfig
from grpo.ranges import Range
from grpo.runs.config import Config
from grpo.runs.hints import did_you_mean
from grpo.runs.trackers import check_tracker
from rewards import get_reward

Mistake = tuple[str, str]


def check(config: Config) -> Iterator[Mistake]:
    """Every mistake as (key, what is wrong with it)."""
    for key, span in ranges(Config):
        value = functools.reduce(getattr, key.split("."), config)
        if value is not None and (wrong := span.refuses(value)):
            yield key, wrong
    yield from _contradictions(config)
    yield from _functions(config)


def ranges(cls: type, prefix: str = "") -> Iterator[tuple[str, Range]]:
    """The range of each setting that has one, by its dotted key."""
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        if is_dataclass(hint):
            yield from ranges(hint, f"{prefix}{name}.")
        for one in (hint, *typing.get_args(hint)):  # alone, or beside None
            if isinstance(span := getattr(one, "__metadata__", (None,))[0], Range):
                yield prefix + name, span


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
    if loss.advantage == "maxrl" and loss.kl_in_reward:
        yield "loss.kl_in", "must be loss with loss.advantage=maxrl, for which no total reward may be below 0"
    yield from _without_effect(loss)
    if unknown := [name for name in config.grpo.drop_by if name not in config.rewards]:
        yield (
            "grpo.drop_by",
            f"{unknown[0]!r} is no reward of this run; there are {', '.join(config.rewards) or 'none'}",
        )
    if config.grpo.drop_by and not config.grpo.drop_zero_spread:
        yield "grpo.drop_by", "does nothing with grpo.drop_zero_spread=false; leave one of the two out"
    if config.grpo.mini_batches > config.grpo.prompts_per_step:
        yield (
            "grpo.mini_batches",
            f"must be at most grpo.prompts_per_step={config.grpo.prompts_per_step}: groups stay whole",
        )
    if config.eval.keep_best and not config.eval.every:
        yield "eval.keep_best", "needs evaluations during training; set eval.every"
    if config.grpo.group_size < 2:
        yield "grpo.group_size", "must be at least 2: an advantage compares siblings"
    if not all(1 <= k <= samples for k in pass_at):
        yield "eval.pass_at", f"{list(pass_at)} must lie between 1 and eval.samples={samples}"
    if not all(0 <= beta < 1 for beta in betas):
        yield "optim.betas", f"{list(betas)} must lie in [0, 1)"
    if not config.run.strip():
        yield "run", "must name a folder"


def _without_effect(loss: LossConfig) -> Iterator[Mistake]:
    """Settings of the loss that nothing reads: an ablation of them would compare two equal arms."""
    default = LossConfig()
    if loss.surrogate == "reinforce" and loss.ratio != default.ratio:
        yield "loss.ratio", "does nothing with loss.surrogate=reinforce, which has no ratio"
    if loss.kl_ratio and loss.kl_in == "reward":
        yield "loss.kl_ratio", "does nothing with loss.kl_in=reward; it weighs the KL in the loss"
    if loss.max_length and loss.aggregation != "constant":
        yield "loss.max_length", f"does nothing with loss.aggregation={loss.aggregation}; constant divides by it"
    for name in ("tau_pos", "tau_neg"):
        if getattr(loss, name) != getattr(default, name) and loss.surrogate in ("clip", "reinforce", "cispo"):
            yield f"loss.{name}", f"does nothing with loss.surrogate={loss.surrogate}; it is of sapo"


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
    for name in config.log.to:
        if mistake := check_tracker(name):
            yield "log.to", f"{name} cannot be used: {mistake}"
    if config.loss.delta is not None or _names(config.loss) not in map(_names, PRESETS.values()):
        yield from _losses(config.loss)


def _names(loss: LossConfig) -> list[Any]:
    """What a loss names; what a preset names is there."""
    return [loss.advantage, loss.ratio, loss.surrogate, loss.args, loss.weight, loss.kl, loss.aggregation]


def _losses(loss: LossConfig) -> Iterator[Mistake]:
    # here: they import PyTorch, which takes seconds, and a typo elsewhere is said at once
    from grpo.advantages import ADVANTAGES
    from grpo.loss import AGGREGATIONS, KL_ESTIMATORS, RATIOS, SURROGATES
    from grpo.trials import check_surrogate, check_weights

    choices = {"advantage": ADVANTAGES, "ratio": RATIOS, "kl": KL_ESTIMATORS, "aggregation": AGGREGATIONS}
    for name, known in choices.items():
        if (value := getattr(loss, name)) not in known:
            yield f"loss.{name}", f"must be one of {', '.join(known)}, not {value!r}{did_you_mean(value, known)}"
    if loss.delta is not None and loss.surrogate in SURROGATES and loss.surrogate != "clip":
        yield "loss.delta", f"does nothing with loss.surrogate={loss.surrogate}; it bounds the ratio of `clip`"
    functions = {"loss.surrogate": (check_surrogate, loss), "loss.weight": (check_weights, loss)}
    for key, (check_it, what) in functions.items():
        try:
            check_it(what)
        except Exception as error:  # the user's module may fail in any way at all
            yield key, f"cannot be used: {error}"
