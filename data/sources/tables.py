"""Rows of a .parquet file, or of a data set on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.sources.jsonl import Row

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
