"""Rows of the files that people have: .jsonl, .json, .csv and .tsv, each also with .gz, and .parquet.

A reader yields, for each row, its number from 0, the place that an error names (`mine.csv:7`), and a function that
reads the row or raises a DataError. So a bad row can be skipped.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from data.errors import DataError
from data.sources.jsonl import BYTE_ORDER_MARK, Row, as_row, parse, parse_row, read_lines
from data.sources.tables import read_parquet

Rows = Iterator[tuple[int, str, Callable[[], Row]]]


LISTS = ("data", "rows", "examples", "instances")
"""Where a .json file that is one object has its rows, if not under the name of the split."""


def stem(path: Path) -> str:
    """The file's name without its endings: "train" of `train.jsonl.gz`."""
    return Path(path.name[: -len(".gz")] if path.name.lower().endswith(".gz") else path.name).stem


def read_file(path: Path, split: str, start: int = 0, count: int = 0) -> Rows:
    """Rows `start`, `start + 1`, ... of a file: `count` of them, or all when `count` is 0.

    split: where the rows of a .json file may stand, if it is one object.

    Raises:
        DataError: the file cannot be read at all. What is wrong with a row, its own function says.
    """
    name = path.name.lower()
    unzip = name.endswith(".gz")
    kind = Path(name.removesuffix(".gz")).suffix
    if kind == ".parquet":
        yield from ((n, f"{path}, row {n}", partial(as_row, row)) for n, row in read_parquet(path, start, count))
        return
    try:
        with gzip.open(path, "rb") if unzip else open(path, "rb") as file:
            rows = _json(path, file, split) if kind == ".json" else _lines(path, file)
            if kind in (".csv", ".tsv"):
                rows = _table(path, file, "\t" if kind == ".tsv" else ",")
            yield from islice(rows, start, start + count if count else None)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _lines(path: Path, file: BinaryIO) -> Rows:
    for row, line, text in read_lines(file):
        yield row, f"{path}:{line}", partial(parse_row, text)


def _json(path: Path, file: BinaryIO, split: str) -> Rows:
    """A list of objects, or an object with such a list; also lines of JSON under the wrong name."""
    text = file.read().removeprefix(BYTE_ORDER_MARK)
    try:
        value = parse(text)
    except DataError as error:
        if text.lstrip()[:1] == b"{" and "Extra data" in str(error):
            yield from _lines(path, io.BytesIO(text))
            return
        raise DataError(f"{path}: {error}") from error
    if isinstance(value, dict):
        value = next((value[key] for key in (split, *LISTS) if isinstance(value.get(key), list)), value)
    if not isinstance(value, list):
        raise DataError(f"{path}: is no list of objects, and has none under {split!r} or {', '.join(map(repr, LISTS))}")
    for row, item in enumerate(value):
        yield row, f"{path}, row {row}", partial(as_row, item)


def _table(path: Path, file: BinaryIO, delimiter: str) -> Rows:
    """Rows of cells under a line of names. Every value is text; the place is the row's last line."""
    csv.field_size_limit(2**31 - 1)  # solutions are longer than the 128 KiB that the module begins with
    cells = csv.reader(_decoded(path, file), delimiter=delimiter, strict=True)
    try:
        names = next(cells, [])
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise DataError(f"{path}:1: the column {twice!r} is given twice")
        for row, values in enumerate(filter(None, cells)):
            yield row, f"{path}:{cells.line_num}", partial(_named, names, values)
    except csv.Error as error:
        raise DataError(f"{path}:{cells.line_num}: {error}") from error


def _decoded(path: Path, file: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        try:
            yield line.removeprefix(BYTE_ORDER_MARK if number == 1 else b"").decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number}: not UTF-8: byte 0x{line[error.start]:02x}") from error


def _named(names: list[str], values: list[str]) -> dict[str, Any]:
    if len(values) != len(names):
        raise DataError(f"the row has {len(values)} cells, but the first line names {len(names)} columns")
    return dict(zip(names, values, strict=True))
