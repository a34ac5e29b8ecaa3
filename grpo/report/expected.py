"""Is it normal? The band of recorded runs of the same settings, behind a run's curves, and whether the run has left it.

The recorded runs are the demo's GRPO with several seeds (experiments/results/expected/demo.json, made and explained by
`python -m experiments.expected`); the package carries the file. A run of other settings has no band.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grpo.report.charts import Series
from grpo.report.read import Row, RunData, as_number
from grpo.results import bands
from grpo.runs import shipped
from grpo.runs.files import RunError, read_mapping
from grpo.runs.history import History

FILE = Path("experiments/results/expected/demo.json")
NAMED = 3  # settings in which a run differs from the recorded ones, up to which they are named on its page


def recorded() -> Row:
    """The band file that comes with the package; empty where there is none, or it is no band."""
    path = shipped.find(FILE)
    try:
        found = read_mapping(path) if path.is_file() else {}
        return found if found.get("settings") and seeds_of(found) >= bands.LEAST_SEEDS else {}
    except (RunError, AttributeError, TypeError):
        return {}


def seeds_of(band: Row) -> int:
    """How many runs were recorded."""
    return min((len(values) for values in band.get("curves", {}).values()), default=0)


def band_of(run: RunData, band: Row) -> Row:
    """The band, if the run's settings are those of its runs; else empty."""
    return band if band and run.settings and not bands.differing(band, settings_of(run)) else {}


def settings_of(run: RunData) -> Row:
    """A run's settings, and the stage that it began from."""
    return {**run.settings, bands.PARENT: run.facts.get(bands.PARENT)}


def sentence(run: RunData, band: Row) -> str:
    """Whether the run lies within the band; which settings keep it from being compared, if they are few; else empty."""
    if not band or not run.settings or not run.metrics:
        return ""
    if different := bands.differing(band, settings_of(run)):
        few = len(different) <= NAMED
        return f"Not compared with recorded runs, whose {', '.join(different)} differ." if few else ""
    curves = {name: [_plain(row.get(name)) for row in run.metrics] for name in band["curves"]}
    found = bands.verdict(band["curves"], curves)
    return f"Compared with recorded runs of these settings: {found}."


def behind(metric: str, band: Row, smooth: bool = False) -> list[Series]:
    """The band of a metric, to be drawn behind its line. smooth: of means over a window, as the line then is."""
    values = band.get("curves", {}).get(metric)
    if not values:
        return []
    if smooth:
        values = [History([{"step": 0, metric: x} for x in one]).mean(metric).tolist() for one in values]
    limits = [(step, lies) for step, lies in enumerate(bands.limits(metric, values), 1) if lies]
    name = f"expected, {seeds_of(band)} seeds"
    return [Series(name, [], "expected", [(float(step), *lies) for step, lies in limits])] if limits else []


def _plain(value: Any) -> float | None:
    x = as_number(value)
    return x if x == x else None
