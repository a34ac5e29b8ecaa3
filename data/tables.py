"""Rows of a .parquet file or of a data set on the Hugging Face hub, and the rows that need more than field names.

A multiple choice (GPQA) becomes a question with its choices in a random order, and a letter as its answer. A row with
several traces of a model (OpenR1-Math-220k) becomes a response that SFT can teach.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.jsonl import Row

INSTALL = "install it: pip install -e '.[data]' -c constraints.txt"


def read_parquet(path: Path, start: int = 0, count: int = 0) -> Iterator[tuple[int, Row]]:
    """Rows `start`, `start + 1`, ... of a .parquet file, with their numbers; all when `count` is 0.

    Raises:
        DataError: the file cannot be read, or pyarrow is missing.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path}: a .parquet file needs the package pyarrow; {INSTALL}") from None
    try:
        table = parquet.read_table(path, memory_map=True).slice(start, count or None)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from error
    for batch in table.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            yield start, plain(row)
            start += 1


def read_hub(name: str, subset: str, split: str, revision: str, start: int, count: int) -> Iterator[tuple[int, Row]]:
    """Rows of a data set on the hub, or of a folder of data files, through the package `datasets`.

    Raises:
        DataError: there is no such data set, subset or split, it cannot be reached, or the package is missing.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(f"data.source={name}: the hub needs the package datasets; {INSTALL}") from None
    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(name, subset or None, split=split, revision=revision or None)
    except Exception as error:  # of many kinds: of files, of the network, of what the hub says
        raise DataError(f"data.source={name}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    for number in range(start, min(start + count, len(rows)) if count else len(rows)):
        yield number, plain(rows[number])


def plain(value: Any) -> Any:
    """A value of a table as JSON has it; dates and the like become text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


# --------------------------------------------------------------------------- multiple choice

RIGHT, WRONG = "Correct Answer", [f"Incorrect Answer {i}" for i in (1, 2, 3)]
LETTERS = "ABCD"
ASK = "Answer with the letter of the right choice."


def choice(row: Row, id: str, seed: int) -> Row:
    """A row of GPQA as `question` and `answer`: the choices in an order that depends on (seed, id) alone.

    Raises:
        DataError: a choice is missing or is no text.
    """
    texts = [row.get(name) for name in (RIGHT, *WRONG)]
    for name, text in zip((RIGHT, *WRONG), texts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"the field {name!r} is missing or empty; the row has {', '.join(map(repr, row))}")
    order = random.Random(f"choices/{seed}/{id}").sample(range(4), 4)
    choices = [f"{letter}) {texts[i].strip()}" for letter, i in zip(LETTERS, order, strict=True)]
    question = row.get("Question") or row.get("question") or ""
    rest = {name: value for name, value in row.items() if name not in ("Question", "question", "answer", "solution")}
    text = "\n".join([question.strip(), "", *choices, "", ASK]) if question.strip() else ""
    return {**rest, "question": text, "answer": LETTERS[order.index(0)]}


# --------------------------------------------------------------------------- traces

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
