"""What a run tells: a progress bar for the person, JSON lines for the record."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from grpo.runs import write_text


class RunLog:
    """metrics.jsonl and completions.jsonl of a run; on resume, lines after the checkpoint's step are cut off."""

    def __init__(self, folder: Path, resume_step: int = 0, tensorboard: bool = False):
        self.metrics = _open_lines(folder / "metrics.jsonl", resume_step)
        self.completions = _open_lines(folder / "completions.jsonl", resume_step)
        self.writer = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ValueError("log.tensorboard=true needs `pip install grpo[tensorboard]`") from None
            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step)

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """One line of metrics.jsonl; `step` counts finished steps, from 1. What is not finite becomes null."""
        # a mean over nothing is NaN, which is not JSON
        rounded = {k: float(f"{v:.6g}") if math.isfinite(v) else None for k, v in metrics.items()}
        self.metrics.write(json.dumps({"step": step, **rounded}, allow_nan=False) + "\n")
        self.metrics.flush()
        if self.writer:
            for name, value in metrics.items():
                self.writer.add_scalar(name, value, step)

    def sample(self, step: int, **facts: Any) -> None:
        """One line of completions.jsonl."""
        self.completions.write(json.dumps({"step": step, **facts}, ensure_ascii=False) + "\n")
        self.completions.flush()

    def close(self) -> None:
        """Close the files."""
        for stream in (self.metrics, self.completions, self.writer):
            if stream:
                stream.close()


def _open_lines(path: Path, resume_step: int):
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        # a line that was cut short by a kill is after the checkpoint as well
        kept = [x for x in lines if x.endswith("\n") and json.loads(x)["step"] <= resume_step]
        write_text(path, "".join(kept))
    return path.open("a", encoding="utf-8")


def progress(items: Iterable | None = None, **options: Any) -> tqdm:
    """A progress bar on stderr, in plain ASCII where the terminal has nothing else."""
    return tqdm(items, file=sys.stderr, dynamic_ncols=True, mininterval=0.5, **options)


def say(text: str) -> None:
    """A line for the person, without tearing a progress bar."""
    tqdm.write(text, file=sys.stderr)


def table(headers: list[str], rows: list[list[str]]) -> str:
    """A plain text table, numbers to the right."""
    columns = list(zip(headers, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [headers, ["-" * w for w in widths], *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)
