"""Arithmetic of matrices and vectors, by sympy: objects built node by node from numbers, and never from a text.

Letters are numbers by then, so that sympy calculates and does not search.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from rewards.grader.operations import is_matrix
from rewards.grader.values import Symbol, Unreadable, Value

MAX_SIDE, MAX_POWER, MAX_BITS = 5, 20, 8000
"""Rows or columns of a matrix; an exponent; the size of an entry."""
NOISE = Fraction(1, 10**200)
_OPERATIONS = {"+": operator.add, "*": operator.mul, "^": operator.pow}


@functools.cache
def sympy_module() -> Any:
    """sympy, imported where it is first needed: `import rewards` stays fast."""
    import sympy

    return sympy


def calculated(value: Value, number: Callable[[Value], Fraction | None], spend: Callable[[float], None]) -> Any:
    """A matrix, or an entry of one, as sympy's object of rational numbers.

    Args:
        value: a matrix, a vector, or arithmetic with them.
        number: an expression's value at the point, to more digits than `NOISE`; None if it isn't real.
        spend: counts the work.

    Raises:
        Unreadable: for shapes that don't fit, and for what exceeds a limit.
    """
    sympy = sympy_module()
    if not value.kind:
        if (found := number(value)) is None:
            raise Unreadable("an entry that is no real number")
        return sympy.Rational(found.numerator, found.denominator)
    if value.kind in ("matrix", "("):
        rows = [row.items for row in value.items] if value.kind == "matrix" else [(item,) for item in value.items]
        if max(len(rows), len(rows[0])) > MAX_SIDE:
            raise Unreadable("a large matrix")
        return sympy.ImmutableMatrix([[calculated(item, number, spend) for item in row] for row in rows])
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
        if _bits(result) * (abs(other) if value.label == "^" else 1) > MAX_BITS:
            raise Unreadable("too large")
        spend(50)
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
