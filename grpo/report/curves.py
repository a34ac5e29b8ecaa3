"""Curves of every metric: runs over each other, seeds of one setting as a band, and what their settings differ in."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from grpo.report.charts import COLOURS, Series, finite, line_chart, number
from grpo.report.expected import band_of, behind, seeds_of
from grpo.report.glossary import explain, in_order, unit_of
from grpo.report.read import Row, RunData, parent_folder

FREE = (  # of an arm's settings
    "run", "seed", "threads", "parallel", "fsdp_gather", "log.", "sandbox.", "model.path", "eval.folder",
)  # fmt: skip
SEEDS = 3  # runs of one setting from which on they are drawn as a mean with a band


def arms(runs: list[RunData]) -> dict[str, list[RunData]]:
    """Runs that differ in their seed alone, by the name of their folder or of the first of them."""
    found: dict[Any, list[RunData]] = {}
    for run in runs:
        settings = {k: str(v) for k, v in run.settings.items() if not k.startswith(FREE)}
        key = (run.stage, *sorted(settings.items())) if run.settings else run.name
        found.setdefault(key, []).append(run)
    named = {}
    for members in [some for together in found.values() for some in apart(together)]:
        name = members[0].name
        if len(members) >= SEEDS:
            folder = PurePath(name).parent.name or PurePath(name).name
            name = f"{folder} ({len(members)} seeds)"
        while name in named:
            name += "'"
        named[name] = members
    return named


def apart(runs: list[RunData]) -> list[list[RunData]]:
    """Runs of equal settings, in groups in which each seed stands once: by the model they began from, or one by one."""
    for key in (lambda run: "", lambda run: parent_folder(run).name):
        groups: dict[str, list[RunData]] = {}
        for run in runs:
            groups.setdefault(key(run), []).append(run)
        if all(len({run.settings.get("seed") for run in some}) == len(some) for some in groups.values()):
            return list(groups.values())
    return [[run] for run in runs]


def stage(name: str, runs: list[RunData], recorded: Row) -> dict[str, Any]:
    """The charts of the runs of a stage. recorded: the band of recorded runs, drawn where a run has their settings."""
    band = next((found for run in runs if (found := band_of(run, recorded))), {})
    groups, constants = cards(runs, band)
    expected = [("expected", f"expected, {seeds_of(band)} seeds")] if band else []
    return {"name": name, "groups": groups, "constants": constants, "legend": legend(runs) + expected}


def cards(runs: list[RunData], band: Row) -> tuple[dict[str, list[dict[str, str]]], list[tuple[str, str, str]]]:
    """A chart per logged metric below the titles of the glossary's groups; and (name, value, meaning) of what never
    changes."""
    runs = [run for run in runs if run.metrics]
    names = list(dict.fromkeys(name for run in runs for row in run.metrics for name in row if name != "step"))
    grouped, constants, drawn = arms(runs), [], {}
    for name in names:
        values = {y for run in runs for _, y in finite(run.series(name))}
        if len(values) == 1 and sum(len(run.metrics) for run in runs) > 1:
            constants.append((name, number(values.pop()), explain(name)))
        else:
            drawn[name] = _card(name, grouped, bool(values), behind(name, band))
    return {title: [drawn[n] for n in members] for title, members in in_order(list(drawn)).items()}, constants


def _card(name: str, grouped: dict[str, list[RunData]], any_value: bool, areas: list[Series]) -> dict[str, str]:
    series = [
        s for i, (arm, members) in enumerate(grouped.items()) for s in arm_series(name, arm, members, f"s{i % COLOURS}")
    ]
    lasts = [finite(s.points)[-1][1] for s in series if finite(s.points)]
    return {
        "name": name,
        "last": number(lasts[-1]) if len(lasts) == 1 else "",
        "unit": unit_of(name),
        "text": explain(name),
        "svg": line_chart(name, areas + series, unit_of(name)) if any_value else "",
    }


def arm_series(metric: str, arm: str, members: list[RunData], style: str) -> list[Series]:
    """One line per run, or the mean of an arm's seeds with the band from the lowest to the highest."""
    if len(members) < SEEDS:
        return [Series(run.name, run.series(metric), style) for run in members]
    by_step: dict[float, list[float]] = {}
    for run in members:
        for x, y in finite(run.series(metric)):
            by_step.setdefault(x, []).append(y)
    steps = sorted(x for x, ys in by_step.items() if len(ys) == len(members))
    mean = [(x, sum(by_step[x]) / len(members)) for x in steps]
    return [Series(arm, mean, style, [(x, min(by_step[x]), max(by_step[x])) for x in steps])]


def legend(runs: list[RunData]) -> list[tuple[str, str]]:
    """(style, name) of each line, if there are several."""
    named = arms([run for run in runs if run.metrics])
    found = []
    for i, (arm, members) in enumerate(named.items()):
        found += [(f"s{i % COLOURS}", name) for name in ([arm] if len(members) >= SEEDS else [r.name for r in members])]
    return found if len(found) > 1 else []


def differing(runs: list[RunData]) -> list[tuple[str, list[str]]]:
    """Settings in which the runs differ, with each run's value."""
    runs = [run for run in runs if run.settings]
    keys = sorted({key for run in runs for key in run.settings} - {"run"})
    rows = [(key, [str(run.settings.get(key, "-")) for run in runs]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]
