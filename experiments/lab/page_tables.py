"""The tables that stand on one page, and which table each mark of a page means (experiments/pages.py)."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.lab.dividing import by_total, dividing, totals
from experiments.lab.questions import findings, summary
from experiments.lab.results import KINDS, of_arrays, spread
from experiments.lab.tables import (
    COLUMNS,
    RESULTS,
    again,
    arms,
    climb,
    difference,
    facts,
    in_a_cell,
    in_bold,
    interval,
    judged,
    read,
    read_all,
    rows,
    signs,
    values,
)
from grpo.runs.files import read_mapping

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
UNFILLED = "32 x 8, no refill"
BETWEEN: dict[str, list[tuple[str, str]]] = {
    "groups": [
        *((f"{size}, no refill", UNFILLED) for size in ("64 x 4", "16 x 16", "8 x 32")),
        ("64 x 4", "8 x 32"),
        ("64 x 4, no refill", "8 x 32, no refill"),
        *((size, f"{size}, no refill") for size in ("64 x 4", "32 x 8", "16 x 16", "8 x 32")),
        ("32 x 8, nothing dropped", UNFILLED),
    ],
    "kl": [("k1", "none"), ("no clip, no KL", "none")],
}
"""Pairs of arms without the baseline, by plan."""


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
    verdict = "shown" if d.shown else "no difference is shown"
    return (
        f"**The same recipe in TRL's `GRPOTrainer`**, from the same SFT models: our accuracy less TRL's is "
        f"{interval(d)}, {verdict}. A step takes {ours} here, and {theirs} in TRL, with one thread "
        f"({found['processor']}; `{found['command']}`; [docs/findings/trl.md](docs/findings/trl.md))."
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


def in_training(name: str, *metrics: str) -> str:
    """Metrics of the training, a mean over all steps of a run, by arm."""
    lines = [f"| arm, mean over its steps | {' | '.join(metrics)} |", "|---" * (1 + len(metrics)) + "|"]
    for arm, runs in read(name)["training"].items():
        columns = [[[x for x in run.get(one, ()) if x is not None] for run in runs] for one in metrics]
        cells = [spread([statistics.mean(some) if some else None for some in column]) for column in columns]
        lines.append(f"| {' | '.join([arm, *cells])} |")
    return "\n".join(lines)


def between(name: str) -> str:
    """Paired differences between arms of which neither need be the baseline."""
    found = read(name)
    kinds = list(judged(found, found["baseline"]))
    lines = [f"| difference | {' | '.join(kinds)} |", "|---" * (1 + len(kinds)) + "|"]
    for pair in BETWEEN[name]:
        one, other = (judged(found, arm) for arm in pair)
        cells = [in_bold(of_arrays(one[kind], other[kind])) for kind in kinds]
        lines.append(f"| {' | '.join(['{} less {}'.format(*(f'`{arm}`' for arm in pair)), *cells])} |")
    return "\n".join([*lines, "", "In bold: 0 lies outside of the interval."])


def sft_cost() -> str:
    """What SFT costs, by arm: in the demo, and of a step on a real model (experiments/sft_cost.py)."""
    demo, real = read("sft"), read_mapping(RESULTS / "sft_cost.json")
    heads = ["SFT", "demo: numbers trained", "seconds a step", "SmolLM2-135M: numbers trained", "seconds a step"]
    lines = [f"| {' | '.join([*heads, 'peak memory, GB'])} |", "|---" * (1 + len(heads)) + "|"]
    for arm, one in real["arms"].items():
        small = demo["costs"][arm]["sft"]
        seconds = [spread([run["seconds"] for run in small]), middle(one["seconds"])]
        cells = [f"{small[0]['saved']:,}", seconds[0], f"{one['trained']:,}", seconds[1], middle(one["gb"])]
        lines.append(f"| {' | '.join([arm, *cells])} |")
    threads = f"{real['threads']} thread{'s' * (real['threads'] > 1)}"
    each = f"median [lowest, highest] of {len(one['seconds'])} steps in two processes, {real['rows']} examples a step"
    ends = (
        "Demo: the median step of each seed, mean [lowest, highest] over seeds; one thread, with other runs beside it. "
        f"SmolLM2 on SVAMP: {each}, {threads}; {real['processor']}; commit {real['commit']}; `{real['command']}`."
    )
    return "\n".join([*lines, "", ends])


def sft_rates() -> str:
    """Accuracy on the validation split by kind of SFT and learning rate; an arm is named `kind, rate`."""
    found = read("sft_lr")
    kinds: dict[str, list[str]] = {}
    for arm, stages in found["variants"].items():
        kind, rate = arm.rsplit(", ", 1)
        (evaluations,) = stages.values()
        kinds.setdefault(kind, []).append(f"{rate}: {spread([one['sampled']['accuracy'] for one in evaluations])}")
    lines = ["| SFT | lowest rate | middle | highest |", "|---|---|---|---|"]
    lines += [f"| {' | '.join([kind, *cells])} |" for kind, cells in kinds.items()]
    ends = "Rate: sampled accuracy on the validation split, mean over seeds [lowest, highest]"
    seeds = " and ".join(map(str, found["seeds"]))
    ends += f"; seeds {seeds}; {found['processor']}; commit {found['commit']}; `{found['command']}`."
    return "\n".join([*lines, "", ends])


def middle(some: list[float]) -> str:
    """Median [lowest, highest]."""
    return f"{statistics.median(some):.2f} [{min(some):.2f}, {max(some):.2f}]"


def hours() -> str:
    """The time of all runs, by result."""
    lines = ["| result | commit | seeds | hours | made by |", "|---|---|---|---|---|"]
    total = 0.0
    for name, found in read_all().items():
        total += (spent := found.get("hours") or 0.0)
        cells = [name, found["commit"], len(found["seeds"]), f"{spent:.1f}"]
        lines.append(f"| {' | '.join(map(str, cells))} | `{found['command']}` |")
    ends = (
        f"Together {total:.0f} hours: each run from its start to its end, added up, also where several ran at once. A "
        "run that several results share counts in each."
    )
    return "\n".join([*lines, "", ends])


TABLES: dict[str, Callable[..., str]] = {
    "arms": arms,
    "again": lambda name: again(name, LESS),
    "climb": climb,
    "signs": signs,
    "headline": headline,
    "paper": lambda: rows("paper", STAGES, "model"),
    "beside_the_paper": beside_the_paper,
    "levels": levels,
    "pairs": pairs,
    "seconds": seconds,
    "dividing": dividing,
    "totals": totals,
    "by_total": by_total,
    "in_training": in_training,
    "between": between,
    "sft_cost": sft_cost,
    "sft_rates": sft_rates,
    "findings": findings,
    "summary": summary,
    "hours": hours,
}
"""A function for each table that a page may hold, by the first word of its mark; the other words are its arguments."""
