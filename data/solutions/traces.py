"""A row with several traces of a model (OpenR1-Math-220k) becomes a response that SFT can teach."""

from __future__ import annotations

from typing import Any

from data.errors import DataError
from data.sources.jsonl import Row

TRACES = ("", "first", "correct", "shortest")
"""What `data.trace` may be: the solution of the data, or which of a row's traces."""


def with_trace(row: Row, which: str) -> Row | None:
    """The row with one of its `generations` as the solution to teach, as a whole response; None if none will do.

    which: `first`, `correct` (the first that `correctness_math_verify` calls right) or `shortest` (of those).

    Raises:
        DataError: the row has no traces, or none of the marks that say which are right.
    """
    traces, right = row.get("generations"), row.get("correctness_math_verify")
    if not isinstance(traces, list) or (which != "first" and not isinstance(right, list)):
        missing = "generations" if not isinstance(traces, list) else "correctness_math_verify"
        raise DataError(
            f"data.trace={which}: the field {missing!r} is no list; the row has {', '.join(map(repr, row))}"
        )
    if which != "first":
        traces = [trace for trace, good in zip(traces, right, strict=False) if good]
    thoughts = [thought for trace in traces if (thought := thought_of(trace))]
    if which == "shortest":
        thoughts.sort(key=len)
    if not thoughts:
        return None
    return {**row, "solution": f"<think>\n{thoughts[0]}\n</think>\n<answer>{row.get('answer') or ''}</answer>"}


def thought_of(trace: Any) -> str:
    """What stands between the tags of a trace; empty where the thought was cut off, or holds tags itself."""
    thought, closed, _ = trace.partition("</think>") if isinstance(trace, str) else ("", "", "")
    thought = thought.replace("<think>", "", 1).strip()
    return thought if closed and not any(tag in thought for tag in ("<think>", "<answer>", "</answer>")) else ""
