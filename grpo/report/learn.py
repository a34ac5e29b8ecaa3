"""Did it learn? Sentences first, then held-out accuracy with its intervals, the curve, and levels with their n."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import PurePath

from grpo.report.charts import Series, dot_chart, finite, line_chart
from grpo.report.expected import behind
from grpo.report.read import Row, RunData, as_number, parent_folder
from grpo.runs.history import WINDOW, History

FEW = 30  # problems of a level below which its share says little


def verdicts(runs: list[RunData]) -> list[str]:
    """A sentence or two for each run that trained or was evaluated."""
    return [f"{run.name}: {_verdict(run, runs)}" for run in runs if run.evaluation or run.metrics]


def _verdict(run: RunData, runs: list[RunData]) -> str:
    accuracy, low, high = share_of(run, "sampled")
    n = run.evaluation.get("problems")
    if not math.isfinite(accuracy):
        done = _in_training(run) or f"{len(run.metrics)} steps of {run.stage}."
        return f"{done} It has not been evaluated on held-out problems, so this says little of new ones."
    where = f"sampled accuracy {accuracy:.3f} on {f'{n} ' if n else ''}held-out problems"
    where += f" (95 % interval {low:.3f} to {high:.3f})" if math.isfinite(low) else ""
    paired = run.evaluation.get("paired")
    interval = paired.get("sampled_ci95") if isinstance(paired, dict) else None
    if isinstance(interval, list) and len(interval) == 2:
        low, high = map(as_number, interval)
        change, against = as_number(paired.get("sampled")), paired.get("against")
        difference = f"{change:+.3f} ({low:+.3f} to {high:+.3f}) on the same {paired.get('problems')} problems in pairs"
        if low > 0:
            return f"it is better than {against} by {difference}. {where[0].upper()}{where[1:]}."
        if high < 0:
            return f"it is worse than {against}: {difference}. {where[0].upper()}{where[1:]}."
        return f"no difference from {against} is shown: {difference}. {where[0].upper()}{where[1:]}."
    parent = next((other for other in runs if other is not run and is_parent(other, run)), None)
    before = share_of(parent, "sampled")[0] if parent else math.nan
    if parent and math.isfinite(before):
        return (
            f"{where}, {accuracy - before:+.3f} from {parent.name}'s {before:.3f}. Their difference in pairs is not "
            f"stored, so it has no interval here. {_in_training(run)}"
        ).rstrip()
    alone = "" if run.stage == "base" else " Nothing to compare it with is in this folder."
    return f"{where}.{alone} {_in_training(run)}".rstrip()


def is_parent(other: RunData, run: RunData) -> bool:
    """Whether `run` was trained from the model of `other`; the base run evaluated the model that others begin with."""
    if other.stage == "base":
        return bool(run.parent) and str(other.settings.get("model.path")) == run.parent
    name = PurePath(other.name).parts
    return bool(name) and parent_folder(run).parts[-len(name) :] == name


def _in_training(run: RunData) -> str:
    """How accuracy went on training problems; empty where nothing was sampled."""
    right = f"reward_{run.setup.right}"
    values = [y for _, y in finite(run.series(right))]
    if run.stage == "sft" or not values:
        return ""
    if len(values) < 2 * WINDOW:
        return f"{len(values)} steps so far, too few to say whether accuracy rises."
    first, last = (sum(some) / WINDOW for some in (values[:WINDOW], values[-WINDOW:]))
    return (
        f"On training problems, {run.setup.right} went from {first:.3f} (first {WINDOW} steps) to {last:.3f} (last "
        f"{WINDOW})."
    )


def share_of(run: RunData, kind: str) -> tuple[float, float, float]:
    """Accuracy of an evaluation with its 95 % interval, NaN where it lacks them. kind: sampled or greedy."""
    found = run.evaluation.get(kind)
    found = found if isinstance(found, dict) else {}
    interval = found.get("ci95")
    low, high = interval if isinstance(interval, list) and len(interval) == 2 else (None, None)
    return as_number(found.get("accuracy")), as_number(low), as_number(high)


def dots(runs: list[RunData]) -> str:
    """Accuracy of each evaluated run, sampled above greedy, as dots with whiskers."""
    rows = []
    for run in runs:
        found = [(*share_of(run, kind), style) for kind, style in (("sampled", "full"), ("greedy", "hollow"))]
        if found := [dot for dot in found if math.isfinite(dot[0])]:
            rows.append((run.name, found))
    return dot_chart("Held-out accuracy with 95 % intervals: sampled (filled), greedy (hollow)", rows)


def accuracy_chart(run: RunData, band: Row) -> str:
    """The held-out curve, where the run has one, over the accuracy on training problems, the expected band behind."""
    right = run.series(f"reward_{run.setup.right}")
    means = History(run.metrics).mean(f"reward_{run.setup.right}").tolist() if run.metrics else []
    smooth = [(x, y) for (x, _), y in zip(right, means, strict=True)]
    curve = [(as_number(row["step"]), as_number(row.get("accuracy"))) for row in run.curve]
    greedy = [(as_number(row["step"]), as_number(row.get("greedy"))) for row in run.curve]
    return line_chart(
        f"Accuracy of {run.name}",
        [
            *behind(f"reward_{run.setup.right}", band, smooth=True),
            Series(f"training, mean of {WINDOW} steps", smooth, "s0"),
            Series("held-out, sampled", curve, "s1"),
            Series("held-out, greedy", greedy, "s2"),
        ],
    )


def levels(runs: list[RunData]) -> list[tuple[str, list[str]]]:
    """For each level of difficulty the accuracy of each run with the number of its problems; "few" below 30."""
    found: dict[str, list[str]] = {}
    for i, run in enumerate(runs):
        sampled = run.evaluation.get("sampled")
        shares = sampled.get("levels") if isinstance(sampled, dict) else None
        counts = problems_by_level(run.judged)
        for level, share in (shares if isinstance(shares, dict) else {}).items():
            n = counts.get(str(level))
            note = "" if n is None else f" (n={n}{', few' if n < FEW else ''})"
            found.setdefault(str(level), ["-"] * len(runs))[i] = f"{as_number(share):.3f}{note}"
    return sorted(found.items())


def problems_by_level(judged: list[Row]) -> dict[str, int]:
    """How many held-out problems each level has."""
    seen = defaultdict(set)
    for row in judged:
        seen[str(row.get("level"))].add(row.get("id") or row.get("problem"))
    return {level: len(ids) for level, ids in seen.items()}
