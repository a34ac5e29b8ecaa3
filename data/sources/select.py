"""`data.where`: which rows to take, by their columns.

    {level: 5}                        the column is 5, as a number or as the text "5"
    {subject: [Algebra, Geometry]}    it is one of these
    {level: ">=4"}                    it is a number that compares so; also <=, > and <
    {source: "!=synthetic"}           it is anything else
    {solution: null}                  it is empty or missing

Of several columns, all must hold. A column that is a list holds where one of its items does.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from difflib import get_close_matches
from typing import Any

from data.errors import DataError
from data.sources.jsonl import Row
from data.sources.text import number_text

_ORDERS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def check_where(where: dict[str, Any]) -> None:
    """Raises DataError, which names the column, for what is no condition."""
    for name, wanted in where.items():
        for item in wanted if isinstance(wanted, list) else [wanted]:
            if isinstance(item, dict | list):
                raise DataError(f"data.where.{name}: {item!r} is no value, as 5, Algebra or [Algebra, Geometry]")
        sign, bound = _order(wanted)
        if sign and not _NUMBER.fullmatch(bound):
            raise DataError(f"data.where.{name}: {wanted!r} must compare with a number, as {sign}4 does")
        if isinstance(wanted, list) and (signed := next((item for item in wanted if _order(item)[0]), None)):
            raise DataError(f"data.where.{name}: {signed!r} cannot stand in a list")


class Selection:
    """Whether a row is asked for; it remembers what the columns hold, to say so where no row is."""

    def __init__(self, where: dict[str, Any]):
        self.where = where
        self.held: dict[str, Counter[str]] = {name: Counter() for name in where}
        self.columns: dict[str, None] = {}

    def __call__(self, row: Row) -> bool:
        """Raises DataError where a number is asked for and the column has none."""
        for name in self.where:
            if len(self.held[name]) < 100:
                self.held[name].update(map(spelled, _items(row.get(name))))
        if self.where and len(self.columns) < 100:
            self.columns.update(dict.fromkeys(row))
        return all(_holds(name, row.get(name), wanted) for name, wanted in self.where.items())

    def nothing(self) -> str:
        """Why no row was asked for, of one column."""
        for name in self.held:
            if name not in self.columns:
                near = get_close_matches(name, self.columns, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(list(self.columns)[:10])}"
                return f"no row has the column {name!r}; {hint}"
        common = {name: ", ".join(f"{value[:30]!r}" for value, _ in v.most_common(8)) for name, v in self.held.items()}
        return "; ".join(f"{name} is {values}" for name, values in common.items())


def spelled(value: Any) -> str:
    """A value as a condition has it: 5, 5.0 and "5" are one, and so are true and "true"."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return number_text(value)
    return "" if value is None else str(value).strip()


def _items(value: Any) -> list[Any]:
    return (value or [None]) if isinstance(value, list) else [value]


def _order(wanted: Any) -> tuple[str, str]:
    """(">=", "4") of ">=4"; ("", "") of anything that does not compare numbers."""
    sign = next((sign for sign in _ORDERS if isinstance(wanted, str) and wanted.startswith(sign)), "")
    return sign, wanted[len(sign) :].strip() if sign else ""


def _holds(name: str, value: Any, wanted: Any) -> bool:
    there = [spelled(item) for item in _items(value)]
    sign, bound = _order(wanted)
    if sign:
        if wrong := next((item for item in there if item and not _NUMBER.fullmatch(item)), None):
            raise DataError(f"the column {name!r} is {wrong[:40]!r}, no number to compare: data.where.{name}={wanted}")
        return any(_ORDERS[sign](float(item), float(bound)) for item in there if item)
    if isinstance(wanted, str) and wanted.startswith("!="):
        return wanted[2:].strip() not in there
    return any(spelled(item) in there for item in _items(wanted))
