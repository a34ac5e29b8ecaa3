"""Sets of real numbers of few parts, by sympy: unions, intersections and differences of intervals and finite sets."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from rewards.grader.matrices import sympy_module
from rewards.grader.operations import negated, variables
from rewards.grader.values import INFINITY, Unreadable, Value

MAX_ENDS = 24
"""Of two sets together: sympy compares each part with each."""
JOINING = ("union", "intersection", "difference")


def is_joined(value: Value) -> bool:
    """Whether it is a set of several parts, or several conditions: `x < 1 or x > 3`."""
    items = value.items if value.kind == "list" else ()
    return value.kind in JOINING or any(item.kind == "relation" and "=" not in item.label.split() for item in items)


class Sets:
    """bare: what a relation says, as an interval. number: the value of a constant, None if it isn't real."""

    def __init__(self, bare: Callable[[Value], Value], number: Callable[[Value], Any]):
        self.bare, self.number = bare, number
        self.letters: set[str] = set()  # that conditions are about: x < 1 or y > 3 is no set
        self.ends = 0

    def same(self, a: Value, b: Value) -> bool:
        """Whether two answers name the same set of real numbers. Raises Unreadable where one names none."""
        first, second = self.read(a), self.read(b)
        if len(self.letters) > 1:
            raise Unreadable("conditions on several letters")
        return first == second

    def read(self, value: Value) -> Any:
        sympy = sympy_module()
        if value.kind == "relation":
            self.letters |= frozenset().union(*map(variables, value.items)) - {INFINITY.name}
        elif value.kind == "named":
            self.letters.add(value.label)
        value = self.bare(value)
        self.ends += len(value.items) if value.kind in ("{", "(") else 1
        if self.ends > MAX_ENDS:
            raise Unreadable("too many ends")
        if value.kind == "(" and len(value.items) == 2:
            (low, high), brackets = map(self.end, value.items), value.label or "()"
            if low > high or (low == high and brackets != "[]"):
                raise Unreadable("a pair that is no interval")  # as the empty set, any other one would be it
            return sympy.Interval(low, high, brackets[0] == "(", brackets[1] == ")")
        if value.kind in ("", "{"):  # a number alone: x = 1 or x > 3
            return sympy.FiniteSet(*map(self.end, value.items if value.kind else (value,)))
        conditions = value.kind == "list" and all(item.kind in ("relation", "named") for item in value.items)
        if not conditions and value.kind not in JOINING:
            raise Unreadable(f"no set: {value.kind}")
        return self.joined(value, list(map(self.read, value.items)))

    def end(self, value: Value) -> Any:
        sympy = sympy_module()
        if value in (INFINITY, negated(INFINITY)):
            return sympy.oo if value == INFINITY else -sympy.oo
        found = None if value.kind or variables(value) else self.number(value)
        if found is None:
            raise Unreadable("an end that is no real number")
        if found.denominator > 10**60:  # the last digits of sqrt(8) and 2 sqrt(2) may differ
            found = type(found)(round(found * 10**60), 10**60)
        return sympy.Rational(found.numerator, found.denominator)

    @staticmethod
    def joined(value: Value, sets: list[Any]) -> Any:
        sympy = sympy_module()
        if value.kind == "difference":
            return sets[0] - sets[1]
        unequal = all(item.kind == "relation" and item.label == "!=" for item in value.items)  # x != 1, x != 2
        if value.kind == "intersection" or value.label == "and" or unequal:
            return sympy.Intersection(*sets)
        pairs = itertools.combinations(sets, 2) if value.kind == "list" else ()
        if any(one & other != sympy.EmptySet for one, other in pairs):
            raise Unreadable("conditions that overlap: `x > 1, x < 3` may mean both")
        return sympy.Union(*sets)
