"""Are two values the same answer? Symmetric: what holds of (a, b) holds of (b, a)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from rewards.literals import negated
from rewards.numeric import is_undone, proportional, real_value, same_value, variables
from rewards.values import Expression, Number, Op, Struct, Symbol, Unreadable, Value

MAX_COMPARISONS = 600
FLOAT_NOISE = Fraction(1, 10**9)
"""Two decimals this near each other, relatively, are one: 0.1 + 0.2 prints as 0.30000000000000004."""

_UNORDERED = ({"{"}, {"list"}, {"{", "list"}, {"union"}, {"union", "list"})
_ORDERED = ({"("}, {"["}, {"(", "list"}, {"(", "["}, {"[", "list"})
_FLIPPED = {">": "<", ">=": "<="}
INFINITY = Symbol("infty")


@dataclass(frozen=True)
class GradingConfig:
    """What counts as the same answer where people disagree."""

    percent: str = "exact"
    """"exact": 42% is 0.42 and not 42. "optional": it is either."""
    units: str = "optional"
    """"optional": 64 square feet is 64, but 5 meters is not 5 feet. "required": 64 square feet is not 64."""
    decimal_comma: bool = False
    """Read 4,2 as 4.2; 1,234 stays 1234. Off: 4,2 is the two numbers 4 and 2."""
    rounded: bool = False
    """Take a decimal for an exact value that it is rounded from: 2.67 for 8/3."""
    relative_tolerance: float = 1e-5
    """How far a decimal may be from the exact value it stands for, if that isn't an integer: 0.33333 is 1/3.
    Two decimals are compared digit by digit."""
    unevaluated: bool = False
    """Take 6 * 7 for 42. Off: where one side is a number, arithmetic that the other leaves undone isn't it;
    a root or a power of a number is taken all the same."""
    sentences: bool = True
    """Take "The answer is 42." for 42, and prose with a single box for what is in the box."""


class Comparison:
    """One comparison, with its settings and its share of work."""

    def __init__(self, config: GradingConfig):
        self.config, self.left = config, MAX_COMPARISONS

    def same(self, a: Value, b: Value) -> bool:
        self.left -= 1
        if self.left < 0:
            raise Unreadable("too many comparisons")
        if a == b:
            return True
        written = a, b
        a, b = self.simplified(a), self.simplified(b)
        if not isinstance(a, Struct) and not isinstance(b, Struct):
            return self.same_expression(a, b)
        kinds = {_kind(a), _kind(b)}
        if len(kinds) > 1 and "relation" in kinds and {*map(_kind, written)} == {"relation"}:
            a, b = map(_ascending, written)  # y < 3 - 2x is an interval for y, 2x + y < 3 is none
            return self.same_relation(a, b)
        if "quantity" in kinds:
            return self.same_quantity(a, b)
        if "named" in kinds or kinds == {"relation"}:
            return self.same_relation(a, b)
        if "" in kinds or len(a.items) != len(b.items):
            return False
        if a.label != b.label and "list" not in kinds:
            return False
        if kinds in _UNORDERED:
            conditions = any(_kind(item) == "relation" for item in a.items)
            return (a.label == b.label or not conditions) and self.same_items(a, b)
        ordered = kinds in _ORDERED and (len(a.items) > 2 or "interval" not in kinds)
        return (len(kinds) == 1 or ordered) and all(map(self.same, a.items, b.items))

    def same_items(self, a: Struct, b: Struct) -> bool:
        """Whether each item of one is an item of the other, none used twice."""
        rest = list(b.items)
        for item in a.items:
            match = next((i for i, other in enumerate(rest) if self.same(item, other)), None)
            if match is None:
                return False
            del rest[match]
        return True

    # -- before comparing ---------------------------------------------------------------------------

    def simplified(self, value: Value) -> Value:
        """Chains shortened, conditions on a variable as intervals, percent as numbers, columns as vectors."""
        if _kind(value) == "relation":
            value = _shortened(value)
        if _kind(value) == "relation":
            value = _as_interval(_ascending(value))
        if _kind(value) == "quantity" and value.label == "%" and self.config.percent == "exact":
            return _percentage(value)
        if _kind(value) == "matrix" and len(value.items) > 1 and len(value.items[0].items) == 1:
            return Struct("[", tuple(row.items[0] for row in value.items))  # a column is a vector
        return value

    # -- expressions --------------------------------------------------------------------------------

    def same_expression(self, a: Expression, b: Expression) -> bool:
        if isinstance(a, Symbol) and isinstance(b, Symbol):
            return a == b or a.name.lower() == b.name.lower() in "abcde"  # the letter of a choice has no case
        for one, other in ((a, b), (b, a)):
            literal = isinstance(one, Number) and not one.undivided
            if literal and not self.config.unevaluated and is_undone(other):
                return False
        if all(isinstance(side, Number) and side.decimals is not None for side in (a, b)):
            whole = 1 in (a.value.denominator, b.value.denominator)
            noise = 0 if whole else FLOAT_NOISE * max(abs(a.value), abs(b.value))
            return abs(a.value - b.value) <= noise
        if same_value(a, b):
            return True
        return any(self.stands_for(one, other) for one, other in ((a, b), (b, a)))

    def stands_for(self, decimal: Expression, other: Expression) -> bool:
        """Whether a decimal is an exact value rounded or cut off to the digits it has; integers are exact."""
        if not isinstance(decimal, Number) or decimal.decimals is None or variables(other):
            return False
        exact = real_value(other)
        if exact is None or exact.denominator == 1 or decimal.value.denominator == 1:
            return False
        error, step = abs(exact - decimal.value), Fraction(1, 10**decimal.decimals) + FLOAT_NOISE * abs(exact)
        near = error <= Fraction(self.config.relative_tolerance) * abs(exact)
        return error <= step and (near or (self.config.rounded and error <= step / 2))

    # -- quantities and relations -------------------------------------------------------------------

    def same_quantity(self, a: Value, b: Value) -> bool:
        (a, unit), (b, other_unit) = _value_and_unit(a), _value_and_unit(b)
        if unit == other_unit:
            return self.same(a, b)
        if "%" in (unit, other_unit):  # and a percent sign is optional
            bare, part = (a, b) if unit != "%" else (b, a)
            return "" in (unit, other_unit) and (self.same(a, b) or self.same(bare, _percentage(part)))
        return "" in (unit, other_unit) and self.config.units == "optional" and self.same(a, b)

    def same_relation(self, a: Value, b: Value) -> bool:
        """`x = 5` is 5, but not `y = 5`; an equation is another times a constant."""
        named = [_kind(side) == "named" for side in (a, b)]
        if named[0] != named[1] and "relation" not in (_kind(a), _kind(b)):
            return self.same(a.items[0], b) if named[0] else self.same(a, b.items[0])
        if all(named) and a.label == b.label:
            return self.same(a.items[0], b.items[0])
        left, right = _difference(a), _difference(b)
        if left is not None and right is not None:
            operators = [side.label if side.kind == "relation" else "=" for side in (a, b)]
            return operators[0] == operators[1] and proportional(left, right, operators[0] in ("<", "<="))
        return not any(named) and a.label == b.label and all(map(self.same, a.items, b.items))


# ---------------------------------------------------------------------------------------------------


def _kind(value: Value) -> str:
    return value.kind if isinstance(value, Struct) else ""


def _percentage(value: Value) -> Value:
    inner = value.items[0] if _kind(value) == "quantity" else value
    if isinstance(inner, Number):
        return Number(inner.value / 100, None if inner.decimals is None else inner.decimals + 2)
    return value if isinstance(inner, Struct) else Op("*", (inner, Number(Fraction(1, 100))))


def _value_and_unit(value: Value) -> tuple[Value, str]:
    return (value.items[0], value.label) if _kind(value) == "quantity" else (value, "")


def _shortened(chain: Struct) -> Value:
    """`sqrt(4) = 2` is 2 and `1/3 ~ 0.33` is 1/3, if true; other chains stay what they are."""
    operators, sides = chain.label.split(), chain.items
    if not set(operators) <= {"=", "~"} or any(isinstance(side, Struct) or variables(side) for side in sides):
        return chain
    for operator, left, right in zip(operators, sides, sides[1:], strict=False):
        if not (same_value(left, right) if operator == "=" else _near(left, right)):
            raise Unreadable("a chain that isn't true")
    return sides[operators.index("~") if "~" in operators else -1]


def _near(a: Expression, b: Expression) -> bool:
    """As near as what people write after an "approximately equals" sign: two per cent."""
    left, right = real_value(a), real_value(b)
    return left is not None and right is not None and abs(left - right) <= max(abs(left), abs(right)) / 50


def _ascending(relation: Struct) -> Struct:
    operators = relation.label.split()
    if not set(operators) <= set(_FLIPPED):
        return relation
    flipped = " ".join(_FLIPPED[operator] for operator in reversed(operators))
    return Struct("relation", tuple(reversed(relation.items)), flipped)


def _as_interval(relation: Struct) -> Struct:
    """`1 <= x < 3` as the interval [1, 3), `2 < x` as (2, oo); others stay relations."""
    operators, sides = relation.label.split(), relation.items
    if not set(operators) <= {"<", "<="} or any(isinstance(side, Struct) for side in sides):
        return relation
    bare = [isinstance(side, Symbol) and bool(variables(side)) and side != INFINITY for side in sides]
    if bare == [True, False]:
        operators, sides = ["<", *operators], (negated(INFINITY), *sides)
    elif bare == [False, True]:
        operators, sides = [*operators, "<"], (*sides, INFINITY)
    elif bare != [False, True, False]:
        return relation
    brackets = ("[" if operators[0] == "<=" else "(") + ("]" if operators[1] == "<=" else ")")
    ends = (sides[0], sides[2])
    return Struct("(", ends) if brackets == "()" else Struct("interval", ends, brackets)


def _difference(relation: Struct) -> Expression | None:
    """Left side minus right side, of `x + y = 7`, `y = 7 - x` or `x < y`; None where there is more to it."""
    sides = relation.items if relation.kind == "relation" else relation.items[::-1]
    if len(sides) != 2 or any(isinstance(side, Struct) for side in sides):
        return None
    return Op("+", (sides[0], negated(sides[1])))
