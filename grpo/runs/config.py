"""What can be configured: frozen dataclasses, a docstring under each field.

`settings.py` fills them from YAML files and `key.sub=value` on the command line. `python -m grpo config` prints all
keys with their defaults.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from data import ColdStartConfig, DataConfig, PromptConfig
from grpo.model.config import ModelConfig, OptimConfig
from grpo.presets import LossConfig
from grpo.ranges import NotNegative, NotNegativeInt, Positive, PositiveInt
from grpo.types import SamplingConfig


@dataclass(frozen=True)
class RewardConfig:
    """One reward function of the composition r = sum_k weight_k r_k."""

    weight: float = 1.0
    """Its weight in the total; 0 logs the reward without training on it."""
    function: str = ""
    """Registered name or import path `module:function`; empty: the key it stands under."""
    args: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments bound to the function."""


@dataclass(frozen=True)
class SandboxConfig:
    """Worker processes for the reward functions: one that hangs or swells is killed, and the batch continues."""

    enabled: bool = True
    """Off: the reward functions run in the trainer's own process."""
    seconds: Positive = 5.0
    """Wall-clock limit of one completion; to a killed one no reward applies; it is counted as `killed`."""
    megabytes: PositiveInt = 1024
    """Memory that a worker may take beyond its imports."""


@dataclass(frozen=True)
class GRPOConfig:
    """The reinforcement-learning loop (stage 3, and again in R1's recipe)."""

    steps: PositiveInt = 100
    """Batches of fresh samples; checkpoints lie between them."""
    prompts_per_step: PositiveInt = 8
    """P: groups in a batch."""
    group_size: PositiveInt = 8
    """G: completions sampled for each prompt."""
    mini_batches: PositiveInt = 1
    """Mini-batches that a batch is cut into, an optimiser step each; above 1, ratios and clips have an effect."""
    updates_per_batch: PositiveInt = 1
    """mu: passes over the mini-batches of a batch."""
    drop_zero_spread: bool = True
    """Drop groups whose completions all earned the same (their advantage is 0) and sample others in their place."""
    drop_by: tuple[str, ...] = ()
    """Rewards whose sum must differ in a group for it to be kept; empty: the total. The preset dapo sets [accuracy]."""
    max_refills: NotNegativeInt = 2
    """How many times a step samples again to replace dropped groups, at most."""
    mask_truncated: bool = False
    """Keep truncated completions out of the loss (DAPO's overlong filtering); they still count in their group."""


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning (stage 2, and on what rejection keeps): cross-entropy on the completion's tokens."""

    steps: NotNegativeInt = 0
    """Optimiser steps; 0: as many as `epochs` needs."""
    epochs: Positive = 1.0
    """Passes over the data; the last batch of a pass may be smaller."""
    batch_size: PositiveInt = 64
    """Sequences per optimiser step."""
    max_tokens: NotNegativeInt = 0
    """Leave out examples with more tokens, prompt and response together; 0: those beyond the model's context."""
    on_prompts: bool = False
    """Train on the prompts' tokens too, all but the first: a frequent mistake, here to be compared with."""


