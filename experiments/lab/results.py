"""What the runs of an ablation show: figures by arm, paired differences to the baseline, completions to a target."""

from __future__ import annotations

import json
import math
import platform
import re
import statistics
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from experiments.lab.plan import Node, Plan
from grpo.results.compare import shares
from grpo.results.curve import read_curve, read_rows
from grpo.results.statistics import Difference, crossed, paired
from grpo.runs.evaluations import read_evaluation
from grpo.runs.files import read_mapping
from grpo.runs.folder import versions

KINDS = ("sampled", "greedy")
FIGURES = {
    "sampled": ("sampled", "accuracy"),
    "greedy": ("greedy", "accuracy"),
    "format": ("sampled", "format"),
    "reflecting": ("sampled", "reflection_rate"),
    "per text": ("sampled", "reflections"),
    "acc. refl.": ("sampled", "accuracy_reflecting"),
    "others": ("sampled", "accuracy_others"),
    "length": ("sampled", "length"),
}
TRAINING = (
    "reward",
    "reward_accuracy",
    "groups",
    "dropped",
    "length",
    "reflections",
    "kl",
    "entropy",
    "clip_fraction_high",
    "grad_norm",
)
"""Columns of metrics.jsonl that results.json keeps."""
TRAINED = "training.svg"
FLAT = re.compile(r"\[[^][{}]*\]")


def gather(plan: Plan, chains: dict[tuple[str, int], list[Node]], seeds: list[int]) -> dict[str, Any]:
    """All figures, ready for JSON: of each variant and stage an evaluation per seed, curves, and differences."""
    variants, curves, training, signs, costs, right = {}, {}, {}, {}, {}, {}
    for variant in plan.variants:
        rows = [chains[variant, seed] for seed in seeds]
        stages = zip(*rows, strict=True)  # each over seeds
        variants[variant] = {
            some[0].stage.name: [read_mapping(one.folder / "eval.json") for one in some] for some in stages
        }
        curves[variant] = [read_curve(chain[-1].training) for chain in rows]
        training[variant] = [columns(chain[-1], plan.watch) for chain in rows]
        signs[variant] = [first_signs(chain[-1]) for chain in rows]
        costs[variant] = {some[0].stage.name: [cost(one) for one in some] for some in zip(*rows, strict=True)}
        judged = [read_evaluation(chain[-1].folder) for chain in rows]
        right[variant] = {kind: [shares(one, kind) for one in judged] for kind in KINDS}
    trl = [
        node.training / "training.json" for chain in chains.values() for node in chain if node.stage.command == "trl"
    ]
    base, others = right[plan.baseline], [name for name in right if name != plan.baseline]
    return {
        **({"trl": read_mapping(trl[0])["trl"]} if trl else {}),
        "seeds": seeds,
        "baseline": plan.baseline,
        "target": plan.target,
        "variants": variants,
        "curves": curves,
        "training": training,
        "signs": signs,
        "costs": costs,
        "hours": hours([node for chain in chains.values() for node in chain]),
        "differences": {v: {kind: vars(difference(right[v][kind], base[kind])) for kind in KINDS} for v in others},
        "completions_to_target": {v: [needed(points, plan.target) for points in some] for v, some in curves.items()},
        "right": {v: {kind: [rounded(x) for x in some] for kind, some in kinds.items()} for v, kinds in right.items()},
    }


def columns(node: Node, watch: tuple[str, ...] = ()) -> dict[str, list[float | None]]:
    """What a run said of itself at each step, in four digits; nothing of a stage that does not train."""
    steps = read_rows(node.training / "metrics.jsonl")
    names = [
        name
        for name in dict.fromkeys(("step", *TRAINING, *watch, "loss", "seconds"))
        if any(name in row for row in steps)
    ]
    return {name: [short(row.get(name)) for row in steps] for name in names}


def first_signs(node: Node) -> dict[str, int]:
    """The warnings and notes that a run gave, each with its first step (grpo/runs/signs.py)."""
    found: dict[str, int] = {}
    for row in read_rows(node.training / "warnings.jsonl"):
        found.setdefault(row["kind"], row["step"])
    return found


def cost(node: Node) -> dict[str, Any]:
    """What a stage saved, in numbers (the weights, or the adapter alone), and the median of its seconds a step."""
    file = next(node.folder.glob("model/*.safetensors"), None)
    seconds = [row["seconds"] for row in read_rows(node.training / "metrics.jsonl") if "seconds" in row]
    return {"saved": numbers(file) if file else None, "seconds": short(statistics.median(seconds)) if seconds else None}


def numbers(file: Path) -> int:
    """How many numbers a safetensors file holds, by its header."""
    with safe_open(file, "pt") as tensors:
        names = tensors.keys()
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)


