"""Which tokens did the updates push? Over the run and in its newest step, of the groups whose tokens are written."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from grpo.report.read import Row, RunData, as_number
from grpo.report.samples import steps_of

CONTEXT = 28  # characters on each side of a token
SHOWN = 6  # tokens of the whole run, raised and lowered ones each


def over_the_run(run: RunData) -> Row | None:
    """The tokens whose probability the steps raised and lowered most, over all places in which they were written.

    A token's changes of p are summed over its places: each is what one step made of the p of one written token. So a
    token that is written often, or whose p moves far, comes first, and one of a p near 0 does not.
    """
    changes: dict[str, list[float]] = defaultdict(list)
    steps = 0
    for groups in steps_of(run).values():
        completions = [c for group in groups for c in group["c"] if "k" in c]
        steps += bool(completions)
        for text, before, after in (each for completion in completions for each in known(completion["k"])):
            changes[text].append(probability(after) - probability(before))
    sums = {text: sum(some) for text, some in changes.items() if text}
    raised = sorted((text for text in sums if sums[text] > 0), key=lambda text: -sums[text])[:SHOWN]
    lowered = sorted((text for text in sums if sums[text] < 0), key=lambda text: sums[text])[:SHOWN]
    if not raised or not lowered:
        return None

    def cells(text: str) -> list[str]:
        some = changes[text]
        share = sum(x > 0 for x in some) / len(some)
        return [f"{sums[text]:+.2f}", f"{sums[text] / len(some):+.4f}", f"{share:.0%}", str(len(some))]

    many = f"{steps} steps" if steps > 1 else "one step"
    sentence = f"{run.name}: over {many}, the updates raised {raised[0]!r} most and lowered {lowered[0]!r} most"
    return {
        "sentence": f"{sentence}, in the two groups of a step whose tokens were written.",
        "raised": [(repr(text), cells(text), "") for text in raised],
        "lowered": [(repr(text), cells(text), "") for text in lowered],
    }


def known(series: Row) -> Iterator[tuple[str, float, float]]:
    """(text, log p before, log p after) of the tokens of a completion of which both were written."""
    names = ("text", "before", "after")
    for text, before, after in zip(*(series.get(name, []) for name in names), strict=False):
        b, a = as_number(before), as_number(after)
        if math.isfinite(a - b):
            yield str(text), b, a


def probability(logp: float) -> float:
    """exp of a log-prob that rounding may have put above 0."""
    return math.exp(min(0.0, logp))


def in_words(logp: float) -> str:
    """A probability, which people read more easily than a log-prob."""
    p = probability(logp)
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def moved_tokens(run: RunData, count: int = 8) -> Row | None:
    """The tokens that the newest step with tokens raised and lowered most, with their context."""
    steps = steps_of(run)
    for step in sorted(steps, reverse=True):
        moved = []
        for completion in (c for group in steps[step] for c in group["c"] if "k" in c):
            tokens = completion["k"]
            texts, before, after = (tokens.get(name, []) for name in ("text", "before", "after"))
            at = 0
            whole = "".join(map(str, texts))
            for text, b, a in zip(map(str, texts), before, after, strict=False):
                b, a = as_number(b), as_number(a)
                if math.isfinite(a - b):
                    left, right = whole[max(0, at - CONTEXT) : at], whole[at + len(text) : at + len(text) + CONTEXT]
                    facts = {"text": text, "left": left, "right": right, "before": b, "after": a, "change": a - b}
                    moved.append({**facts, "ok": completion.get("ok"), "advantage": completion["v"]})
                at += len(text)
        if moved:
            moved = distinct(sorted(moved, key=lambda token: -abs(token["change"])))
            for token in moved:
                token |= {name: token[name].replace("\n", "\u23ce") for name in ("left", "text", "right")}
                token |= {f"p_{name}": in_words(token[name]) for name in ("before", "after")}
            raised, lowered = ([t for t in moved if sign * t["change"] > 0][:count] for sign in (1, -1))
            return {"step": step, "raised": raised, "lowered": lowered}
    return None


def distinct(tokens: list[Row]) -> list[Row]:
    """Siblings often share their beginning: a token in one context is one row, with how often it was seen."""
    found: dict[tuple[str, ...], Row] = {}
    for token in tokens:
        row = found.setdefault((token["left"], token["text"], token["right"]), token | {"times": 0})
        row["times"] += 1
    return list(found.values())
