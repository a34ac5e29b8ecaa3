"""Figures as SVG, the same bytes for the same data: no date, no random ids, text as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.lab.plan import Plan

COLOURS = ("#4c566a", "#0b7189", "#c8553d", "#7a5195", "#3d8b37", "#b8860b", "#a23b72", "#1b4965")


def plotting() -> Any | None:
    """matplotlib.pyplot with fixed settings; None where matplotlib is not installed (extra `figures`)."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcdefaults()
    plt.rcParams.update({"svg.hashsalt": "grpo", "svg.fonttype": "none", "font.size": 9, "axes.grid": True})
    plt.rcParams.update({"grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False})
    return plt


def save(plt: Any, path: Path) -> None:
    """Write the current figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    plt.close()


def band(
    axis: Any, curves: list[list[dict[str, Any]]], figure: str, across: str, label: str, colour: str, line: str = "-"
) -> None:
    """The mean of curves over seeds, and the lowest to the highest seed behind it, at the steps that all have."""
    steps = sorted(set.intersection(*({row["step"] for row in rows} for rows in curves)))
    at = [[next(row for row in rows if row["step"] == step) for rows in curves] for step in steps]  # [step][seed]
    x = [sum(row[across] for row in rows) / len(rows) for rows in at]
    values = [[row[figure] for row in rows] for rows in at]
    marker = "." if len(x) < 15 else None
    axis.plot(x, [sum(v) / len(v) for v in values], color=colour, label=label, marker=marker, linestyle=line)
    axis.fill_between(x, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.18, linewidth=0)


def draw(plan: Plan, found: dict[str, Any], path: Path) -> bool:
    """Held-out curves over completions and each arm's paired difference to the baseline. False without matplotlib."""
    if (plt := plotting()) is None:
        return False
    differences = found["differences"]
    _, axes = plt.subplots(1, 2, figsize=(9, 0.5 + max(3.0, 0.55 * len(differences))), layout="constrained")
    draw_curves(plan, found, axes[0])
    for place, (name, kinds) in enumerate(differences.items()):
        for kind, offset, marker in (("sampled", -0.12, "o"), ("greedy", 0.12, "s")):
            d = kinds[kind]
            error = [[d["mean"] - d["low"]], [d["high"] - d["mean"]]]
            colour, _ = style(list(plan.variants).index(name))
            filled = {} if kind == "sampled" else {"markerfacecolor": "white"}
            axes[1].errorbar(d["mean"], place + offset, xerr=error, fmt=marker, color=colour, capsize=3, **filled)
    axes[1].axvline(0, color="black", linewidth=0.8)
    axes[1].set_yticks(range(len(differences)), list(differences))
    axes[1].set_ylim(len(differences) - 0.5, -0.5)
    axes[1].set(xlabel=f"accuracy - {plan.baseline}", title="paired, 95 %: sampled (dots), greedy (squares)")
    save(plt, path)
    return True


def draw_training(plan: Plan, found: dict[str, Any], path: Path) -> bool:
    """The metrics that the plan watches, a panel each, over the steps of training. False without matplotlib."""
    if not plan.watch or (plt := plotting()) is None:
        return False
    high = -(-len(plan.watch) // 2)
    drawing, axes = plt.subplots(high, 2, figsize=(9, 0.4 + 2.6 * high), layout="constrained", squeeze=False)
    for axis, name in zip(axes.flat, plan.watch, strict=False):
        for number, variant in enumerate(plan.variants):
            runs = [per_step(run, name) for run in found["training"][variant]]
            if all(runs):
                band(axis, runs, name, "step", variant, *style(number))
                if variant == plan.baseline:  # dashed and on top: other arms may lie on it
                    axis.get_lines()[-1].set(zorder=4, linestyle="--")
        axis.set(title=name, xlabel="step")
        if name == "kl":  # a single token may make it a thousand times as large
            axis.set_yscale("symlog", linthresh=0.1)
    lines = axes[0, 0].get_legend_handles_labels()
    drawing.legend(*lines, frameon=False, fontsize=8, loc="outside lower center", ncols=min(4, len(plan.variants)))
    for axis in list(axes.flat)[len(plan.watch) :]:
        axis.remove()
    save(plt, path)
    return True


def style(number: int) -> tuple[str, str]:
    """Colour and line of an arm; the second round of colours is dotted."""
    return COLOURS[number % len(COLOURS)], "-" if number < len(COLOURS) else ":"


def draw_curves(plan: Plan, found: dict[str, Any], axis: Any) -> None:
    """Held-out accuracy where `eval.every` was set; else accuracy on the training problems, or the loss of SFT."""
    curves = {name: some for name, some in found["curves"].items() if some and all(some)}
    y, across, ylabel = "accuracy", "step", "held-out accuracy, sampled"
    if curves and any(row["completions"] for some in curves.values() for rows in some for row in rows):
        across = "completions"
    if not curves:
        y = (
            "reward_accuracy"
            if any("reward_accuracy" in run for some in found["training"].values() for run in some)
            else "loss"
        )
        ylabel = {"reward_accuracy": "accuracy of the samples trained on", "loss": "training loss"}[y]
        curves = {name: [per_step(run, y) for run in runs] for name, runs in found["training"].items()}
        curves = {name: some for name, some in curves.items() if all(some)}
    for number, name in enumerate(plan.variants):
        if name in curves:
            band(axis, curves[name], y, across, name, *style(number))
    axis.set(xlabel={"completions": "completions sampled for training", "step": "steps"}[across], ylabel=ylabel)
    seeds = len(found["seeds"])
    axis.set(title=f"mean of {seeds} seeds, lowest to highest" if seeds > 1 else "one seed")
    if plan.target:
        axis.axhline(plan.target, color="black", linewidth=0.8, linestyle=":")
    if curves:
        axis.legend(frameon=False, fontsize=7 if len(curves) > len(COLOURS) else None)


def per_step(run: dict[str, list[float | None]], figure: str) -> list[dict[str, Any]]:
    """A run's column as rows, without the steps that lack it."""
    pairs = zip(run["step"], run[figure], strict=True) if figure in run else ()
    return [{"step": step, figure: value} for step, value in pairs if value is not None]
