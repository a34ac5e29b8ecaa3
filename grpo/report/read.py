"""Run folders as the page sees them, finished or not: what is missing is empty, what is damaged is named."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from grpo.runs.folder import flatten
from grpo.runs.setup import Setup

RUN_FILES = ("manifest.json", "config.yaml", "metrics.jsonl", "eval.json")  # any of them makes a folder a run
INSIDE = ("model", "best", "checkpoints", "model.partial")  # folders of a run, which hold none

Row = dict[str, Any]


@dataclass(frozen=True)
class RunData:
    """What a run folder holds."""

    name: str
    stage: str
    status: str
    finished: bool
    facts: Row
    """The manifest, by dotted keys."""
    parent: str
    config: str
    settings: Row
    """The configuration, by dotted keys; empty where it cannot be read."""
    setup: Setup
    metrics: list[Row]
    completions: list[Row]
    kept_samples: list[Row]
    """A few of rejection sampling's."""
    warnings: list[Row]
    rejection: Row
    evaluation: Row
    judged: list[Row]
    """The rows of eval.jsonl."""
    curve: list[Row]
    unreadable: list[str]

    def series(self, metric: str) -> list[tuple[float, float]]:
        """(step, value) of a metric; NaN where it was not logged."""
        return [(float(row["step"]), as_number(row.get(metric))) for row in self.metrics]


def parent_folder(run: RunData) -> PurePath:
    """The run, or the model, that a run began from: runs/2-sft, also where it names runs/2-sft/model."""
    path = PurePath(run.parent)
    return path.parent if path.name == "model" else path


def find_runs(folder: Path) -> list[Path]:
    """The folder if it is a run, or else all runs below it, in the order in which people count."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if runs := list(_runs_below(folder)):
        return runs
    raise ValueError(f"{folder}: holds no run; name a run folder or the folder that holds several")


def _runs_below(folder: Path, depth: int = 0) -> list[Path]:
    if any((folder / name).is_file() for name in RUN_FILES):
        return [folder]
    if depth > 5 or not folder.is_dir():
        return []
    inner = [p for p in folder.iterdir() if p.is_dir() and p.name not in INSIDE and not p.name.startswith(".")]
    inner.sort(key=lambda p: natural(p.name))
    return [run for path in inner for run in _runs_below(path, depth + 1)]


def natural(name: str) -> list[tuple[int, str]]:
    """A key by which "seed-2" comes before "seed-10"."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def read_run(folder: Path, name: str = "") -> RunData:
    """What the page shows of a run folder."""
    unreadable: list[str] = []

    def text(file: str) -> str:
        path = folder / file
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def rows(file: str) -> list[Row]:
        """The objects of a file: one a line of a .jsonl, one in a .json."""
        parts = text(file).split("\n") if file.endswith(".jsonl") else [text(file)]
        found = [_parse(part) for part in parts if part.strip()]
        if None in found:
            unreadable.append(file)
        return [row for row in found if row is not None]

    manifest, rejection, evaluation = (
        next(iter(rows(file)), {}) for file in ("manifest.json", "rejection.json", "eval.json")
    )
    metrics = [row for row in rows("metrics.jsonl") if math.isfinite(as_number(row.get("step")))]
    settings = _settings(text("config.yaml"))
    steps = int(as_number(metrics[-1]["step"])) if metrics else 0
    parent = manifest.get("parent") if isinstance(manifest.get("parent"), dict) else {}
    return RunData(
        name=name or folder.resolve().name,
        stage=str(manifest.get("stage", "run")),
        status="complete" if manifest.get("finished") else f"unfinished, {steps} steps so far",
        finished=bool(manifest.get("finished")),
        facts={key: "none" if value is None else value for key, value in flatten(manifest).items() if key},
        parent=str(parent.get("model", "")),
        config=text("config.yaml"),
        settings=flatten(settings) if settings else {},
        setup=_setup(settings),
        metrics=metrics,
        completions=rows("completions.jsonl"),
        kept_samples=rows("samples.jsonl")[:4],
        warnings=rows("warnings.jsonl"),
        rejection=rejection,
        evaluation=evaluation,
        judged=[row for row in rows("eval.jsonl") if "problem" in row],
        curve=[row for row in rows("curve.jsonl") if math.isfinite(as_number(row.get("step")))],
        unreadable=sorted(unreadable),
    )


def _settings(text: str) -> Row:
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _setup(settings: Row) -> Setup:
    try:
        return Setup.of(settings)
    except (TypeError, ValueError):
        return Setup.of({})


def _parse(text: str) -> Row | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def as_number(value: Any) -> float:
    """A value out of a JSON file as a float; NaN where it is no number."""
    if isinstance(value, int) and abs(value) < 1 << 53 and not isinstance(value, bool):
        return float(value)
    return value if isinstance(value, float) else math.nan
