"""`log.to`: where else a run's metrics go. A tracker is a function, ours or yours by its import path:

    tracker(event, step, values)

    event         step    values
    "settings"    0       {"run": folder, "stage", "seed", "started", "project", "config": all settings}; once, first
    "scalars"     1, ...  {name: number} of a step, as in metrics.jsonl; without those that do not apply
    "texts"       1, ...  the first 8 rows of a step as in completions.jsonl, of the first step and each tenth
    "evaluation"  last    eval.json of the stage
    "end"         last    {}; once, last

Only the first of several processes calls it. One that raises never ends a run: it is named once and left out.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grpo.registry import named
from grpo.runs.config import Config, flatten

TEXTS, TEXTS_EVERY = 8, 10
"""Rows of a step that a tracker gets, and of which steps."""
COLUMNS = ("problem", "question", "answer", "completion", "rewards", "advantage")

Tracker = Callable[[str, int, Any], None]


class Tensorboard:
    """Event files in the run folder: `tensorboard --logdir runs`."""

    def __call__(self, event: str, step: int, values: Any) -> None:
        if event == "settings":
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(Path(values["run"]) / "tensorboard"), max_queue=100)
            # as a block of code: its viewer reads Markdown
            self.writer.add_text("settings", "\n".join(f"    {k}: {v}" for k, v in flatten(values["config"]).items()))
        elif event == "end":
            self.writer.close()
        elif event == "texts":
            text = "\n\n---\n\n".join(f"{_about(row)}\n\n{_block(str(row.get('completion', '')))}" for row in values)
            self.writer.add_text("completions", text, step)
        else:
            for name, value in numbers(event, values).items():
                self.writer.add_scalar(name, value, step)
            self.writer.flush()


class Wandb:
    """Weights & Biases, or a package with its interface; what is online or not is its own settings' matter."""

    package = "wandb"

    def __call__(self, event: str, step: int, values: Any) -> None:
        module = importlib.import_module(self.package)
        if event == "settings":
            module.init(
                project=values["project"], name=values["run"], config=values["config"], resume="allow",
                **self.identity(values),
            )  # fmt: skip
        elif event == "end":
            module.finish()
        elif event == "texts":
            rows = [[str(row.get(name, "")) for name in COLUMNS] for row in values]
            module.log({"completions": module.Table(columns=list(COLUMNS), data=rows)}, step=step)
        else:
            module.log(numbers(event, values), step=step)

    def identity(self, values: Any) -> dict[str, Any]:
        """What makes a run that continues after a stop the same run there, and where its files go."""
        place = f"{Path(values['run']).resolve()} {values['started']}"
        return {"id": hashlib.sha256(place.encode()).hexdigest()[:16], "dir": values["run"]}


class Trackio(Wandb):
    """Trackio, which has W&B's interface and knows a run by its name."""

    package = "trackio"

    def identity(self, values: Any) -> dict[str, Any]:
        return {}


TRACKERS: dict[str, type] = {"tensorboard": Tensorboard, "wandb": Wandb, "trackio": Trackio}


class Trackers:
    """The trackers of a run, each left out once it fails.

    settings: what the first event tells. warn: says a line to the person.
    """

    def __init__(self, names: tuple[str, ...], settings: dict[str, Any], warn: Callable[[str], None]):
        self.warn, self._step, self._texts = warn, 0, []
        self._open: dict[str, Tracker] = {}
        for name in names:
            try:
                self._open[name] = TRACKERS[name]() if name in TRACKERS else named("tracker", name, {}, {})
            except Exception as error:
                self._failed(name, error)
        self._send("settings", 0, settings)

    def tell(self, event: str, step: int, values: Any) -> None:
        """`scalars`, `evaluation`, or one `text`, which is sent with the others of its step."""
        if event == "text":
            if not self._texts or self._texts[0][0] == step:
                self._texts.append((step, values))
            else:
                self._texts = [(step, values)]
            return
        self._step = max(step, self._step)
        if event == "scalars":
            values = {name: value for name, value in values.items() if value is not None}
        self._send(event, step, values)
        texts, self._texts = [row for at, row in self._texts if at == step], []
        if texts and (step <= 1 or step % TEXTS_EVERY == 0):
            self._send("texts", step, texts[:TEXTS])

    def close(self) -> None:
        """The last event."""
        self._send("end", self._step, {})
        self._open = {}

    def _send(self, event: str, step: int, values: Any) -> None:
        for name, tracker in list(self._open.items()):
            try:
                tracker(event, step, values)
            except Exception as error:  # another's code, another's server: whatever it raises, the run continues
                del self._open[name]
                self._failed(name, error)

    def _failed(self, name: str, error: Exception) -> None:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        self.warn(f"WARNING: log.to: {name} failed ({text}); it gets nothing more, and the run continues without it")


@contextmanager
def tracked(config: Config, manifest: dict[str, Any]) -> Iterator[list[Callable[[str, int, Any], None]]]:
    """The trackers of `log.to` while a run works: what to tell, in the first process; in the others nothing."""
    from grpo.distributed import rank  # with PyTorch, which a check of the settings does without
    from grpo.runs.log import say

    if not config.log.to or rank():
        yield []
        return
    facts = {name: manifest[name] for name in ("stage", "seed", "started")}
    settings = {"run": config.run, "project": config.log.project, **facts, "config": asdict(config)}
    trackers = Trackers(config.log.to, settings, say)
    try:
        yield [trackers.tell]
    finally:
        trackers.close()


def check_tracker(name: str) -> str:
    """What is wrong with an entry of `log.to`; empty if nothing is. A module of the user's is imported."""
    if name in TRACKERS:
        package = getattr(TRACKERS[name], "package", name)
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed: pip install {package}"
        return ""
    try:
        named("tracker", name, TRACKERS, {})
    except Exception as error:  # the user's module may fail in any way at all
        return str(error)
    return ""


def numbers(event: str, values: dict[str, Any]) -> dict[str, float]:
    """The numbers among nested values, by names with slashes: `eval/sampled/accuracy`."""
    prefix = "eval." if event == "evaluation" else "train."
    flat = {prefix + key: value for key, value in flatten(values).items()}
    return {
        key.replace(".", "/"): float(value)
        for key, value in flat.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _about(row: dict[str, Any]) -> str:
    return f"{row.get('problem', '')}, gold {row.get('answer', '')}, rewards {row.get('rewards', {})}"


def _block(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
