"""What a training loop does between its steps, the same for SFT and GRPO: log, warn, save, stop when asked.

A step whose loss or gradient is NaN or infinite moves nothing. It is counted, and no checkpoint is made of it: what
is saved is the state after the last step that did move something. After `max_skipped` such steps in a row the run
stops there, with the batch of the last one in a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from grpo.checkpoint import load_checkpoint, save_checkpoint
from grpo.config import Config
from grpo.distributed import is_sharded, rank, whole
from grpo.log import RunLog, say
from grpo.optim import Optimizer
from grpo.policy import Policy, load_policy
from grpo.runs import Run, write_text
from grpo.settings import load_config
from grpo.types import Rollouts

WARN_EVERY = 10
"""Steps between two warnings of one kind."""


class NonFiniteError(ValueError):
    """Too many steps in a row had a loss or gradient of NaN or infinity."""


def step_or_skip(optimizer: Optimizer, step: int, loss: float) -> dict[str, float]:
    """`optimizer.step`, which skips a gradient that is not finite; so is the gradient of such a loss, finite or not.

    Returns its figures and `skipped`, 1 if nothing was moved.
    """
    if not math.isfinite(loss):
        master = next(iter(optimizer.masters.values()))
        master.grad = torch.full_like(master, math.nan)
    metrics = optimizer.step(step)
    return metrics | {"skipped": float(not math.isfinite(metrics["grad_norm"]))}


class Keeper:
    """Keeps the record and the checkpoints of a run in training; made when model and optimiser are ready.

    updates: optimiser steps per training step. Raises CheckpointError if there are checkpoints and all are damaged.
    """

    def __init__(self, config: Config, run: Run, policy: Policy, optimizer: Optimizer, steps: int, updates: int = 1):
        self.config, self.run, self.policy, self.optimizer = config, run, policy, optimizer
        self.steps, self.updates = steps, updates
        self.folder = run.folder / "checkpoints"
        self.state = load_checkpoint(self.folder, optimizer) or {"step": 0}
        """After the last step that moved something: number of finished steps, data cursor, length of the logs."""
        self.log = RunLog(run.folder, self.state, config.log.tensorboard)
        self._saved, self._skipped = self.state["step"], 0
        self._warned: dict[str, int] = {}

    def after_step(self, step: int, metrics: dict[str, float], batch: Callable[[], Batch], **cursor: int) -> None:
        """Log finished step `step` (from 1), save if it is time to, and raise Stopped if the run was asked to stop.

        batch: makes the rollouts and rewards of the step, for the record of a step that failed.
        cursor: where in the data the next step begins. Raises NonFiniteError, OSError.
        """
        self.log.step(step, metrics)
        if metrics.get("skipped") == self.updates:
            self._skipped += 1
        else:
            self._skipped = 0
            self.state = {"step": step, **cursor, **self.log.position()}
        self._warn(step, metrics)
        self.run.stop.agree()
        if self._skipped >= self.config.max_skipped:
            self._give_up(step, *batch())
        if step % self.config.log.save_every == 0 or step == self.steps or self.run.stop.asked:
            self.save()
        self.run.stop.check(f"{self.run.folder}: step {self.state['step']} of {self.steps}")

    def save(self) -> None:
        """Checkpoint the last state; a run without a step, or without a new one, has nothing to save."""
        if self.state["step"] > self._saved:
            self.run.check_folder()
            self.log.sync()
            save_checkpoint(self.folder, self.optimizer, self.state, self.config.log.keep_checkpoints)
            self._saved = self.state["step"]

    def finish(self) -> Policy:
        """End of training: the policy with the fp32 masters for weights, all of them, so that what is saved is fp32."""
        self.log.close()
        policy = load_policy(self.config.model, self.config.seed) if is_sharded(self.config.parallel) else self.policy
        take_masters(policy, self.optimizer)
        return policy

    def _give_up(self, step: int, rollouts: Rollouts, rewards: Tensor | None) -> None:
        path = self.run.folder / f"nonfinite-step-{step:08d}.jsonl"
        if rank() == 0:
            save_batch(path, self.policy, rollouts, rewards)
        self.save()
        raise NonFiniteError(
            f"run={self.run.folder}: {self._skipped} steps in a row (max_skipped={self.config.max_skipped}) had a loss "
            f"or gradient of NaN or infinity; the weights of step {self.state['step']} are kept, the last batch is in "
            f"{path.name}: look for what is wrong with it, or begin a new run with a lower optim.lr "
            f"(now {self.config.optim.lr:g})"
        )

    def _warn(self, step: int, metrics: dict[str, float]) -> None:
        """Say what makes a step worthless and which setting to change, each at most every `WARN_EVERY` steps."""
        for kind, text in warnings(self.config, metrics).items():
            if step - self._warned.get(kind, -WARN_EVERY) >= WARN_EVERY:
                self._warned[kind] = step
                say(f"WARNING, step {step}: {text}")


def take_masters(policy: Policy, optimizer: Optimizer) -> None:
    """Let a policy have the optimiser's fp32 masters for weights."""
    for name, p in policy.trainable().items():
        p.data = whole(optimizer.masters[name].detach())


