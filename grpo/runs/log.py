"""What a run tells: a progress bar for the person, JSON lines for the record."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from grpo.distributed import rank
from grpo.runs.progress import Progress


class RunLog:
    """metrics.jsonl, completions.jsonl and warnings.jsonl of a run.

    state: of the checkpoint that the run continues from; what was written after it is cut off. megabytes: about how
    large completions.jsonl may become in a run of `steps` steps.
    """

    def __init__(self, folder: Path, state: dict[str, int] | None = None, megabytes: float = 64.0, steps: int = 0):
        state = state or {}
        self.metrics = _open_lines(folder / "metrics.jsonl", state.get("metrics", 0))
        self.completions = _open_lines(folder / "completions.jsonl", state.get("completions", 0))
        self.warnings = _open_lines(folder / "warnings.jsonl", state.get("warnings", 0))
        self.rows = _read_lines(folder / "metrics.jsonl")
        """All lines of metrics.jsonl, those from before a stop too."""
        self.warned = {row["kind"]: row["step"] for row in _read_lines(folder / "warnings.jsonl")}
        """The last step at which each kind of warning was given."""
        self._bytes, self._steps, self._pending = round(megabytes * 1e6), steps, []
        self.listeners: list[Callable[[str, int, Any], None]] = []
        """Called with `scalars` or `text`, the step and what is written of it."""

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """One line of metrics.jsonl; `step` counts finished steps, from 1. What is not finite becomes null."""
        # a mean over nothing is NaN, which is not JSON
        rounded = {k: float(f"{v:.6g}") if math.isfinite(v) else None for k, v in metrics.items()}
        self.rows.append({"step": step, **rounded})
        _write(self.metrics, self.rows[-1])
        self._tell("scalars", step, rounded)

    def warn(self, step: int, kind: str, text: str, **facts: Any) -> None:
        """One line of warnings.jsonl."""
        self.warned[kind] = step
        _write(self.warnings, {"step": step, "kind": kind, "text": text, **facts})

    def sample(self, step: int, **facts: Any) -> None:
        """One line of completions.jsonl, if `keep_samples` keeps those of the step."""
        self._pending.append({"step": step, **facts})
        self._tell("text", step, facts)  # those of a step come before its scalars

    def keep_samples(self, step: int, flagged: bool = False) -> None:
        """Write what was sampled in a step, or leave it out: all steps while the bound allows, else every second or
        fourth and so on. The first, the last and the flagged ones are written in any case.
        """
        lines, self._pending = "".join(map(_line, self._pending)), []
        if not lines:
            return
        size, there = len(lines.encode()), os.fstat(self.completions.fileno()).st_size
        every, left = 1, max(0, self._steps - step)
        # a fifth of the room is left for flagged steps and for texts that grow
        while every <= left and there + size * (1 + left / every) > 0.8 * self._bytes:
            every *= 2
        kept = flagged or step <= 1 or step == self._steps
        if kept or (step % every == 0 and there + size <= self._bytes):
            self.completions.write(lines)
            self.completions.flush()

    def _tell(self, kind: str, step: int, what: dict[str, Any]) -> None:
        for listener in self.listeners:
            listener(kind, step, what)

    def position(self) -> dict[str, int]:
        """Length of the files in bytes, for a checkpoint."""
        return {name: os.fstat(stream.fileno()).st_size for name, stream in self._files().items()}

    def sync(self) -> None:
        """Wait until what was written is on the disk, so that no checkpoint is ahead of its lines."""
        for stream in self._files().values() if rank() == 0 else ():
            os.fsync(stream.fileno())

    def close(self) -> None:
        """Close the files."""
        for stream in self._files().values():
            stream.close()

    def _files(self) -> dict[str, IO[str]]:
        return {"metrics": self.metrics, "completions": self.completions, "warnings": self.warnings}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that `_open_lines` has opened, so that its last line is whole; damaged ones are left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        with suppress(ValueError, RecursionError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and "step" in row]


def _open_lines(path: Path, length: int) -> IO[str]:
    """Open a file to continue after its first `length` bytes; the rest, half a line perhaps, is cut off."""
    if rank():  # the first process writes
        return open(os.devnull, "a", encoding="utf-8")
    path.touch()
    if (there := path.stat().st_size) < length:
        say(
            f"{path}: the last {length - there} bytes before the checkpoint are missing; the run continues without them"
        )
    os.truncate(path, min(length, there))
    return path.open("a", encoding="utf-8")


def _write(stream: IO[str], row: dict[str, Any]) -> None:
    stream.write(_line(row))
    stream.flush()


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def progress(items: Iterable | None = None, **options: Any) -> Progress:
    """How far a command is, on stderr; of several processes, the first shows it."""
    return Progress(items, disable=rank() > 0, **options)


def say(text: str) -> None:
    """A line for the person, without tearing a progress bar; of several processes, the first speaks."""
    if rank() == 0:
        tqdm.write(text, file=sys.stderr)
