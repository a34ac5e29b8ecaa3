"""Strict JSON Lines: a line is one JSON object, or one `DataError` that gives the reason.

Stricter than `json.loads` where leniency would corrupt data silently: a key given twice, NaN and
Infinity, numbers that overflow to infinity, and half a surrogate pair (no tokenizer can encode it)
are all refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from data.errors import DataError

Row = dict[str, Any]

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_lines(path: Path, start: int = 0, count: int = 0) -> Iterator[tuple[int, int, bytes]]:
    """Read rows `start`, `start + 1`, ... of a file: `count` of them, or all when `count` is 0.

    A row is a line that is not blank. Lines end at "\\n" or "\\r\\n"; a byte order mark before the
    first is dropped. Bytes, so that a decoding error has a line number.

    Yields:
        (row number from 0, line number from 1, the line).

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            lines = ((n, text.removeprefix(BYTE_ORDER_MARK if n == 1 else b"")) for n, text in enumerate(file, 1))
            filled = ((n, text) for n, text in lines if text.strip())
            for row, (n, text) in islice(enumerate(filled), start, start + count if count else None):
                yield row, n, text
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def parse_row(line: bytes) -> Row:
    """Parse one line.

    Raises:
        DataError: not UTF-8, not JSON, not an object, or one of the ambiguities listed above.
    """
    try:
        text = line.decode("utf-8")
        row = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite_float
        )
    except DataError:
        raise
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: byte 0x{line[error.start]:02x} at column {error.start + 1}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, thousands of brackets
        raise DataError(f"JSON that cannot be read: {error}") from error
    if not isinstance(row, dict):
        raise DataError("not a JSON object, as `{` ... `}`")
    if "\\u" in text and not _is_text(row):
        raise DataError("holds half a surrogate pair (\\ud800 to \\udfff), which is not text")
    return row


def _unique_keys(pairs: list[tuple[str, Any]]) -> Row:
    row: Row = {}
    for key, value in pairs:
        if key in row:
            raise DataError(f"the field {key[:40]!a} is given twice")
        row[key] = value
    return row


def _refuse_constant(name: str) -> float:
    raise DataError(f"not JSON: {name} is no number")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise DataError(f"the number {digits[:40]} is too large")
    return value


def _is_text(row: Row) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
