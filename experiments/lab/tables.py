"""The tables of README and docs, from experiments/results/NAME/results.json. Differences are paired over seeds and
problems (grpo/results/statistics.py); a range is mean [lowest, highest] over seeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.lab.results import KINDS, of_arrays, spread
from grpo.results.statistics import Difference
from grpo.runs.files import read_mapping

RESULTS = Path(__file__).parents[1] / "results"

COLUMNS = {
    "accuracy, sampled": ("sampled", "accuracy"),
    "accuracy, greedy": ("greedy", "accuracy"),
    "format": ("sampled", "format"),
    "reflections a completion": ("sampled", "reflections"),
}


def read(name: str) -> dict[str, Any]:
    """The results of an ablation. Raises RunError where there are none."""
    return read_mapping(RESULTS / name / "results.json")


def read_all() -> dict[str, dict[str, Any]]:
    """All results, by name."""
    names = [file.parent.relative_to(RESULTS).as_posix() for file in sorted(RESULTS.rglob("results.json"))]
    return {name: read(name) for name in names}


def difference(found: dict[str, Any], one: str, other: str, kind: str) -> Difference:
    """Accuracy of one variant less that of another, over the seeds and problems of both."""
    return together([found], one, other, kind)


def together(results: list[dict[str, Any]], one: str, other: str, kind: str) -> Difference:
    """The same over the seeds of several results."""
    return of_arrays(*(np.concatenate([found["right"][arm][kind] for found in results]) for arm in (one, other)))


def interval(d: Difference) -> str:
    return f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"


def in_a_cell(d: Difference) -> str:
    """A difference and its verdict; the interval of one seed says nothing of another, so it has none."""
    verdict = "one seed" if d.seeds == 1 else "shown" if d.shown else "not shown"
    return f"{interval(d)} | {verdict}"


def facts(found: dict[str, Any]) -> str:
    """Command, seeds, problems, commit and processor of a result, as a sentence."""
    seeds, problems = found["seeds"], len(next(iter(found["right"].values()))["sampled"][0])
    first = next(iter(next(iter(found["variants"].values())).values()))[0]
    over = (
        f"Values: mean over seeds {seeds[0]} to {seeds[-1]} [lowest, highest]. Differences: mean [95 % interval]"
        if len(seeds) > 1
        else f"Seed {seeds[0]}. Differences: [95 % interval over problems], which says nothing of other seeds"
    )
    return (
        f"{over}; {problems} held-out problems, {first['samples']} samples of each; {found['processor']}; "
        f"commit {found['commit']}; `{found['command']}`."
    )


def in_bold(d: Difference) -> str:
    """A difference; in bold if it is shown, for which one seed is not enough."""
    return f"**{interval(d)}**" if d.shown and d.seeds > 1 else interval(d)


def values(found: dict[str, Any], variant: str, stage: str, kind: str, figure: str) -> str:
    """Mean over seeds [lowest, highest]."""
    return spread([evaluation[kind][figure] for evaluation in found["variants"][variant][stage]])


def rows(name: str, stages: dict[str, str], first: str) -> str:
    """A table of values, a row per variant. stages: the stage of each."""
    found = read(name)
    lines = [f"| {' | '.join([first, *COLUMNS])} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for variant, stage in stages.items():
        cells = [values(found, variant, stage, *column) for column in COLUMNS.values()]
        lines.append(f"| {' | '.join([variant, *cells])} |")
    return "\n".join([*lines, "", facts(found)])


def judged(found: dict[str, Any], arm: str) -> dict[str, np.ndarray]:
    """By kind, pass@k among them, the share of right completions: [S, P]. k is the number of samples."""
    right = {kind: np.array(found["right"][arm][kind]) for kind in KINDS}
    samples = next(iter(found["variants"][arm].values()))[0]["samples"]
    return {**right, f"pass@{samples}": (right["sampled"] > 0).astype(float)}


def compared(name: str, of: Callable[[str, str | None], str | None], heading: str, first: str) -> str:
    """All variants after their last stage: values, and differences to `of(variant, the one above)`."""
    found = read(name)
    kinds = list(judged(found, found["baseline"]))
    heads = [first, *(word for kind in kinds for word in (kind, heading)), "format", "reflections", "tokens"]
    lines, above = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"], None
    for arm, stages in found["variants"].items():
        cells, other = [arm], of(arm, above)
        for kind, x in judged(found, arm).items():
            cells += [spread(list(x.mean(axis=1))), in_bold(of_arrays(x, judged(found, other)[kind])) if other else ""]
        for figure in ("format", "reflections", "length"):
            cells.append(values(found, arm, list(stages)[-1], "sampled", figure))
        lines.append(f"| {' | '.join(cells)} |")
        above = arm
    bold = "A difference in bold is shown: 0 lies outside its interval. " if len(found["seeds"]) > 1 else ""
    return "\n".join([*lines, "", f"{bold}{facts(found)}"])


def arms(name: str) -> str:
    """All variants of an ablation, and their differences to its baseline."""
    baseline = read(name)["baseline"]
    return compared(name, lambda arm, _: None if arm == baseline else baseline, f"less {baseline}", "arm")


def climb(name: str) -> str:
    """Models in their order, each less the row above."""
    return compared(name, lambda _, above: above, "less the row above", "model")


def signs(name: str) -> str:
    """What the runs of each arm said of themselves (docs/report.md): each warning or note, and its first step."""
    found = read(name)
    lines = ["| arm | what its runs said, and at which step first | in how many |", "|---|---|---|"]
    for arm, runs in found["signs"].items():
        steps: dict[str, list[int]] = {}
        for run in runs:
            for kind, step in run.items():
                steps.setdefault(kind, []).append(step)
        for kind, some in sorted(steps.items(), key=lambda item: min(item[1])):
            when = f"{min(some)}" if len({*some}) == 1 else f"{min(some)} to {max(some)}"
            lines.append(f"| {arm} | `{kind}`: {when} | {len(some)} of {len(runs)} |")
        lines += [f"| {arm} | nothing | {len(runs)} of {len(runs)} |"] if not steps else []
    return "\n".join(lines)


def again(name: str, less: tuple[tuple[str, str], ...]) -> str:
    """Differences of the first seeds, of others from a fresh clone, and of all together."""
    first, other = read(name), read(f"again/{name}")
    some = [pair for pair in less if {*pair} <= first["variants"].keys() & other["variants"].keys()]
    heads = [*(f"seeds {one['seeds'][0]} to {one['seeds'][-1]}" for one in (first, other))]
    heads = ["difference, sampled", *heads, "within the first interval", "all together"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for pair in some:
        a, b = (difference(found, *pair, "sampled") for found in (first, other))
        within = "yes" if a.low <= b.mean <= a.high else "no"
        cells = [f"{pair[0]}, less {pair[1]}", interval(a), interval(b), within]
        lines.append(f"| {' | '.join([*cells, in_bold(together([first, other], *pair, 'sampled'))])} |")
    return "\n".join([*lines, "", facts(other)])
