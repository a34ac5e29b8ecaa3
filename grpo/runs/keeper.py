"""What a training loop does between its steps, the same for SFT and GRPO: log, warn, save, stop when asked.

A step whose loss or gradient is NaN or infinite moves nothing. It is counted, and no checkpoint is made of it: what
is saved is the state after the last step that did move something. After `max_skipped` such steps in a row the run
stops there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from grpo.model.optim import Optimizer
from grpo.model.policy import ModelConfig, Policy, load_policy
from grpo.model.sharding import is_sharded
from grpo.runs.checkpoint import load_checkpoint, save_checkpoint
from grpo.runs.config import Config
from grpo.runs.folder import Run
from grpo.runs.log import RunLog, progress, say
from grpo.runs.settings import load_config
from grpo.runs.setup import Setup
from grpo.runs.signals import Stopped
from grpo.runs.signs import Sign, all_signs

WARN_EVERY = 10  # steps between two warnings of one kind
SHOWN = ("reward", "reflections", "length", "kl", "loss")  # beside the progress bar, after the accuracy


@dataclass
class Keeper:
    """Keeps the record and the checkpoints of a run in training; made by `Keeper.resume`."""

    config: Config
    run: Run
    policy: Policy
    optimizer: Optimizer
    steps: int
    state: dict[str, int]  # step, data cursor and length of the logs after the last step that moved something

    @classmethod
    def resume(cls, config: Config, run: Run, policy: Policy, optimizer: Optimizer, steps: int) -> Keeper:
        """Go on from the newest checkpoint, or begin. Raises RunError if there are some, all damaged."""
        state = load_checkpoint(run.folder / "checkpoints", optimizer) or {"step": 0}
        return cls(config, run, policy, optimizer, steps, state)

    def __post_init__(self) -> None:
        self.log = RunLog(self.run.folder, self.state, self.config.log.megabytes, self.steps)
        self.log.listeners += self.run.listeners
        self._saved, self._skipped = self.state["step"], 0
        self._setup = Setup.of(asdict(self.config))

    def steps_left(self, name: str, between: Callable[[Keeper, int], None] | None = None) -> Iterator[int]:
        """The numbers of the steps that are left, from 0, with a progress bar and a clock.

        between: what is done before each step and after the last, outside the clock; it gets the finished steps.
        """
        first, between = self.state["step"], between or (lambda keeper, step: None)
        with progress(total=self.steps, initial=first, desc=name, unit="step") as self.bar:
            for step in range(first, self.steps + 1):
                with self.saved_on(Stopped):
                    between(self, step)
                if step < self.steps:
                    self._began = time.perf_counter()
                    yield step

    def after_step(self, step: int, metrics: dict[str, float], **cursor: int) -> None:
        """Log step `step` (from 0), save if it is time to, and raise Stopped if the run was asked to stop.

        cursor: where in the data the next step begins. Raises ValueError after too many skipped steps, OSError.
        """
        step, seconds = step + 1, time.perf_counter() - self._began
        tokens = metrics.get("sampled_tokens", metrics.get("tokens", 0.0))
        metrics |= {"seconds": seconds, "tokens_per_second": tokens / seconds}
        shown = {"accuracy": metrics.get(f"reward_{self.config.eval.reward}")} | {n: metrics.get(n) for n in SHOWN}
        self.bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items() if value is not None})
        self.bar.update()
        self.log.step(step, metrics)
        self.log.keep_samples(step, flagged=self.warn(step, metrics))
        if metrics.get("skipped") and metrics["skipped"] == metrics.get("updates", 1):  # SFT makes one update a step
            self._skipped += 1
        else:
            self._skipped = 0
            self.state = {"step": step, **cursor, **self.log.position()}
        stopping = self.run.stop.agree()
        if self._skipped >= self.config.max_skipped:
            self.save()
            raise ValueError(
                f"run={self.run.folder}: {self._skipped} steps in a row, the last of them step {step}, had a loss or "
                f"gradient of NaN or infinity (max_skipped={self.config.max_skipped}); the weights of step "
                f"{self.state['step']} are kept: begin a new run with a lower optim.lr "
                f"(now {self.config.optim.lr:g})"
            )
        if step % self.config.log.save_every == 0 or step == self.steps or stopping:
            self.save()
        self.run.progressed()
        self.run.stop.check(f"{self.run.folder}: step {self.state['step']} of {self.steps}")

    def warn(self, step: int, metrics: dict[str, float]) -> bool:
        """Say what is wrong, and note it in warnings.jsonl: a warning every so many steps, a note once.

        Returns whether a warning was given.
        """
        signs = [Sign(kind, text, step, step) for kind, text in warnings(self.config, metrics).items()]
        if "reward" in metrics:
            signs += all_signs(self.log.rows, self._setup)
        last = self.log.warned  # the step at which each kind was said last
        due = [s for s in signs if s.kind not in last or (s.serious and step - last[s.kind] >= WARN_EVERY)]
        for sign in due:
            say(f"{'WARNING' if sign.serious else 'NOTE'}, step {step}: {sign.text}")
            self.log.warn(**asdict(sign))
        return any(sign.serious for sign in due)

    @contextmanager
    def saved_on(self, failure: type[BaseException]) -> Iterator[None]:
        """What is trained before such a failure is not lost; the run resumes when its cause is fixed."""
        try:
            yield
        except failure:
            self.save()
            raise

    def save(self) -> None:
        """Checkpoint the last state; a run without a step, or without a new one, has nothing to save."""
        if self.state["step"] > self._saved:
            self.run.check_folder()
            self.log.sync()
            keep = self.config.log.keep_checkpoints
            save_checkpoint(self.run.folder / "checkpoints", self.optimizer, self.state, keep)
            self._saved = self.state["step"]

    def finish(self) -> Policy:
        """End of training: the policy with the fp32 weights to save, or this process's shards of them."""
        self.log.close()
        self.run.steps = self.steps
        if not is_sharded(self.config.parallel):
            self.policy.take(self.optimizer.full_masters())
        return self.policy

    def save_model(self, name: str) -> None:
        """Write the present policy as a model folder of that name into the run folder, in place of one of before."""
        self.run.save_model(self.policy, name)


