"""Sets of real numbers: unions, intersections and differences of intervals and of finite sets.

Between two neighbouring ends nothing changes. So two sets are the same if they hold the same ends, and the same numbers
half way between ends and beyond the last ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction

from rewards.grader.values import INFINITY, Unreadable, Value, negated, variables

DIGITS = 200
"""To which the ends are known: of sqrt(8) and 2 sqrt(2) the last digits may differ."""
MAX_ENDS = 100
"""Of two sets together: the work grows with their square."""
JOINING = ("union", "intersection", "difference")
Ends = set[Fraction | float]
Set = tuple[Callable[[Fraction], bool], Ends]
"""Whether a number is a member, and where that may change."""


def is_joined(value: Value) -> bool:
    """Whether it is a set of several parts, or several conditions: `x < 1 or x > 3`."""
    return value.kind in JOINING or (value.kind == "list" and any(item.kind == "relation" for item in value.items))


class Sets:
    """bare: what a relation says, as an interval. number: the value of a constant, None if it isn't real."""

    def __init__(self, bare: Callable[[Value], Value], number: Callable[[Value], Fraction | None]):
        self.bare, self.number = bare, number
        self.letters: set[str] = set()  # that conditions are about: x < 1 or y > 3 is no set

    def same(self, a: Value, b: Value) -> bool:
        """Whether two answers name the same set. Raises Unreadable where one names none."""
        (in_a, ends), (in_b, others) = self.read(a), self.read(b)
        if len(self.letters) > 1 or len(ends | others) > MAX_ENDS:
            raise Unreadable("conditions on several letters, or too many ends")
        finite = sorted(end for end in ends | others if isinstance(end, Fraction)) or [Fraction(0)]
        between = [(low + high) / 2 for low, high in itertools.pairwise(finite)]
        return all(in_a(x) == in_b(x) for x in (finite[0] - 1, *finite, *between, finite[-1] + 1))

    def read(self, value: Value) -> Set:
        if value.kind == "relation":
            self.letters.update(*map(variables, value.items))
            self.letters.discard(INFINITY.name)
        elif value.kind == "named":
            self.letters.add(value.label)
        value = self.bare(value)
        if value.kind == "(" and len(value.items) == 2:
            (low, high), closed = map(self.end, value.items), value.label or "()"
            closed = {end for end, bracket in ((low, closed[0]), (high, closed[1])) if bracket in "[]"}
            return lambda x: low < x < high or x in closed, {low, high}
        if value.kind in ("", "{"):  # a number alone: x = 1 or x > 3
            elements = set(map(self.end, value.items if value.kind else (value,)))
            return elements.__contains__, elements
        conditions = value.kind == "list" and all(item.kind in ("relation", "named") for item in value.items)
        if not conditions and value.kind not in JOINING:
            raise Unreadable(f"no set: {value.kind}")
        members, ends = zip(*map(self.read, value.items), strict=True)
        return self.joined(value, members), set().union(*ends)

    def end(self, value: Value) -> Fraction | float:
        if value in (INFINITY, negated(INFINITY)):
            return float("inf") if value == INFINITY else -float("inf")
        found = None if value.kind or variables(value) else self.number(value)
        if found is None:
            raise Unreadable("an end that is no real number")
        return Fraction(round(found * 10**DIGITS), 10**DIGITS) if found.denominator > 10**DIGITS else found

    @staticmethod
    def joined(value: Value, members: tuple[Callable[[Fraction], bool], ...]) -> Callable[[Fraction], bool]:
        """Who is a member, of what the parts hold."""
        if value.kind == "difference":
            return lambda x: members[0](x) and not members[1](x)
        unequal = all(item.kind == "relation" and item.label == "!=" for item in value.items)  # x != 1, x != 2
        if value.kind == "intersection" or value.label == "and" or unequal:
            return lambda x: all(member(x) for member in members)

        def either(x: Fraction) -> bool:
            found = sum(member(x) for member in members)
            if found > 1 and value.kind == "list":
                raise Unreadable("conditions that overlap: `x > 1, x < 3` may mean both")
            return found > 0

        return either
