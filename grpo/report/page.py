"""`python -m grpo report FOLDER`: a table on the terminal, and report.html with all that a run wrote down.

FOLDER is a run folder or the folder that holds several: its report compares them, and each gets its own besides.
A report can be made at any time; what a run has not written yet, or was cut off while writing, is left out.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo.evaluate import evaluation_rows, evaluation_table
from grpo.report.charts import Line, chart, number
from grpo.report.glossary import EVALUATION, REJECTION, explain, in_order
from grpo.runs.folder import write_text

RUN_FILES = ("manifest.json", "config.yaml", "metrics.jsonl", "eval.json")  # any of them makes a folder a run
COMPARED = ("accuracy, sampled", "accuracy, greedy", "accuracy when reflecting", "accuracy otherwise", "format rate")
MOST_CHARACTERS = 3000  # of one completion


class NoRun(ValueError):
    """A folder without runs, in one line."""


def write_reports(folder: Path) -> str:
    """Write report.html into the folder and into every run below it. Returns the text for the terminal.

    Raises NoRun where there is nothing to report or nothing can be written.
    """
    runs = find_runs(folder)
    table = evaluation_table({run.name: run.evaluation for run in runs})
    try:
        import jinja2  # noqa: F401
    except ImportError:
        return f"{table}\n\nno report.html: it needs `pip install grpo[report]`"
    try:
        for where, shown in ({run.folder: [run] for run in runs} | {folder: runs}).items():
            write_text(where / "report.html", page(where.resolve().name, shown))
    except OSError as error:
        raise NoRun(f"{error.filename or folder}: report.html cannot be written: {error.strerror}") from None
    return f"{table}\n\nreport: {folder / 'report.html'}"


# ---- reading: whatever is there -----------------------------------------------------------------------------


@dataclass(frozen=True)
class RunFiles:
    """What a run folder holds; empty where a file is missing."""

    name: str
    folder: Path
    manifest: dict[str, Any]
    config: str
    metrics: list[dict[str, Any]]
    completions: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    """What stage 3 kept."""
    rejection: dict[str, Any]
    evaluation: dict[str, Any]
    unreadable: list[str]
    """Files that are there and (in part) make no sense."""


def find_runs(folder: Path) -> list[RunFiles]:
    """The run in a folder, or those in the folders directly below it, by name."""
    if not folder.is_dir():
        raise NoRun(f"{folder}: no such folder")
    inside = [folder] if _is_run(folder) else sorted(f for f in folder.iterdir() if f.is_dir() and _is_run(f))
    if not inside:
        raise NoRun(f"{folder}: holds no run; name a run folder or the folder that holds several")
    return [read_run(f) for f in inside]


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in RUN_FILES)


def read_run(folder: Path) -> RunFiles:
    """Read a run folder, finished or not."""
    unreadable: list[str] = []

    def text(name: str) -> str:
        path = folder / name
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def rows(name: str) -> list[dict[str, Any]]:
        found = [_parse(line) for line in text(name).splitlines() if line.strip()]
        if None in found:
            unreadable.append(f"{name} ({found.count(None)} of {len(found)} lines)")
        return [row for row in found if row is not None]

    def one(name: str) -> dict[str, Any]:
        content = text(name)
        if content and _parse(content) is None:
            unreadable.append(name)
        return _parse(content) or {}

    return RunFiles(
        name=folder.resolve().name,
        folder=folder,
        manifest=one("manifest.json"),
        config=text("config.yaml"),
        metrics=rows("metrics.jsonl"),
        completions=rows("completions.jsonl"),
        samples=rows("samples.jsonl"),
        rejection=one("rejection.json"),
        evaluation=one("eval.json"),
        unreadable=unreadable,
    )


def _parse(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


# ---- the page -----------------------------------------------------------------------------------------------


def page(title: str, runs: list[RunFiles]) -> str:
    """One self-contained HTML page: no script, nothing loaded from elsewhere, all text of models and data escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("grpo.report"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    html = environment.get_template("report.html").render(
        title=title,
        rows=[
            (label, cells, EVALUATION.get(label.strip().rstrip("0123456789").replace("@", "@k"), ""))
            for label, cells in evaluation_rows([run.evaluation for run in runs])
        ],
        comparison=comparison(runs) if len(runs) > 1 else "",
        compared=COMPARED,
        runs=[view(run) for run in runs],
    )
    return html.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be written


def comparison(runs: list[RunFiles]) -> str:
    """The evaluated shares from run to run, as a chart; the bars are the 95 % interval of the sampled accuracy."""
    rows = dict(evaluation_rows([run.evaluation for run in runs]))
    intervals = [run.evaluation.get("sampled", {}).get("ci95") for run in runs]
    lines = [
        Line(label, [(float(x), math.nan if cell == "-" else float(cell)) for x, cell in enumerate(rows[label])])
        for label in COMPARED
    ]
    bars = tuple((float(x), *ci) for x, ci in enumerate(intervals) if ci and all(map(math.isfinite, ci)))
    return chart([Line(lines[0].name, lines[0].points, bars), *lines[1:]], [run.name for run in runs], 760, 260)


def view(run: RunFiles) -> dict[str, Any]:
    """What the template shows of a run."""
    finished = bool(run.manifest.get("finished"))
    last = _number(run.metrics[-1].get("step")) if run.metrics else 0.0
    sampled = _number(run.rejection.get("sampled")) or math.nan
    return {
        "name": run.name,
        "stage": run.manifest.get("stage", "run"),
        "status": "complete" if finished else f"unfinished, {number(last)} steps so far",
        "complete": finished,
        "evaluated": bool(run.evaluation),
        "unreadable": run.unreadable,
        "facts": flat(run.manifest),
        "config": run.config,
        "curves": curves(run.metrics),
        "rejection": [(k, v, f"{_number(v) / sampled:.3f}", REJECTION.get(k, "")) for k, v in run.rejection.items()],
        "completions": [completion(row) for row in pick(run.completions)],
        "samples": [completion(row) for row in run.samples[:4]],
    }


def curves(metrics: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, str]]]]:
    """A chart per logged metric, in the glossary's groups: (title, charts)."""
    rows = [row for row in metrics if math.isfinite(_number(row.get("step")))]
    names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))

    def card(name: str) -> dict[str, str]:
        points = [(_number(row["step"]), _number(row.get(name))) for row in rows]
        last = next((y for _, y in reversed(points) if math.isfinite(y)), math.nan)
        return {"name": name, "last": number(last), "svg": chart([Line(name, points)]), "text": explain(name)}

    return [(title, [card(name) for name in members]) for title, members in in_order(names).items()]