def export(source: Path, folder: Path) -> str:
    """Write a model as a folder for `from_pretrained`, and return what it is of.

    source: a run that is not complete (its newest checkpoint is taken), or any model (an adapter is merged).
    Raises ValueError where there is none, or something in the way.
    """
    if folder.exists():
        raise ValueError(f"{folder}: exists already; name a new folder")
    if not (source / "checkpoints").is_dir():
        load_policy(ModelConfig(str(source))).save(folder)
        return f"the model {source}"
    config = load_config(str(source / "config.yaml"), checked=False)  # a check would import modules that it names
    policy = load_policy(config.model, config.seed)
    optimizer = Optimizer(policy.trainable(), config.optim, steps=1)
    state = load_checkpoint(source / "checkpoints", optimizer)
    if state is None:
        raise ValueError(f"{source}: it has no checkpoint yet")
    policy.take(optimizer.full_masters())
    policy.save(folder)
    return f"the model after step {state['step']} of {source}"


def warnings(config: Config, metrics: dict[str, float]) -> dict[str, str]:
    """What is wrong in the machinery at a step, by its metrics, and what to do about it; signs.py has the others."""
    killed = metrics.get("killed", 0.0)
    found = {
        "sampler_gap": metrics.get("sampler_gap", 0.0) > (1e-3 if config.model.dtype == "float32" else 0.3)
        and f"sampler and trainer disagree by {metrics.get('sampler_gap', 0.0):.2g} nats a token, more than rounding: "
        "what is learned is not what was sampled; try model.dtype=float32, and report the model if it does not help",
        "killed": killed
        and f"the scoring of {killed:.0f} completions was killed for its time or memory, and they have no score; fix "
        f"the reward, or raise sandbox.seconds={config.sandbox.seconds:g} or "
        f"sandbox.megabytes={config.sandbox.megabytes}",
        "skipped": metrics.get("skipped")
        and "the loss or gradient was NaN or infinite, and the step was skipped; if it happens often, lower "
        f"optim.lr={config.optim.lr:g}",
    }
    return {kind: text for kind, text in found.items() if text}