@dataclass(frozen=True)
class RejectConfig:
    """Rejection sampling (R1's recipe): sample, keep what is right, train on it."""

    samples: PositiveInt = 8
    """k: completions sampled per problem."""
    per_problem: PositiveInt = 2
    """Completions kept per problem, at most."""
    reflection: Literal["any", "prefer", "only"] = "any"
    """prefer: reflective completions are kept first; only: others are never kept."""
    sft_from: str = ""
    """Model to fine-tune on what is kept; empty: the one that was sampled."""


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation, at the end of each stage and by `grpo eval`."""

    folder: str = ""
    """`grpo eval` evaluates the models of all runs in this folder, side by side; empty: `model.path` alone."""
    against: str = ""
    """What `grpo eval` compares each model with, in pairs: one of the folder, or any model; empty: its parent."""
    data: DataConfig = field(default_factory=lambda: DataConfig(split="test", count=200))
    """Held-out problems. Where `data.source` is set and this names none: 200 of those that belong to it, of its test
    split, or cut off by `data.held_out`."""
    seed: NotNegativeInt = 0
    """Seeds them, where they are made (`demo`), and the random numbers of their completions. It is not the run's seed:
    all seeds, stages and arms of an experiment meet the same problems with the same numbers, so they can be paired."""
    samples: PositiveInt = 4
    """k: completions sampled per problem."""
    temperature: NotNegative = 1.0
    """Their temperature; the greedy completion is evaluated besides."""
    top_p: float = 1.0
    """Draw them from the most likely tokens alone, as many as have this probability together (arXiv:1904.09751)."""
    pass_at: tuple[int, ...] = (1, 4)
    """The k of pass@k, none above `samples`."""
    reward: str = "accuracy"
    """The reward that says which completion is right, by a score above 0; with its arguments in training."""
    require_tags: bool = True
    """Take the answer from the <answer> tags alone; false: also a box or a final-answer phrase (base models)."""
    at_end: bool = True
    """Evaluate when a training stage ends."""
    every: NotNegativeInt = 0
    """Evaluate during training too: before the first step, after every so many and after the last (curve.jsonl)."""
    every_count: NotNegativeInt = 0
    """On so many of the problems, the first ones; 0: on all."""
    keep_best: bool = False
    """Keep the model of the curve's highest sampled accuracy in `best/`, whose accuracy on these problems is then too
    good: choose on a validation split, and report on another."""
    megabytes: Positive = 64.0
    """About how large eval.jsonl may become: texts that are too long for that lose their middle there."""


@dataclass(frozen=True)
class LogConfig:
    """What a run writes down, and how often."""

    megabytes: NotNegative = 64.0
    """About how large completions.jsonl may become. It has every completion of each step while that fits; of a longer
    run those of evenly chosen steps, and of the first, the last, and each at which a warning was given."""
    save_every: PositiveInt = 50
    """Steps between checkpoints."""
    keep_checkpoints: PositiveInt = 2
    """Checkpoints kept, the newest ones."""
    to: tuple[str, ...] = ()
    """Where else metrics, texts, evaluation and settings go: tensorboard, wandb, trackio, or your function
    `my_module:my_function`, called with (event, step, values)."""
    project: str = "grpo"
    """The project at wandb and trackio; the run has the name of its folder."""


@dataclass(frozen=True)
class Config:
    """Everything that a stage needs; each group is documented at its class."""

    stage: Literal["", "base", "sft", "grpo", "reject", "eval"] = ""
    """The command that a file is for: another training command refuses it. Empty: any."""
    run: str = "runs/default"
    """Run folder: metrics, completions, checkpoints, model and report go there."""
    seed: NotNegativeInt = 0
    """Seeds data order, sampling and initialisation."""
    threads: NotNegativeInt = 0
    """CPU threads; 0: PyTorch's choice."""
    tokens_per_micro_batch: PositiveInt = 16384
    """Tokens computed at a time in training, padding included: trades memory for time, never changes the result."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How the processes that torchrun starts hold the weights: ddp (each has all) or fsdp (each has a shard)."""
    fsdp_gather: Literal["auto", "model", "layer"] = "auto"
    """With parallel=fsdp, what a process gathers at a time to sample: the whole model, or a layer, which takes less
    memory and more time; auto: the model in `grpo` and `reject`, which train on samples, a layer in the others."""
    max_skipped: PositiveInt = 5
    """Steps in a row that a loss or gradient of NaN or infinity may skip; then the run stops at its last good step."""
    accept_code: bool = False
    """Go on with a run whose code has changed since it began; its manifest records that."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=lambda: DataConfig(count=1000))
    """Training problems; all rows of a source that is named, unless `count` is set."""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    coldstart: ColdStartConfig = field(default_factory=ColdStartConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    rewards: dict[str, RewardConfig] = field(default_factory=dict)
    """Reward functions by name."""
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    """The policy loss; `loss.preset` names a published one to start from."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    reject: RejectConfig = field(default_factory=RejectConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def by_layer(self, command: str) -> bool:
        """Whether a process of this command gathers a layer at a time to sample, where weights are sharded."""
        return self.fsdp_gather == "layer" or (self.fsdp_gather == "auto" and command not in ("grpo", "reject"))


def to_yaml(config: Config) -> str:
    """The resolved configuration; `load_config` reads it back to an equal one."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)


def flatten(value: Any, key: str = "") -> dict[str, Any]:
    """Nested dicts as one, by dotted keys."""
    if isinstance(value, dict) and value:
        return {k: v for name, x in value.items() for k, v in flatten(x, f"{key}.{name}" if key else name).items()}
    return {key: value}
