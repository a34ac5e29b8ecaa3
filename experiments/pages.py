"""The tables of README and docs that hold results, and the demo's figure, from experiments/results/NAME/results.json.

    python -m experiments.pages           (`make docs` runs it)

A table stands in a page between `<!-- python -m experiments.pages TABLE -->` and `<!-- end -->`. Differences are paired
over seeds and problems (grpo/results/statistics.py).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.lab.figure import COLOURS, band, plotting, save
from experiments.lab.results import KINDS, spread
from grpo.results.statistics import Difference, crossed
from grpo.runs.files import read_mapping

REPO = Path(__file__).parents[1]
RESULTS, FIGURE = REPO / "experiments" / "results", REPO / "docs" / "demo.svg"
PAGES = [REPO / name for name in ("README.md", "docs/demo.md", "docs/findings.md", "docs/paper.md")]
MARKS = re.compile(r"(<!-- python -m experiments\.pages (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

MATH_500 = {  # of its README
    "base": ("45.4", "58.6"),
    "SFT, full": ("58.2", "66.2"),
    "SFT, LoRA": ("42.2", "-"),
    "SFT + GRPO": ("50.0", "57.6"),
    "GRPO only": ("54.6", "73.8"),
}
BY_TOTAL = "groups dropped by total reward"
STAGES = {"base": "base", "SFT, full": "sft", "SFT, LoRA": "sft", "SFT + GRPO": "grpo", "GRPO only": "grpo"}
LESS = (
    ("SFT, full", "base"),
    ("SFT, LoRA", "SFT, full"),
    ("SFT + GRPO", "SFT, full"),
    ("GRPO only", "base"),
    ("SFT + GRPO", "GRPO only"),
)
REFLECTION = ("none", "gated", "ungated")
INCOMPETENT = (*REFLECTION, f"gated, {BY_TOTAL}", f"ungated, {BY_TOTAL}")
FINDINGS = (
    ("Does SFT help?", "paper", "SFT, full", "base"),
    ("Does GRPO add to SFT?", "paper", "SFT + GRPO", "SFT, full"),
    ("Does SFT before GRPO help, at equal steps of GRPO?", "paper", "SFT + GRPO", "GRPO only"),
    ("Is SFT with LoRA as good?", "paper", "SFT, LoRA", "SFT, full"),
    ("Does paying for reflection help where a check helps?", "reflection", "gated", "none"),
    ("The same, paid in wrong answers too", "reflection", "ungated", "none"),
    ("Does it cost accuracy where a check does not help?", "incompetent", "gated", "none"),
    ("The same, paid in wrong answers too", "incompetent", "ungated", "none"),
    ("The same, where it moves groups that are equally right", "incompetent", f"gated, {BY_TOTAL}", "none"),
)
"""A question, and the result with the two variants that answer it."""
COLUMNS = {
    "accuracy, sampled": ("sampled", "accuracy"),
    "accuracy, greedy": ("greedy", "accuracy"),
    "format": ("sampled", "format"),
    "reflections a completion": ("sampled", "reflections"),
}


def main() -> int:
    """Write all tables and the figure."""
    for page in PAGES:
        page.write_text(replaced(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"wrote {page.relative_to(REPO)}")
    if draw(FIGURE):
        print(f"wrote {FIGURE.relative_to(REPO)}")
    else:
        print("no figure: matplotlib is not installed (pip install '.[figures]')", file=sys.stderr)
    return 0


def replaced(page: str) -> str:
    """A page with its tables as the results have them. Raises KeyError for a table that nothing here writes."""
    return MARKS.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", page)


def read(name: str) -> dict[str, Any]:
    """The results of an ablation. Raises RunError where there are none."""
    return read_mapping(RESULTS / name / "results.json")


def difference(found: dict[str, Any], one: str, other: str, kind: str) -> Difference:
    """Accuracy of one variant less that of another, over the seeds and problems of both."""
    return crossed(*(np.array(found["right"][variant][kind]) for variant in (one, other)))


def in_a_cell(d: Difference) -> str:
    return f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}] | {'shown' if d.shown else 'not shown'}"


# ---- the tables ---------------------------------------------------------------------------------------------


def headline() -> str:
    """The demo's three models, for README's first screen."""
    found = read("paper")
    rows = {"base": "base", "after SFT": "SFT, full", "after SFT + GRPO": "SFT + GRPO"}
    lines = ["| the demo's model | accuracy, sampled, held out | less the row above, in pairs |", "|---|---|---|"]
    above = None
    for text, variant in rows.items():
        cells = [text, values(found, variant, STAGES[variant], *COLUMNS["accuracy, sampled"])]
        d = difference(found, variant, above, "sampled") if above else None
        cells.append(f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]" if d else "")
        lines.append(f"| {' | '.join(cells)} |")
        above = variant
    return "\n".join([*lines, "", facts(found)])


def facts(found: dict[str, Any]) -> str:
    """Command, seeds, problems and processor of a result, as a sentence."""
    seeds, problems = found["seeds"], len(next(iter(found["right"].values()))["sampled"][0])
    first = next(iter(next(iter(found["variants"].values())).values()))[0]
    over = f"Mean over seeds {seeds[0]} to {seeds[-1]} [lowest, highest]" if len(seeds) > 1 else f"Seed {seeds[0]}"
    return (
        f"{over}; {problems} held-out problems, "
        f"{first['samples']} samples of each; {found['processor']}; `{found['command']}`."
    )


def values(found: dict[str, Any], variant: str, stage: str, kind: str, figure: str) -> str:
    """Mean over seeds [lowest, highest]."""
    return spread([evaluation[kind][figure] for evaluation in found["variants"][variant][stage]])


def rows(name: str, variants: dict[str, str], first: str) -> str:
    """A table of values, a row per variant. variants: the stage of each."""
    found = read(name)
    lines = [f"| {' | '.join([first, *COLUMNS])} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for variant, stage in variants.items():
        cells = [values(found, variant, stage, *column) for column in COLUMNS.values()]
        lines.append(f"| {' | '.join([variant, *cells])} |")
    return "\n".join([*lines, "", facts(found)])


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


def differences(name: str, pairs: list[tuple[str, str]]) -> str:
    """A table of paired differences."""
    found = read(name)
    lines = ["| difference | sampled | | greedy | |", "|---|---|---|---|---|"]
    for one, other in pairs:
        cells = [in_a_cell(difference(found, one, other, kind)) for kind in KINDS]
        lines.append(f"| {one}, less {other} | {' | '.join(cells)} |")
    return "\n".join(lines)


def findings() -> str:
    """A row per question: the paired difference that answers it."""
    lines = ["| question | difference in sampled accuracy | | runs |", "|---|---|---|---|"]
    for question, name, one, other in FINDINGS:
        cell = in_a_cell(difference(read(name), one, other, "sampled"))
        link = f"[{name}](../experiments/results/{name}/results.md)"
        lines.append(f"| {question} | {one}, less {other}: {cell} | {link} |")
    return "\n".join(lines)


def less_none(name: str, variants: tuple[str, ...]) -> str:
    return differences(name, [(variant, "none") for variant in variants if variant != "none"])


TABLES: dict[str, Callable[[], str]] = {
    "headline": headline,
    "paper": lambda: rows("paper", STAGES, "model"),
    "beside_the_paper": beside_the_paper,
    "levels": levels,
    "pairs": lambda: differences("paper", list(LESS)),
    "lora_lr": lambda: rows("lora_lr", dict.fromkeys(("1e-3", "5e-3", "2e-2"), "sft"), "learning rate"),
    "reflection": lambda: rows("reflection", dict.fromkeys(REFLECTION, "grpo"), "reflection reward"),
    "reflection_pairs": lambda: less_none("reflection", REFLECTION),
    "findings": findings,
    "incompetent": lambda: rows("incompetent", dict.fromkeys(INCOMPETENT, "grpo"), "reflection reward"),
    "incompetent_pairs": lambda: less_none("incompetent", INCOMPETENT),
}
"""A function for each table that a page may hold."""


# ---- the figure ---------------------------------------------------------------------------------------------


def draw(path: Path) -> bool:
    """The held-out curve of the demo's GRPO, and base, SFT and GRPO, a dot per seed. False without matplotlib."""
    if (plt := plotting()) is None:
        return False
    curves, found = read("reflection")["curves"]["gated"], read("paper")
    _, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    band(axes[0], curves, "accuracy", "step", "sampled", COLOURS[3])
    band(axes[0], curves, "greedy", "step", "greedy", COLOURS[1])
    axes[0].set(xlabel="GRPO steps", ylabel="held-out accuracy", title=f"{len(curves)} seeds, lowest to highest")
    axes[0].legend(frameon=False)
    for place, (name, stage) in enumerate(STAGES.items()):
        for kind, offset, filled in (("sampled", -0.1, {}), ("greedy", 0.1, {"markerfacecolor": "white"})):
            right = [evaluation[kind]["accuracy"] for evaluation in found["variants"][name][stage]]
            heights = [place + offset + 0.04 * (i - (len(right) - 1) / 2) for i in range(len(right))]
            label = {"label": f"{kind}, a dot per seed"} if not place else {}
            axes[1].plot(right, heights, "o", color=COLOURS[place], markersize=4, **filled, **label)
    axes[1].set_yticks(range(len(STAGES)), list(STAGES))
    axes[1].set_ylim(len(STAGES) - 0.5, -0.5)
    problems = len(found["right"]["base"]["sampled"][0])
    axes[1].set(xlim=(0, 1), xlabel="held-out accuracy", title=f"make paper: {problems} held-out problems")
    axes[1].legend(frameon=False, fontsize=8)
    save(plt, path)
    return True


if __name__ == "__main__":
    sys.exit(main())
