"""Write the tables of README and docs that hold results, and the demo's figure (`make docs` runs it).

    python -m experiments.pages

A table stands in a page between `<!-- python -m experiments.pages TABLE ARGUMENTS -->` and `<!-- end -->`; the tables
are in experiments/lab/tables.py and page_tables.py.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from experiments.lab.figure import COLOURS, band, plotting, save
from experiments.lab.page_tables import STAGES, TABLES
from experiments.lab.tables import read

REPO = Path(__file__).parents[1]
FIGURE = REPO / "docs" / "demo.svg"
PAGES = [REPO / "README.md", *(REPO / "docs" / name for name in ("findings.md", "paper.md"))]
PAGES += sorted((REPO / "docs" / "findings").glob("*.md"))
MARKS = re.compile(r"(<!-- python -m experiments\.pages ([\w/ ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


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

    def table(found: re.Match[str]) -> str:
        name, *arguments = found[2].split()
        return f"{found[1]}\n{TABLES[name](*arguments)}\n\n{found[3]}"

    return MARKS.sub(table, page)


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
