"""Does it hack? The signs with their values, what each reward paid, and who makes the spread that is learned from."""

from __future__ import annotations

import math

from grpo.report.charts import Series, line_chart, number, stacked_chart
from grpo.report.read import RunData, as_number
from grpo.runs.signs import Sign, all_signs, gain_shares


def headline(run: RunData, signs: list[Sign]) -> str:
    """What the signs say together, and which reward made the gain, in a sentence each."""
    serious = [sign for sign in signs if sign.serious]
    if len(run.metrics) < 8:
        few = f"{len(run.metrics)} steps are too few for most signs."
        return few + (f" {len(serious)} are seen." if serious else "")
    if any(sign.kind == "accuracy_falls" for sign in serious):
        said = f"Yes, by its signs: the reward rises and accuracy falls. Signs seen at the last step: {len(serious)}."
    elif serious:
        are = "signs are" if len(serious) > 1 else "sign is"
        said = f"{len(serious)} {are} seen at the last step; read below what to do."
    elif earlier := earlier_warnings(run, signs):
        named = ", ".join(f"{kind.replace('_', ' ')} (step {step})" for step, kind, _ in earlier)
        said = f"No sign of it at the last step, but there was on the way: {named}."
    else:
        said = f"No sign of it at the last step{', and no warning on the way' if not run.warnings else ''}."
    return f"{said} {who_paid(run)}".rstrip()


def who_paid(run: RunData) -> str:
    """Which reward made the gain, in a sentence; empty where there is no gain."""
    shares = gain_shares(run.metrics, run.setup)
    if not shares:
        return ""
    first, *others = sorted(shares, key=lambda name: -shares[name])
    rest = f", {run.setup.right} {_percent(shares[run.setup.right])}" if run.setup.right in others else ""
    return f"Of the gain in reward since the first steps, {first} made {_percent(shares[first])}{rest}."


def signs_of(run: RunData) -> list[Sign]:
    """The signs at the last step."""
    return all_signs(run.metrics, run.setup)


def earlier_warnings(run: RunData, signs: list[Sign]) -> list[tuple[int, str, str]]:
    """(step, kind, text) of the first warning of each kind that is not given any more."""
    now, found = {sign.kind for sign in signs if sign.serious}, {}
    for row in run.warnings:
        kind, step = str(row.get("kind")), as_number(row.get("step"))
        if kind not in now and row.get("serious", True) and math.isfinite(step):
            found.setdefault(kind, (int(step), kind, str(row.get("text", ""))))
    return list(found.values())


def rewards_chart(run: RunData) -> str:
    """Each reward times its weight, stacked to the total, with accuracy as a thick line."""
    layers = [
        Series(f"{name} x {weight:g}", [(x, weight * y) for x, y in run.series(f"reward_{name}")], f"s{i % 8}")
        for i, (name, weight) in enumerate(run.setup.weights.items())
        if weight
    ]
    right = run.series(f"reward_{run.setup.right}")
    line = Series(f"{run.setup.right} (right axis)", right) if run.setup.right in run.setup.weights else None
    return stacked_chart(f"Weighted rewards of {run.name}, stacked to the total", layers, line)


def legend(run: RunData) -> list[tuple[str, str]]:
    """(style, name) of each layer, from the bottom up."""
    weights = run.setup.weights.items()
    return [(f"s{i % 8}", f"{name} x {weight:g}") for i, (name, weight) in enumerate(weights) if weight]


def spread_chart(run: RunData) -> str:
    """Each reward's share of the spread inside groups."""
    return line_chart(
        f"Share of the spread inside groups, {run.name}",
        [Series(name, run.series(f"spread_share_{name}"), f"s{i % 8}") for i, name in enumerate(run.setup.weights)],
    )


def paid_by(run: RunData) -> list[tuple[str, list[str]]]:
    """For each reward: its weight, mean in the last step, part of the total, share of the spread and of the gain."""
    if not run.metrics:
        return []
    last, shares = run.metrics[-1], gain_shares(run.metrics, run.setup)
    rows = []
    for name, weight in run.setup.weights.items():
        mean, spread = as_number(last.get(f"reward_{name}")), as_number(last.get(f"spread_share_{name}"))
        gain = shares.get(name, math.nan)
        rows.append((name, [f"{weight:g}", number(mean), number(weight * mean), _percent(spread), _percent(gain)]))
    return rows


def _percent(share: float) -> str:
    return f"{round(100 * share) + 0:d} %" if math.isfinite(share) else "-"
