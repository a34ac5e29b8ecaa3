"""What does it write? The completions of a run, packed for the script of the page.

They are one JSON text, compressed (gzip) and written in base64, which every browser of today unpacks by itself. Where
even that would be too much, evenly chosen steps are kept, with the first, the last and those with a warning.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from typing import Any

from grpo.report.charts import number
from grpo.report.read import Row, RunData, as_number
from rewards.markers import PRESETS

FOLD = 1200  # characters; a longer text is folded in its middle, and its end is always seen
SERIES = ("before", "after", "kl", "entropy", "ratio", "weight", "clipped")
MARKERS = sorted({marker.rstrip("*:") for marker in PRESETS["default"]}, key=len, reverse=True)
_MARKED = re.compile("|".join(rf"\b{re.escape(marker)}\b" for marker in MARKERS), re.IGNORECASE)


def steps_of(run: RunData) -> dict[int, list[Row]]:
    """The groups of each step: its completions in the order in which they were sampled, by problem."""
    steps: dict[int, dict[str, list[Row]]] = {}
    for row in run.completions:
        step = as_number(row.get("step"))
        if math.isfinite(step):
            steps.setdefault(int(step), {}).setdefault(str(row.get("problem", "")), []).append(row)
    return {step: [_group(rows, run) for rows in groups.values()] for step, groups in sorted(steps.items())}


def _group(rows: list[Row], run: RunData) -> Row:
    first = rows[0]
    return {
        "id": str(first.get("problem", "")),
        "q": str(first.get("question", "")),
        "a": str(first.get("answer", "")),
        "c": [_completion(row, run) for row in rows],
    }


def _completion(row: Row, run: RunData) -> Row:
    """A completion under short names: text, rewards in the order of the weights, total, advantage, and its marks."""
    rewards = row.get("rewards") if isinstance(row.get("rewards"), dict) else {}
    right = as_number(rewards.get(run.setup.right))
    packed: Row = {"t": str(row.get("completion", "")), "r": {str(k): _plain(v) for k, v in rewards.items()}}
    packed["s"], packed["v"] = _plain(row.get("total")), _plain(row.get("advantage"))
    if math.isfinite(right):
        packed["ok"] = int(right > 0)
    if row.get("kept") is False:
        packed["d"] = str(row.get("dropped", "not learned from"))
    if row.get("truncated"):
        packed["x"] = 1
    packed |= {"n": _plain(row.get("length")), "f": _plain(row.get("reflections"))}
    if isinstance(row.get("extras"), dict):
        packed["e"] = {str(k): str(v) for k, v in row["extras"].items()}
    if isinstance(row.get("tokens"), dict):
        packed["k"] = {name: x for name in ("text", *SERIES) if isinstance(x := row["tokens"].get(name), list)}
    return packed


def _plain(value: Any) -> float | int | None:
    x = as_number(value)
    return None if not math.isfinite(x) else int(x) if x.is_integer() else float(f"{x:.4g}")


def packed(run: RunData, most: int) -> tuple[str, str]:
    """The completions as base64 of at most about `most` characters, and a sentence about what was left out."""
    steps = steps_of(run)
    flagged = {int(s) for row in run.warnings if math.isfinite(s := as_number(row.get("step")))}
    numbers, every = list(steps), 1
    while steps:
        ends = (numbers[0], numbers[-1])
        kept = [s for i, s in enumerate(numbers) if i % every == 0 or s in ends or (s in flagged and every < 64)]
        text = _pack({"weights": run.setup.weights, "right": run.setup.right, "steps": [[s, steps[s]] for s in kept]})
        if len(text) <= most or every > 2 * len(numbers):
            left = len(numbers) - len(kept)
            return text, f"{left} of {len(numbers)} steps are left out here for their size." if left else ""
        every *= 2
    return "", ""


def packed_held_out(runs: list[RunData], most: int) -> str:
    """The same held-out problems as each run answered them: the greedy completion and the first sampled one."""
    problems: dict[str, Row] = {}
    shown = [run for run in runs if run.judged]
    for i, run in enumerate(shown):
        for row in run.judged:
            if row.get("kind") == "greedy" or row.get("sample") == 0:
                key = str(row.get("id") or row.get("problem"))
                new = {"id": key, "q": str(row.get("question", "")), "a": str(row.get("gold", "")), "c": []}
                answer = {"run": i, "kind": str(row.get("kind", "")), "t": str(row.get("text", ""))}
                answer["ok"] = int(bool(row.get("correct")))
                problems.setdefault(key, new)["c"].append(answer)
    found = list(problems.values())
    while found:
        text = _pack({"runs": [run.name for run in shown], "problems": found})
        if len(text) <= most:
            return text
        found = found[::2]
    return ""


def _pack(value: Row) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return base64.b64encode(gzip.compress(text, 6, mtime=0)).decode("ascii")


# ---- without the script: the newest group --------------------------------------------------------------------------


def newest_group(run: RunData) -> Row | None:
    """The first group with tokens of the last step, or its first group."""
    steps = steps_of(run)
    if not steps:
        return None
    step = max(steps)
    groups = steps[step]
    chosen = next((g for g in groups if any("k" in c for c in g["c"])), groups[0])
    return {
        "step": step,
        **chosen,
        "c": [{"ok": None, "d": "", "x": 0, **c, "pieces": pieces(c["t"]), "paid": paid(c, run)} for c in chosen["c"]],
    }


def paid(completion: Row, run: RunData) -> str:
    """rewards x weights = total, as a line of arithmetic."""
    terms = []
    for name, value in completion["r"].items():
        shown = "does not apply" if value is None else number(value)
        weight = run.setup.weights.get(name)
        terms.append(f"{name} {shown}" + (f" x {weight:g}" if weight is not None and value is not None else ""))
    total = f" = {number(completion['s'])}" if completion["s"] is not None else ""
    return " + ".join(terms) + total


def pieces(text: str) -> list[tuple[str, str]]:
    """(kind, text) of a completion: think, answer or plain; markers of reflection as `mark`, `fold` what is folded."""
    found: list[tuple[str, str]] = []
    cut = len(text) - FOLD
    ends = [text] if cut <= 0 else [text[: FOLD // 2], text[FOLD // 2 : -FOLD // 2], text[-FOLD // 2 :]]
    for i, some in enumerate(ends):
        if i == 1:
            found.append(("fold", some))
            continue
        at = 0
        for match in _MARKED.finditer(some):
            found += [("plain", some[at : match.start()]), ("mark", match[0])]
            at = match.end()
        found.append(("plain", some[at:]))
    return [(kind, some) for kind, some in found if some]
