"""What pairs show of results that are kept per seed: docs/demo.md's table of differences, and the demo's figure.

    python -m experiments.pairs           (`make docs` runs it)

Results of before evaluations were kept per problem (experiments/results/NAME.json) have a value per seed and no more.
So they are paired by seed: mean difference +- Student's t times its standard error, with one degree of freedom less
than seeds. Newer ones (experiments/results/NAME/results.json) state their own, over seeds and problems.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments.lab.figure import COLOURS, band, plotting, save
from grpo.statistics import Difference, t_quantile

REPO = Path(__file__).parents[1]
RESULTS, PAGE, FIGURE = REPO / "experiments" / "results", REPO / "docs" / "demo.md", REPO / "docs" / "demo.svg"
BEGIN, END = "<!-- python -m experiments.pairs -->", "<!-- end -->"
Arm = tuple[str, str]  # variant and stage
BY_TOTAL = "groups dropped by total reward"
PAIRS: tuple[tuple[str, str, Arm, Arm], ...] = (
    ("SFT, full, less base", "paper", ("SFT, full", "sft"), ("base", "base")),
    ("SFT with LoRA less SFT, full", "paper", ("SFT, LoRA", "sft"), ("SFT, full", "sft")),
    ("SFT + GRPO less SFT, full", "paper", ("SFT + GRPO", "grpo"), ("SFT, full", "sft")),
    ("GRPO only less base", "paper", ("GRPO only", "grpo"), ("base", "base")),
    ("SFT + GRPO less GRPO only", "paper", ("SFT + GRPO", "grpo"), ("GRPO only", "grpo")),
    *(
        (f"{variant} less none, {where}", name, (variant, "grpo"), ("none", "grpo"))
        for name, where, variants in (
            ("incompetent", "checks do not help", ("gated", "ungated", f"gated, {BY_TOTAL}", f"ungated, {BY_TOTAL}")),
            ("reflection", "checks help", ("gated", "ungated")),
        )
        for variant in variants
    ),
)
ROWS = (("base", "base"), ("SFT, full", "sft"), ("SFT, LoRA", "sft"), ("SFT + GRPO", "grpo"), ("GRPO only", "grpo"))


def main() -> int:
    """Write the table and the figure."""
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), table()), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(REPO)}")
    if draw(FIGURE):
        print(f"wrote {FIGURE.relative_to(REPO)}")
    else:
        print("no figure: matplotlib is not installed (pip install '.[figures]')", file=sys.stderr)
    return 0


def by_seed(a: list[float], b: list[float]) -> Difference:
    """a - b, a value per seed each. Raises ValueError for fewer than two seeds or another number of them."""
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"needs the same seeds twice, at least two: there are {len(a)} and {len(b)}")
    d = np.asarray(a, float) - np.asarray(b, float)
    half = float(t_quantile(len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5)
    return Difference(float(d.mean()), float(d.mean()) - half, float(d.mean()) + half, problems=0, seeds=len(d))


def read(name: str) -> dict[str, Any]:
    """The evaluations of a result, by variant and stage, a list over seeds."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def accuracy(found: dict[str, Any], arm: Arm, kind: str) -> list[float]:
    """The accuracy of an arm, a value per seed."""
    return [evaluation[kind]["accuracy"] for evaluation in found[arm[0]][arm[1]]]


def table() -> str:
    """The differences as Markdown."""
    lines = ["| difference | sampled | | greedy | |", "|---|---|---|---|---|"]
    for text, name, one, other in PAIRS:
        found, cells = read(name), []
        for kind in ("sampled", "greedy"):
            d = by_seed(accuracy(found, one, kind), accuracy(found, other, kind))
            cells += [f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]", "shown" if d.shown else "not shown"]
        lines.append(f"| {text} | {' | '.join(cells)} |")
    return "\n".join(lines)


def replaced(page: str, text: str) -> str:
    """A page with the text between the two marks. Raises ValueError where they are not there."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE}: the marks {BEGIN} and {END} are not there")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def draw(path: Path) -> bool:
    """Base, SFT and GRPO on held-out problems, a dot per seed, beside the held-out curve, where one is recorded."""
    if (plt := plotting()) is None:
        return False
    newer = RESULTS / "reflection" / "results.json"
    curves = json.loads(newer.read_text(encoding="utf-8"))["curves"].get("gated", []) if newer.is_file() else []
    curves = curves if curves and all(curves) else []
    _, axes = plt.subplots(1, 1 + bool(curves), figsize=(8 if curves else 6, 3), layout="constrained", squeeze=False)
    dots, found = axes[0][-1], read("paper")
    for place, (name, stage) in enumerate(ROWS):
        for kind, offset, filled in (("sampled", -0.1, {}), ("greedy", 0.1, {"markerfacecolor": "white"})):
            values = accuracy(found, (name, stage), kind)
            seeds = [place + offset + 0.05 * (i - (len(values) - 1) / 2) for i in range(len(values))]
            label = {"label": f"{kind}, a dot per seed"} if not place else {}
            dots.plot(values, seeds, "o", color=COLOURS[place], markersize=5, **filled, **label)
    dots.set_yticks(range(len(ROWS)), [name for name, _ in ROWS])
    dots.set_ylim(len(ROWS) - 0.5, -0.5)
    dots.set(xlim=(0, 1), xlabel="held-out accuracy", title="make paper: 256 held-out problems")
    dots.legend(frameon=False, fontsize=8)
    if curves:
        band(axes[0][0], curves, "accuracy", "step", "sampled", COLOURS[3])
        band(axes[0][0], curves, "greedy", "step", "greedy", COLOURS[1])
        axes[0][0].set(xlabel="GRPO steps", ylabel="held-out accuracy", title=f"{len(curves)} seeds, lowest to highest")
        axes[0][0].legend(frameon=False)
    save(plt, path)
    return True


if __name__ == "__main__":
    sys.exit(main())
