"""The tables of README and docs, from experiments/results/NAME/results.json. Differences are paired over seeds and
problems (grpo/results/statistics.py); a range is mean [lowest, highest] over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.lab.results import KINDS, of_arrays, spread
from grpo.results.statistics import Difference
from grpo.runs.files import read_mapping

RESULTS = Path(__file__).parents[1] / "results"

MATH_500 = {  # of its README
    "base": ("45.4", "58.6"),
    "SFT, full": ("58.2", "66.2"),
    "SFT, LoRA": ("42.2", "-"),
    "SFT + GRPO": ("50.0", "57.6"),
    "GRPO only": ("54.6", "73.8"),
}
STAGES = {"base": "base", "SFT, full": "sft", "SFT, LoRA": "sft", "SFT + GRPO": "grpo", "GRPO only": "grpo"}
LESS = (
    ("SFT, full", "base"),
    ("SFT, LoRA", "SFT, full"),
    ("SFT + GRPO", "SFT, full"),
    ("GRPO only", "base"),
    ("SFT + GRPO", "GRPO only"),
    ("SFT + GRPO", "GRPO only, equal compute"),
)
"""The pairs of the paper's rows; a result that lacks an arm leaves its pairs out."""
TEN = ("paper", "again/paper")
"""Seeds 0 to 4 and 5 to 9."""
BY_TOTAL = "gated, groups dropped by total reward"
FINDINGS: tuple[tuple[str, str, tuple[str, ...], str, str], ...] = (
    ("Does SFT help?", "stages", TEN, "SFT, full", "base"),
    ("Does GRPO add to SFT?", "stages", TEN, "SFT + GRPO", "SFT, full"),
    ("Does SFT before GRPO help, at equal steps of GRPO?", "stages", TEN, "SFT + GRPO", "GRPO only"),
    ("The same, at about equal compute", "stages", ("again/paper",), "SFT + GRPO", "GRPO only, equal compute"),
    ("Is SFT with LoRA as good?", "sft", TEN, "SFT, LoRA", "SFT, full"),
    ("Dr. GRPO's preset in place of GRPO's, same learning rate?", "losses", ("losses",), "dr_grpo", "grpo"),
    ("SAPO's (a soft gate, no KL), one of 13 presets compared?", "losses", ("losses",), "sapo", "grpo"),
    ("Does TRL's trainer learn the same from the same recipe?", "trl", ("trl",), "ours", "TRL"),
    ("Does paying for reflection help where a check helps?", "reflection", ("reflection",), "gated", "none"),
    ("The same, paid in wrong answers too", "reflection", ("reflection",), "ungated", "none"),
    ("Does it cost accuracy where a check does not help?", "reflection", ("incompetent",), "gated", "none"),
    ("The same, paid in wrong answers too", "reflection", ("incompetent",), "ungated", "none"),
    ("Does it cost more if groups with equal accuracy train too?", "reflection", ("incompetent",), BY_TOTAL, "gated"),
)
"""A question, its page, the results (their seeds are taken together) and the two variants that answer it."""
COLUMNS = {
    "accuracy, sampled": ("sampled", "accuracy"),
    "accuracy, greedy": ("greedy", "accuracy"),
    "format": ("sampled", "format"),
    "reflections a completion": ("sampled", "reflections"),
}


def read(name: str) -> dict[str, Any]:
    """The results of an ablation. Raises RunError where there are none."""
    return read_mapping(RESULTS / name / "results.json")


def difference(found: dict[str, Any], one: str, other: str, kind: str) -> Difference:
    """Accuracy of one variant less that of another, over the seeds and problems of both."""
    return together([found], one, other, kind)


def together(results: list[dict[str, Any]], one: str, other: str, kind: str) -> Difference:
    """The same over the seeds of several results."""
    return of_arrays(*(np.concatenate([found["right"][arm][kind] for found in results]) for arm in (one, other)))


def interval(d: Difference) -> str:
    return f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"


def in_a_cell(d: Difference) -> str:
    return f"{interval(d)} | {'shown' if d.shown else 'not shown'}"


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


# ---- tables of one page --------------------------------------------------------------------------------------


def headline() -> str:
    """The demo's three models, for README's first screen."""
    found = read("paper")
    models = {"base": "base", "after SFT": "SFT, full", "after SFT + GRPO": "SFT + GRPO"}
    lines = ["| the demo's model | accuracy, sampled, held out | less the row above, in pairs |", "|---|---|---|"]
    above = None
    for text, variant in models.items():
        cells = [text, values(found, variant, STAGES[variant], *COLUMNS["accuracy, sampled"])]
        cells.append(interval(difference(found, variant, above, "sampled")) if above else "")
        lines.append(f"| {' | '.join(cells)} |")
        above = variant
    return "\n".join([*lines, "", facts(found), "", beside_trl()])


