"""`python -m grpo report FOLDER`: a table on the terminal, and report.html with all that a run wrote down.

FOLDER is a run folder or the folder that holds several: its report shows them together, and each gets its own besides.
A report can be made at any time; what a run has not written yet, or was cut off while writing, is left out.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jinja2

from grpo.report.charts import chart, number
from grpo.report.glossary import REJECTION, explain, in_order
from grpo.report.tables import evaluation_rows, evaluation_table
from grpo.runs.files import write_text
from grpo.runs.folder import flatten

RUN_FILES = ("manifest.json", "config.yaml", "metrics.jsonl", "eval.json")  # any of them makes a folder a run
MOST_CHARACTERS = 3000  # of one completion

Row = dict[str, Any]


def write_reports(folder: Path) -> str:
    """Write report.html into the folder and into every run below it. Returns the text for the terminal.

    Raises ValueError where there is nothing to report or nothing can be written.
    """
    runs = {path: read_run(path) for path in find_runs(folder)}
    try:
        for where, shown in ({path: [run] for path, run in runs.items()} | {folder: list(runs.values())}).items():
            write_text(where / "report.html", page(where.resolve().name, shown))
    except OSError as error:
        raise ValueError(f"{error.filename or folder}: report.html cannot be written: {error.strerror}") from None
    table = evaluation_table({run["name"]: run["evaluation"] for run in runs.values()})
    return f"{table}\n\nreport: {folder / 'report.html'}"


def find_runs(folder: Path) -> list[Path]:
    """The folder if it is a run, or else the runs directly below it, by name."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    for found in ([folder], sorted(path for path in folder.iterdir() if path.is_dir())):
        if runs := [path for path in found if any((path / name).is_file() for name in RUN_FILES)]:
            return runs
    raise ValueError(f"{folder}: holds no run; name a run folder or the folder that holds several")


def read_run(folder: Path) -> Row:
    """What the page shows of a run folder, finished or not; empty where a file is missing."""
    unreadable: list[str] = []

    def text(name: str) -> str:
        path = folder / name
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def rows(name: str) -> list[Row]:
        """The objects of a file: one a line of a .jsonl, one in a .json."""
        parts = text(name).splitlines() if name.endswith(".jsonl") else [text(name)]
        found = [_parse(part) for part in parts if part.strip()]
        if None in found:
            unreadable.append(name)
        return [row for row in found if row is not None]

    manifest, rejection, evaluation = (
        next(iter(rows(name)), {}) for name in ("manifest.json", "rejection.json", "eval.json")
    )
    metrics = rows("metrics.jsonl")
    sampled = _number(rejection.get("sampled")) or math.nan
    steps = number(_number(metrics[-1].get("step")) if metrics else 0.0)
    return {
        "name": folder.resolve().name,
        "stage": manifest.get("stage", "run"),
        "status": "complete" if manifest.get("finished") else f"unfinished, {steps} steps so far",
        "facts": {key: "none" if value is None else value for key, value in flatten(manifest).items() if key},
        "config": text("config.yaml"),
        "curves": curves(metrics),
        "rejection": [(k, [v, f"{_number(v) / sampled:.3f}"], REJECTION.get(k, "")) for k, v in rejection.items()],
        "completions": {
            "Sampled completions, with what each reward gave them": [*map(completion, pick(rows("completions.jsonl")))],
            "Samples that were kept": [completion(row) for row in rows("samples.jsonl")[:4]],
        },
        "evaluation": evaluation,
        "unreadable": unreadable,
    }


def _parse(text: str) -> Row | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _number(value: Any) -> float:
    """A value out of a JSON file as a float; NaN where it is no number."""
    if isinstance(value, int) and abs(value) < 1 << 53 and not isinstance(value, bool):
        return float(value)
    return value if isinstance(value, float) else math.nan


def page(title: str, runs: list[Row]) -> str:
    """One self-contained HTML page: no script, nothing loaded from elsewhere, all text of models and data escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("grpo.report"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    figures = evaluation_rows([run["evaluation"] for run in runs])
    html = environment.get_template("report.html").render(title=title, figures=figures, runs=runs)
    return html.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be written


def curves(metrics: list[Row]) -> dict[str, list[dict[str, str]]]:
    """A chart per logged metric, below the titles of the glossary's groups."""
    rows = [row for row in metrics if math.isfinite(_number(row.get("step")))]
    names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))

    def card(name: str) -> dict[str, str]:
        points = [(_number(row["step"]), _number(row.get(name))) for row in rows]
        last = next((y for _, y in reversed(points) if math.isfinite(y)), math.nan)
        return {"name": name, "last": number(last), "svg": chart(name, points), "text": explain(name)}

    return {title: [card(name) for name in members] for title, members in in_order(names).items()}


def pick(rows: list[Row]) -> list[Row]:
    """A few completions: two of the first step, four of the last."""
    first, last = ([row for row in rows if row.get("step") == rows[end].get("step")] for end in (0, -1))
    return last[:4] if first == last else first[:2] + last[:4]


def completion(row: Row) -> Row:
    """A line of completions.jsonl or samples.jsonl as the template shows it."""
    text = str(row.get("completion", row.get("response", "")))
    cut = len(text) - MOST_CHARACTERS
    rewards = row.get("rewards") if isinstance(row.get("rewards"), dict) else {}
    return {
        **{key: row.get(key, "") for key in ("step", "question", "answer")},
        "problem": row.get("problem", row.get("id", "")),
        "text": text if cut <= 0 else f"{text[:MOST_CHARACTERS]} ... ({cut} more characters)",
        "rewards": {k: "does not apply" if v is None else number(_number(v)) for k, v in rewards.items()},
    }