def export(run: Path, folder: Path) -> int:
    """Write the newest checkpoint of a run that is not complete as a model folder, and return its step.

    Raises ValueError where there is none, or something in the way.
    """
    if not (run / "config.yaml").is_file() or not (run / "checkpoints").is_dir():
        raise ValueError(f"{run}: no run with checkpoints; the model of a complete run is in its model/")
    if folder.exists():
        raise ValueError(f"{folder}: exists already; name a new folder")
    config = load_config(str(run / "config.yaml"), [])
    policy = load_policy(config.model, config.seed)
    optimizer = Optimizer(policy.trainable(), config.optim, steps=1)
    state = load_checkpoint(run / "checkpoints", optimizer)
    if state is None:
        raise ValueError(f"{run}: it has no checkpoint yet")
    take_masters(policy, optimizer)
    policy.save(folder)
    return state["step"]


Batch = tuple[Rollouts, Tensor | None]


def warnings(config: Config, metrics: dict[str, float]) -> dict[str, str]:
    """What is wrong with a step, by its metrics, and what to do about it."""
    found = {}
    truncated, limit = metrics.get("truncated", 0.0), config.sampling.max_new_tokens
    if truncated > 0.5:
        share = "all" if truncated == 1 else f"{truncated:.0%}"
        found["truncated"] = f"{share} of the completions were cut off at sampling.max_new_tokens={limit}; raise it"
    if metrics.get("zero_spread") == 1:
        found["zero_spread"] = (
            "in every group all completions earned the same, so there is nothing to learn from; use problems that the "
            f"model solves sometimes, raise grpo.group_size={config.grpo.group_size}, or add a finer reward"
        )
    if killed := metrics.get("killed"):
        found["killed"] = (
            f"the scoring of {killed:.0f} completions was killed for its time or memory, and they scored 0; "
            f"mend the reward, or raise sandbox.seconds={config.sandbox.seconds:g} or "
            f"sandbox.megabytes={config.sandbox.megabytes}"
        )
    if metrics.get("skipped"):
        found["skipped"] = (
            "the loss or gradient was NaN or infinite, and the step was skipped; if it happens often, lower "
            f"optim.lr={config.optim.lr:g}"
        )
    return found


def save_batch(path: Path, policy: Policy, rollouts: Rollouts, rewards: Tensor | None) -> None:
    """Write a batch to a JSON Lines file, a line per completion: text and token ids, and what each reward gave it."""
    lines = []
    for row, completion in enumerate(rollouts.token_lists()):
        prompt = rollouts.prompts[int(rollouts.prompt_index[row])]
        given = [] if rewards is None else [None if math.isnan(x) else x for x in rewards[row].tolist()]
        facts = {
            "prompt": policy.tokenizer.decode(prompt),
            "completion": policy.tokenizer.decode(completion),
            "rewards": given,
            "prompt_ids": prompt,
            "completion_ids": completion,
        }
        lines.append(json.dumps(facts, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))
