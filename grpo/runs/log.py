"""What a run tells: a progress bar for the person, JSON lines for the record."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from grpo.distributed import rank
from grpo.runs.progress import Progress


class RunLog:
    """metrics.jsonl and completions.jsonl of a run.

    state: of the checkpoint that the run goes on from; what was written after it is cut off.
    """

    def __init__(self, folder: Path, state: dict[str, int] | None = None):
        state = state or {}
        self.metrics = _open_lines(folder / "metrics.jsonl", state.get("metrics", 0))
        self.completions = _open_lines(folder / "completions.jsonl", state.get("completions", 0))
        self.listeners: list[Callable[[str, int, Any], None]] = []
        """Called with `scalars` or `text`, the step and what is written of it."""

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """One line of metrics.jsonl; `step` counts finished steps, from 1. What is not finite becomes null."""
        # a mean over nothing is NaN, which is not JSON
        rounded = {k: float(f"{v:.6g}") if math.isfinite(v) else None for k, v in metrics.items()}
        _write(self.metrics, {"step": step, **rounded})
        for tell in self.listeners:
            tell("scalars", step, rounded)

    def sample(self, step: int, **facts: Any) -> None:
        """One line of completions.jsonl."""
        _write(self.completions, {"step": step, **facts})
        for tell in self.listeners:
            tell("text", step, facts)

    def position(self) -> dict[str, int]:
        """Length of both files in bytes, for a checkpoint."""
        return {name: os.fstat(getattr(self, name).fileno()).st_size for name in ("metrics", "completions")}

    def sync(self) -> None:
        """Wait until what was written is on the disk, so that no checkpoint is ahead of its lines."""
        for stream in (self.metrics, self.completions) if rank() == 0 else ():
            os.fsync(stream.fileno())

    def close(self) -> None:
        """Close the files."""
        self.metrics.close()
        self.completions.close()


def _open_lines(path: Path, length: int) -> IO[str]:
    """Open a file to go on after its first `length` bytes; the rest, half a line perhaps, is cut off."""
    if rank():  # the first process writes
        return open(os.devnull, "a", encoding="utf-8")
    path.touch()
    if (there := path.stat().st_size) < length:
        say(f"{path}: the last {length - there} bytes before the checkpoint are missing; the run goes on without them")
    os.truncate(path, min(length, there))
    return path.open("a", encoding="utf-8")


def _write(stream: IO[str], row: dict[str, Any]) -> None:
    stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    stream.flush()


def progress(items: Iterable | None = None, **options: Any) -> Progress:
    """How far a command is, on stderr; of several processes, the first shows it."""
    return Progress(items, disable=rank() > 0, **options)


def say(text: str) -> None:
    """A line for the person, without tearing a progress bar; of several processes, the first speaks."""
    if rank() == 0:
        tqdm.write(text, file=sys.stderr)
