"""Run folders made by hand, for the tests of the report."""

from __future__ import annotations

import json
from pathlib import Path

from grpo.report.page import write_reports

EXPERIMENTS = Path(__file__).parent.parent / "experiments" / "demo"


def evaluation(accuracy: float = 0.5, **sampled) -> dict:
    figures = {
        "accuracy": accuracy,
        "format": 0.875,
        "reflection_rate": 0.25,
        "reflections": 1.5,
        "accuracy_reflecting": None,
        "accuracy_others": 0.4,
        "length": 41.25,
        "truncated": 0.0,
        "ci95": [accuracy - 0.125, accuracy + 0.125],
        "se": 0.03125,
        "levels": {"Level 5": 0.25},
        "pass_at": {"1": accuracy, "4": 0.75},
        "maj": {"4": 0.625},
        "rewards": {"accuracy": accuracy},
    }
    paired = {"against": "the/parent", "problems": 256, "sampled": 0.1, "sampled_ci95": [0.02, 0.18]}
    paired |= {"greedy": 0.0, "greedy_ci95": [-0.1, 0.1]}
    return {"paired": paired, "sampled": figures | sampled, "greedy": {"accuracy": 0.9375, "ci95": [0.8, 1.0]}}


def write_run(folder: Path, **files) -> Path:
    """A run folder by hand: a finished GRPO run, but for what `files` replaces (None: leave out)."""
    content = {
        "manifest.json": {"stage": "grpo", "parent": {"model": "the/parent", "seed": 7}, "finished": "today"},
        "config.yaml": "seed: 11\n",
        "metrics.jsonl": [{"step": i, "reward": i / 10, "reward_accuracy": 0.5, "kl": 0.01 * i} for i in range(1, 6)],
        "completions.jsonl": [
            {"step": 1, "problem": "p/1", "answer": "4", "completion": "two and two", "rewards": {"accuracy": 0.0}}
        ],
        "eval.json": evaluation(),
    }
    folder.mkdir(parents=True)
    for name, value in (content | {k.replace("__", "."): v for k, v in files.items()}).items():
        if isinstance(value, list):
            value = "".join(json.dumps(row) + "\n" for row in value)
        if value is not None:
            (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return folder


def html_of(folder: Path) -> str:
    write_reports(folder)
    return (folder / "report.html").read_text(encoding="utf-8")
