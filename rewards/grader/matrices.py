"""Arithmetic of matrices and vectors, by sympy: objects built node by node from numbers, and never from a text.

Letters are numbers by then, so that sympy calculates and does not search.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from rewards.grader.operations import expression, is_matrix, variables
from rewards.grader.values import INFINITY, Symbol, Unreadable, Value

MAX_SIDE, MAX_POWER, MAX_BITS = 5, 20, 4000
"""Rows or columns of a matrix; an exponent; the size of an entry."""
DIGITS, NOISE = 90, Fraction(1, 10**60)
"""Decimals of an entry; what rounding them may make of a result."""
_OPERATIONS = {"+": operator.add, "*": operator.mul, "^": operator.pow}


@functools.cache
def sympy_module() -> Any:
    """sympy, imported where it is first needed: `import rewards` stays fast."""
    import sympy

    return sympy


def calculated(value: Value, number: Callable[[Value], Fraction | None], spend: Callable[[float], None]) -> Any:
    """A matrix, a vector or arithmetic with them, or an entry, as sympy's object of rational numbers.

    `number` gives an expression's value, None if it isn't real; `spend` counts the work. Raises Unreadable for shapes
    that don't fit, and for what exceeds a limit.
    """
    sympy = sympy_module()
    if not value.kind:
        found = None if INFINITY.name in variables(value) else number(value)
        if found is None:
            raise Unreadable("an entry that is no real number")
        if found.denominator > 10**DIGITS:
            found = round(found, DIGITS)
        return sympy.Rational(found.numerator, found.denominator)
    if value.kind in ("matrix", "("):
        rows = [row.items for row in value.items] if value.kind == "matrix" else [(item,) for item in value.items]
        if max(len(rows), len(rows[0])) > MAX_SIDE:
            raise Unreadable("a large matrix")
        return sympy.ImmutableMatrix([[calculated(expression(item), number, spend) for item in row] for row in rows])
    if not is_matrix(value):
        raise Unreadable(f"{value.kind} is no arithmetic")
    base, *rest = value.items
    result = calculated(base, number, spend)
    if value.label == "^" and rest[0] in (Symbol("T"), Symbol("top")):
        return result.T
    for item in rest:
        other = calculated(item, number, spend)
        if value.label == "^" and not (other.is_Integer and abs(other) <= MAX_POWER):
            raise Unreadable("no small power of a matrix")
        bits = _bits(result) * (abs(int(other)) if value.label == "^" else 1)
        if bits > MAX_BITS:
            raise Unreadable("too large")
        spend(20 + bits)
        try:
            result = _OPERATIONS[value.label](result, other)
        except (TypeError, ValueError) as error:  # a matrix and a number cannot be added
            raise Unreadable(f"sympy: {error}") from None
    return result


def same_entries(left: Any, right: Any) -> bool:
    """Whether two matrices have the same shape and, but for rounding, the same entries."""
    if not (getattr(left, "is_Matrix", False) and getattr(right, "is_Matrix", False) and left.shape == right.shape):
        return False
    pairs = zip(left, right, strict=True)
    return all(a == b or abs(a - b) <= NOISE * max(1, abs(a), abs(b)) for a, b in pairs)


def _bits(result: Any) -> int:
    entries = result if result.is_Matrix else [result]
    return max(max(int(entry.p).bit_length(), int(entry.q).bit_length()) for entry in entries)
