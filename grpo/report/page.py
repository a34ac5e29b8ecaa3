"""`python -m grpo report FOLDER`: a table on the terminal, and report.html, which answers the questions that people ask
after a run: did it learn, does it hack, what does it write, which tokens were pushed, how did the metrics go?

FOLDER is a run folder, or a folder with runs anywhere below it: its report shows them together, and each gets its own
besides. A report can be made at any time; what a run has not written yet, or was cut off while writing, is left out.
The page is one file: its script, its data and its charts are inside, and nothing is loaded from elsewhere.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2

from grpo.report import curves, expected, hacks, learn, samples, tokens
from grpo.report.glossary import REJECTION
from grpo.report.read import Row, RunData, as_number, find_runs, read_run
from grpo.report.tables import evaluation_rows, evaluation_table
from grpo.runs.files import write_text
from grpo.runs.folder import now

PAGE_BYTES = 720_000  # of packed completions in a page, all runs together
SAMPLE = {"id": "id", "answer": "answer", "question": "question", "text": "response"}  # of rejection's samples.jsonl
HELD_OUT_BYTES = 120_000  # of packed held-out completions


def write_reports(folder: Path) -> str:
    """Write report.html into the folder and into every run below it. Returns the text for the terminal.

    Raises ValueError where there is nothing to report or nothing can be written.
    """
    paths = find_runs(folder)
    runs = {path: read_run(path, name_in(path, folder)) for path in paths}
    try:
        for where, shown in ({path: [run] for path, run in runs.items()} | {folder: list(runs.values())}).items():
            write_text(where / "report.html", page(where.resolve().name, shown))
    except OSError as error:
        raise ValueError(f"{error.filename or folder}: report.html cannot be written: {error.strerror}") from None
    evaluated = {run.name: run.evaluation for run in runs.values() if run.evaluation}
    parts = [evaluation_table(evaluated)] if evaluated else []
    if others := [f"{run.name}: no evaluation; {run.status}" for run in runs.values() if not run.evaluation]:
        parts.append("\n".join(others))
    return "\n\n".join([*parts, f"report: {folder / 'report.html'}"])


def write_report(run: Path) -> None:
    """Write the page of one run folder. Raises OSError, ValueError."""
    write_text(run / "report.html", page(run.resolve().name, [read_run(run)]))


def write_folder(folder: Path, evaluations: dict[str, Row]) -> None:
    """Write the page of a folder of runs, and none of its runs'. evaluations: what to show of runs in place of their
    eval.json, by their path below the folder. Raises OSError, ValueError."""
    runs = [read_run(path, name_in(path, folder)) for path in find_runs(folder)]
    runs = [replace(run, evaluation=evaluations.get(run.name, run.evaluation)) for run in runs]
    write_text(folder / "report.html", page(folder.resolve().name, runs))


def name_in(run: Path, folder: Path) -> str:
    """How a run is called in the report of a folder: its path below it."""
    return run.relative_to(folder).as_posix() if run != folder else run.resolve().name


def page(title: str, runs: list[RunData]) -> str:
    """One self-contained HTML page; all text of models and data is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("grpo.report"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    evaluated = [run for run in runs if run.evaluation]
    trained = [run for run in runs if run.metrics]
    rows = sum(len(run.completions) for run in runs)
    several, band = trained if len(trained) > 1 else [], expected.recorded()
    html = environment.get_template("report.html").render(
        title=title,
        written=f"Written {now()} from {len(runs)} run{'s' if len(runs) > 1 else ''}.",
        unfinished=any(not run.finished for run in runs),
        runs=[section(run, PAGE_BYTES * len(run.completions) // max(1, rows), band) for run in runs],
        learn={
            "verdicts": learn.verdicts(runs),
            "dots": learn.dots(evaluated),
            "names": [run.name for run in evaluated],
            "levels": [(name, cells, "") for name, cells in learn.levels(evaluated)],
            "figures": evaluation_rows([run.evaluation for run in evaluated]),
        },
        curves=[curves.stage(name, members, band) for name, members in by_stage(trained).items()],
        differing=[(key, cells, "") for key, cells in curves.differing(several)] if several else [],
        setting_names=[run.name for run in several if run.settings],
        held_out=samples.packed_held_out(runs, HELD_OUT_BYTES),
        markers=json.dumps(samples.MARKERS),
    )
    return html.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be written


def by_stage(runs: list[RunData]) -> dict[str, list[RunData]]:
    """Runs of one stage share charts: the loss of SFT is not that of GRPO."""
    found: dict[str, list[RunData]] = {}
    for run in runs:
        found.setdefault(run.stage, []).append(run)
    return found


def section(run: RunData, most: int, recorded: Row) -> dict[str, Any]:
    """What the page shows of one run. most: characters of its packed completions; recorded: the band of other runs."""
    grpo = run.stage == "grpo" or any("reward" in row for row in run.metrics)
    blob, note = samples.packed(run, most)
    sampled, band = as_number(run.rejection.get("sampled")) or math.nan, expected.band_of(run, recorded)
    return {
        "data": run,
        "accuracy": learn.accuracy_chart(run, band),
        "accuracy_legend": accuracy_legend(run, band),
        "expected": expected.sentence(run, recorded),
        "accuracy_about": "Held-out problems over the finished steps; training problems are other ones at each step."
        if run.curve
        else "On training problems, which are other ones at each step. A held-out curve needs eval.every.",
        "hack": hack_section(run) if grpo and run.metrics else None,
        "newest": samples.newest_group(run),
        "pushed": tokens.over_the_run(run),
        "moved": tokens.moved_tokens(run),
        "rejection": [
            (k, [v, f"{as_number(v) / sampled:.3f}"], REJECTION.get(k, "")) for k, v in run.rejection.items()
        ],
        "samples": [{name: str(row.get(key, "")) for name, key in SAMPLE.items()} for row in run.kept_samples],
        "blob": blob,
        "blob_note": note,
    }


def accuracy_legend(run: RunData, band: Row) -> list[tuple[str, str]]:
    """(style, name) of the lines of a run's accuracy chart, and of the band behind them."""
    found = [("s0", "training")]
    found += [("s1", "held-out, sampled"), ("s2", "held-out, greedy")] if run.curve else []
    return found + ([("expected", f"expected in training, {expected.seeds_of(band)} seeds")] if band else [])


def hack_section(run: RunData) -> dict[str, Any]:
    """The second question, of one run."""
    signs, spread = hacks.signs_of(run), hacks.spread_chart(run)
    return {
        "headline": hacks.headline(run, signs),
        "signs": signs,
        "earlier": hacks.earlier_warnings(run, signs),
        "rewards": hacks.rewards_chart(run),
        "legend": hacks.legend(run),
        "spread": spread,
        "spread_legend": [(f"s{i % 8}", name) for i, name in enumerate(run.setup.weights)] if spread else [],
        "paid": [(name, cells, "") for name, cells in hacks.paid_by(run)],
    }