def beside_trl() -> str:
    """TRL's trainer with the same recipe, as a sentence."""
    found = read("trl")
    d, each = difference(found, "ours", "TRL", "sampled"), step_seconds(found)
    ours, theirs = (f"{statistics.mean(each[arm]):.1f} s" for arm in ("ours", "TRL"))
    return (
        f"**The same recipe in TRL's `GRPOTrainer`**, from the same SFT models: ours, less TRL, {interval(d)}: "
        f"{'shown' if d.shown else 'no difference is shown'}. A step takes {ours} here, and {theirs} in TRL, with one "
        f"thread ({found['processor']}; `{found['command']}`; [docs/findings/trl.md](docs/findings/trl.md))."
    )


def levels() -> str:
    """Accuracy by level of the paper's rows."""
    found = read("paper")
    names = [f"Level {n}" for n in range(1, 6)]
    lines = [f"| model | {' | '.join(name.lower() for name in names)} |", "|---" * (1 + len(names)) + "|"]
    for variant, stage in STAGES.items():
        each = [evaluation["sampled"]["levels"] for evaluation in found["variants"][variant][stage]]
        lines.append(f"| {variant} | {' | '.join(f'{np.mean([x[name] for x in each]):.2f}' for name in names)} |")
    return "\n".join(lines)


def beside_the_paper() -> str:
    """MATH-500 of the paper's two sizes, and the demo's accuracy."""
    found = read("paper")
    lines = ["| model | 1.5B, MATH-500 | 7B, MATH-500 | here, the demo: sampled, held out |", "|---|---|---|---|"]
    for variant, stage in STAGES.items():
        here = values(found, variant, stage, *COLUMNS["accuracy, sampled"])
        lines.append(f"| {' | '.join([variant, *MATH_500[variant], here])} |")
    return "\n".join([*lines, "", facts(found)])


def pairs(name: str) -> str:
    """The paired differences between the paper's rows."""
    found = read(name)
    lines = ["| difference | sampled | | greedy | |", "|---|---|---|---|---|"]
    for one, other in LESS:
        if not {one, other} <= found["variants"].keys():
            continue
        cells = [in_a_cell(difference(found, one, other, kind)) for kind in KINDS]
        lines.append(f"| {one}, less {other} | {' | '.join(cells)} |")
    return "\n".join(lines)


def again(name: str, less: tuple[tuple[str, str], ...] = LESS) -> str:
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


def seconds() -> str:
    """The time of a training step, ours and TRL's, a median over the steps of each seed."""
    found = read("trl")
    lines = ["| | seconds a step: median over steps, then mean over seeds [lowest, highest] |", "|---|---|"]
    each = step_seconds(found)
    lines += [f"| {arm} | {spread(some)} |" for arm, some in each.items()]
    ratios = [theirs / ours for ours, theirs in zip(each["ours"], each["TRL"], strict=True)]
    return "\n".join([*lines, f"| TRL / ours, same seed | {spread(ratios)} |", "", facts(found)])


def step_seconds(found: dict[str, Any]) -> dict[str, list[float]]:
    """The median step of each seed, by arm."""
    return {arm: [statistics.median(run["seconds"]) for run in runs] for arm, runs in found["training"].items()}


def findings() -> str:
    """A row per question: the paired difference that answers it."""
    lines = ["| question | difference in sampled accuracy | | page |", "|---|---|---|---|"]
    for question, page, names, one, other in FINDINGS:
        cell = in_a_cell(together([read(name) for name in names], one, other, "sampled"))
        lines.append(f"| {question} | {one}, less {other}: {cell} | [{page}](findings/{page}.md) |")
    return "\n".join(lines)


def hours() -> str:
    """The time of all runs, by result."""
    lines = ["| result | commit | seeds | hours | made by |", "|---|---|---|---|---|"]
    total = 0.0
    for file in sorted(RESULTS.rglob("results.json")):
        found = read_mapping(file)
        total += (spent := found.get("hours") or 0.0)
        cells = [file.parent.relative_to(RESULTS).as_posix(), found["commit"], len(found["seeds"]), f"{spent:.1f}"]
        lines.append(f"| {' | '.join(map(str, cells))} | `{found['command']}` |")
    return "\n".join(
        [
            *lines,
            "",
            f"Together {total:.0f} hours: each run from its start to its end, added up, whatever ran beside it.",
        ]
    )


TABLES: dict[str, Callable[..., str]] = {
    "arms": arms,
    "again": again,
    "climb": climb,
    "headline": headline,
    "paper": lambda: rows("paper", STAGES, "model"),
    "beside_the_paper": beside_the_paper,
    "levels": levels,
    "pairs": pairs,
    "seconds": seconds,
    "findings": findings,
    "hours": hours,
}
"""A function for each table that a page may hold, by the first word of its mark; the other words are its arguments."""