def short(value: float | None) -> float | None:
    """Four digits of it; None for what is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def hours(nodes: list[Node]) -> float:
    """Hours from the start to the end of all runs together, each run once, evaluations and stops included."""
    seconds = 0.0
    for node in {node.folder: node for node in nodes}.values():
        manifest = read_mapping(node.folder / "manifest.json")
        start, end = (datetime.fromisoformat(manifest[key]) for key in ("started", "finished"))
        seconds += (end - start).total_seconds()
        if node.stage.command == "trl":  # its manifest is that of the evaluation
            seconds += read_mapping(node.training / "training.json")["seconds"]
    return round(seconds / 3600, 2)


def rounded(given: dict[str, float]) -> list[float]:
    """The shares of right completions, in the order of the problems."""
    return [round(share, 4) for share in given.values()]


def difference(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> Difference:
    """ours - theirs, the same seeds in the same order. Raises ValueError if the problems are not the same."""
    ids = list(ours[0])
    if any(set(one) != set(ids) for one in (*ours, *theirs)):
        raise ValueError("the arms were evaluated on different problems: give all the same eval.data and eval.seed")
    return of_arrays(*(np.array([[one[id] for id in ids] for one in some]) for some in (ours, theirs)))


def of_arrays(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """ours - theirs, [S, P] each: over seeds and problems, or of one seed over problems alone."""
    return crossed(ours, theirs) if min(ours.shape) > 1 else paired(ours[0], theirs[0])


def in_words(variant: str, baseline: str, kind: str, found: Difference) -> str:
    """A paired difference as a sentence."""
    over = f"{'one seed' if found.seeds == 1 else f'{found.seeds} seeds'}, {found.problems} problems"
    text = f"{variant} - {baseline}, {kind}: {found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}] ({over}). "
    if found.seeds == 1:
        return text + "With one seed, what another seed would give is not known: run at least three."
    if found.shown:
        return text + f"0 is outside the interval: {variant} is {'more' if found.mean > 0 else 'less'} often right."
    if found.more_seeds is None:
        end = "No number of seeds would settle a difference of this size; more problems might."
    else:
        end = f"About {found.more_seeds} more seeds would settle it, if mean and spread stay as they are."
    return text + f"0 is inside the interval: no difference is shown. {end}"


def needed(points: list[dict[str, Any]], target: float) -> int | None:
    """Completions sampled for training until the held-out curve reached the target, between its points by a line."""
    if not target or not points:
        return None
    last = None
    for point in points:
        if point["accuracy"] >= target:
            if last is None:
                return point["completions"]
            share = (target - last["accuracy"]) / (point["accuracy"] - last["accuracy"])
            return round(last["completions"] + share * (point["completions"] - last["completions"]))
        last = point
    return None


def where_from() -> dict[str, Any]:
    """Versions, commit and processor."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        commit = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return {"versions": versions(), "commit": commit.strip() or None, "processor": processor()}


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return name or platform.processor() or platform.machine()


def page(name: str, plan: Plan, found: dict[str, Any], command: str, figure: str = "") -> str:
    """The results as Markdown."""
    seeds, trl = len(found["seeds"]), f"; TRL {found['trl']}" if "trl" in found else ""
    lines = [f"# {name}", "", *([plan.about, ""] if plan.about else []), f"    {command}", ""]
    lines += [
        f"{found['processor']}; commit {found['commit'] or 'unknown'}; torch {found['versions']['torch']}{trl}.",
        "",
    ]
    lines += [f"![curves and differences]({figure})", ""] if figure else []
    lines += [f"![the training of each arm]({TRAINED})", ""] if figure and plan.watch else []
    lines += ["## Differences, in pairs", ""]
    for variant, kinds in found["differences"].items():
        lines += [f"- {in_words(variant, plan.baseline, kind, Difference(**values))}" for kind, values in kinds.items()]
    lines += ["- there is one variant, so nothing is compared"] if not found["differences"] else []
    lines += [
        "",
        "Same problems, same random numbers, same seeds. The 95 % intervals are over seeds and problems, which",
    ]
    lines += ["both vary (grpo/results/statistics.py); of one seed over problems alone.", ""]
    if plan.target:
        lines += [f"## Completions until {plan.target:g} on held-out problems", ""]
        lines += ["| arm | median | reached by |", "|---|---|---|"]
        for variant, each in found["completions_to_target"].items():
            reached = [x for x in each if x is not None]
            middle = f"{statistics.median(reached):,.0f}" if reached else "-"
            lines.append(f"| {variant} | {middle} | {len(reached)} of {len(each)} seeds |")
        lines += [""]
    over = f"mean over {seeds} seeds [lowest, highest]" if seeds > 1 else "one seed"
    lines += [f"## Figures: {over}, held-out problems", ""]
    heads = ["variant", "stage", *FIGURES]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for variant, stages in found["variants"].items():
        for stage, evaluations in list(stages.items())[-1 if plan.rows == "last" else 0 :]:
            cells = [spread([e[part][figure] for e in evaluations]) for part, figure in FIGURES.values()]
            lines.append(f"| {' | '.join([variant, stage, *cells])} |")
    lines += [
        "",
        f"All runs together, from start to end of each, evaluations and stops included: {found['hours']:.2g} hours.",
    ]
    return "\n".join(lines) + "\n"


def spread(values: list[float | None]) -> str:
    """Mean [lowest, highest] of those that there are."""
    there = [v for v in values if v is not None]
    if not there:
        return "-"
    digits = 1 if max(there) > 10 else 2 if max(there) > 1 else 3
    low, mean, high = (f"{x:.{digits}f}" for x in (min(there), statistics.mean(there), max(there)))
    return f"{mean} [{low}, {high}]"


def to_json(found: dict[str, Any]) -> str:
    """JSON with a line per list of values, so that a file, or the difference of two, can be read."""
    text = json.dumps(found, indent=1, allow_nan=False, default=str)
    return FLAT.sub(lambda some: " ".join(some[0].split()), text) + "\n"
