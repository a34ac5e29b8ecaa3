"""Strict JSON Lines: a line is one JSON object, or one `DataError` that gives the reason.

Stricter than `json.loads` where leniency would corrupt data silently: a key given twice, NaN and
Infinity, numbers that overflow to infinity, and half a surrogate pair (no tokenizer can encode it)
are all refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, BinaryIO

from data.errors import DataError

Row = dict[str, Any]

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_lines(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """The rows of a file that is open for reading bytes.

    A row is a line that is not blank. Lines end at "\\n" or "\\r\\n"; a byte order mark before the
    first is dropped. Bytes, so that a decoding error has a line number.

    Yields:
        (row number from 0, line number from 1, the line).
    """
    lines = ((n, text.removeprefix(BYTE_ORDER_MARK if n == 1 else b"")) for n, text in enumerate(file, 1))
    for row, (n, text) in enumerate((n, text) for n, text in lines if text.strip()):
        yield row, n, text


def parse_row(line: bytes) -> Row:
    """Parse one line.

    Raises:
        DataError: not UTF-8, not JSON, not an object, or one of the ambiguities listed above.
    """
    return as_row(parse(line))


def parse(content: bytes) -> Any:
    """The value that JSON text stands for. Raises DataError, as `parse_row` does."""
    try:
        text = content.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite_float
        )
    except DataError:
        raise
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: byte 0x{content[error.start]:02x} at column {error.start + 1}") from error
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise DataError(f"not JSON: {error.msg} at {line}column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, thousands of brackets
        raise DataError(f"JSON that cannot be read: {error}") from error
    if "\\u" in text and not _is_text(value):
        raise DataError("holds half a surrogate pair (\\ud800 to \\udfff), which is not text")
    return value


def as_row(value: Any) -> Row:
    """The value, if it is an object; a DataError if it is another."""
    if not isinstance(value, dict):
        raise DataError("not a JSON object, as `{` ... `}`")
    return value


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


def _is_text(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