def pick(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few completions: two of the first step, four of the last."""
    if not rows:
        return []
    first, last = ([row for row in rows if row.get("step") == end.get("step")] for end in (rows[0], rows[-1]))
    return last[:4] if first == last else first[:2] + last[:4]


def completion(row: dict[str, Any]) -> dict[str, Any]:
    """A line of completions.jsonl or samples.jsonl as the template shows it."""
    text = str(row.get("completion", row.get("response", "")))
    cut = len(text) - MOST_CHARACTERS
    rewards = row.get("rewards") if isinstance(row.get("rewards"), dict) else {}
    return {
        "step": row.get("step"),
        "problem": row.get("problem", row.get("id", "")),
        "question": row.get("question", ""),
        "answer": row.get("answer", ""),
        "text": text if cut <= 0 else f"{text[:MOST_CHARACTERS]} ... ({cut} more characters)",
        "rewards": {k: "does not apply" if v is None else number(_number(v)) for k, v in rewards.items()},
    }


def flat(value: Any, key: str = "") -> list[tuple[str, str]]:
    """Nested dicts -> (dotted key, text)."""
    if isinstance(value, dict):
        return [pair for name, inner in value.items() for pair in flat(inner, f"{key}.{name}" if key else name)]
    return [(key, "none" if value is None else str(value))]


def _number(value: Any) -> float:
    """A value out of a JSON file as a float; NaN where it is no number."""
    if isinstance(value, int) and abs(value) < 1 << 53 and not isinstance(value, bool):
        return float(value)
    return value if isinstance(value, float) else math.nan
