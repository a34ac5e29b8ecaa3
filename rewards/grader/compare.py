"""Are two values the same answer?"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from rewards.grader.numeric import Evaluator
from rewards.grader.relations import interval, is_solved, is_unsolved
from rewards.grader.sets import Sets, is_joined
from rewards.grader.values import (
    MINUS_ONE,
    Expression,
    Number,
    Op,
    Struct,
    Symbol,
    Unreadable,
    Value,
    negated,
    op,
    variables,
)

FLOAT_NOISE = Fraction(1, 10**9)
"""Two decimals this near each other, relatively, are one: 0.1 + 0.2 prints as 0.30000000000000004."""


@dataclass(frozen=True)
class GradingConfig:
    """What counts as the same answer where people disagree. Some of it is a setting; the rest is decided:

    - An equation or inequality that is solved for a letter (x = 5) is no other one (2x = 10); its value alone is it.
      Equations of several letters, a line or a conic, are the same if one is the other times a constant.
    - 3,005 and 1,080 are numbers and never lists; 70,110 is either. `70,110` after `decimal_comma` is 70.11.
    - What stands next to a box belongs to the answer: `-\\boxed{4}` is -4, `\\boxed{4}` million is 4,000,000. Two
      different boxes, a number or doubt after the box, and words that change it ("half of", "at least", "in base
      five") are no answer.
    - A scale word multiplies (lakh, dozen, halves). "5 degrees below zero" is not read. \u00a35 and 5 pounds differ.
    - A sentence states its only number, unless a word in it doubts that or makes another number of it.
    - What is left of the last "=" names what is asked (`f(3) = 42`, `\\gcd(a, b) = 42`); a false chain is nothing,
      and 2x = 10, x - 5 = 0 and x^2 = 25 are neither their right side nor their solution.
    - `\\frac{3}{3}` and `\\frac{6}{3}` are fractions, not reduced. 84/2 is arithmetic left undone (`unevaluated`).
    - "B)", "(b)" and B are one choice; "B) 42" is not read.
    """

    percent: str = "exact"
    """"exact": 42% is 0.42 and not 42. "optional": it is either."""
    units: str = "optional"
    """"optional": 64 square feet is 64, but 5 meters is not 5 feet. "required": 64 square feet is not 64."""
    decimal_comma: bool = False
    """Read 4,2 as 4.2, 0,125 as 0.125, 1.000,50 and 1 000,50 as 1000.5; 1,234 stays 1234.
    Off: 4,2 is the two numbers 4 and 2."""
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
        self.config, self.numbers = config, Evaluator()

    def same(self, a: Value, b: Value) -> bool:
        self.numbers.spend(3)
        if a == b:
            return True
        kinds = {a.kind, b.kind}
        if kinds == {""}:
            return self.same_expression(a, b)
        if kinds & {"named", "relation"}:
            return self.same_relation(a, b)
        if "quantity" in kinds:
            return self.same_quantity(a, b)
        joined = is_joined(a), is_joined(b)
        if all(joined) and a.kind != b.kind:  # `x < 1 or y > 3` is no union, though its parts are intervals
            return self.same_set(a, b)
        return self.same_items(a, b) or (any(joined) and self.same_set(a, b))

    def same_items(self, a: Struct, b: Struct) -> bool:
        """Whether two collections are the same; a bare list may be any of them."""
        kinds = {a.kind, b.kind}
        if len(kinds) > 1 and not ("list" in kinds and kinds < {"list", "(", "{", "union"}):
            return False
        if a.label != b.label or len(a.items) != len(b.items):
            return False
        if not kinds <= {"list", "{", "union"}:
            return all(map(self.same, a.items, b.items)) and bool(a.items)
        rest = list(b.items)
        for item in a.items:
            match = next((i for i, other in enumerate(rest) if self.same(item, other)), None)
            if match is None:
                return False
            del rest[match]
        return True

    def same_set(self, a: Value, b: Value) -> bool:
        """Whether two unions, intersections or differences hold the same numbers: [1, 3] is [1, 2] with [2, 3]."""
        try:
            return Sets(self.bare, self.numbers.real_value).same(a, b)
        except Unreadable:
            return False

    # -- expressions --------------------------------------------------------------------------------

    def same_expression(self, a: Expression, b: Expression) -> bool:
        if isinstance(a, Symbol) and isinstance(b, Symbol):
            return a == b or a.name.lower() == b.name.lower() in "abcde"  # the letter of a choice has no case
        undone = any(isinstance(one, Number) and self.is_undone(other) for one, other in ((a, b), (b, a)))
        if undone and not self.config.unevaluated:
            return False
        return self.numbers.same_value(a, b) or self.stands_for(a, b) or self.stands_for(b, a)

    def stands_for(self, decimal: Expression, other: Expression) -> bool:
        """Whether a decimal is an exact value rounded or cut off to the digits it has; integers are exact."""
        if not isinstance(decimal, Number) or decimal.decimals is None or variables(other):
            return False
        exact = self.numbers.real_value(other)
        if exact is None or exact.denominator == 1 or decimal.value.denominator == 1:
            return False
        error, noise = abs(exact - decimal.value), FLOAT_NOISE * abs(exact)
        if isinstance(other, Number) and other.decimals is not None:
            return error <= noise
        step = Fraction(1, 10**decimal.decimals) + noise
        near = error <= Fraction(self.config.relative_tolerance) * abs(exact)
        return error <= step and (near or (self.config.rounded and error <= step / 2))

    def is_undone(self, value: Expression) -> bool:
        """Whether arithmetic on numbers is left to do: 6 * 7, 40 + 2, 5!. A root or power of a number is none."""
        if not isinstance(value, Op):
            return False
        if value.name not in ("+", "*", "^", "abs"):
            return True
        if value.name == "+" or (value.name == "*" and not _is_scientific(value)):
            constants = [arg for arg in value.args if not variables(arg) and arg != MINUS_ONE]
            if len(constants) > 1 and sum(isinstance(self.numbers.value(arg), Fraction) for arg in constants) > 1:
                return True
        return any(map(self.is_undone, value.args))

    # -- quantities and relations -------------------------------------------------------------------

    def same_quantity(self, a: Value, b: Value) -> bool:
        (a, unit), (b, other_unit) = _value_and_unit(a), _value_and_unit(b)
        if unit == other_unit:
            return self.same(a, b)
        if "" not in (unit, other_unit):
            return False
        if "%" in (unit, other_unit):
            parts = (_percentage(side) if own else side for side, own in ((a, unit), (b, other_unit)))
            return self.same(*parts) or (self.config.percent == "optional" and self.same(a, b))
        return self.config.units == "optional" and self.same(a, b)

    def same_relation(self, a: Value, b: Value) -> bool:
        """`x = 5` is 5, but not `y = 5`; an equation is another times a constant."""
        if a.kind == b.kind and a.label == b.label and all(map(self.same, a.items, b.items)):
            return True
        if "" in (a.kind, b.kind) or not {a.kind, b.kind} <= {"named", "relation"}:  # one side is a bare value
            named, value = (b, a) if b.kind in ("named", "relation") else (a, b)
            bare = self.stated(named)
            return bare.kind != "relation" and self.same(bare, value)
        left, right = _difference(a), _difference(b)
        if is_solved(a) != is_solved(b):
            left = None  # 2x = 10 is not the answer x = 5
        operator, other = (side.label if side.kind == "relation" else "=" for side in (a, b))
        if left and right and operator == other:
            return self.numbers.proportional(left, right, positive=operator in ("<", "<="))
        if a.kind == b.kind and (a.kind == "named" or a.label == b.label):
            return False
        bare = self.bare(a), self.bare(b)
        return all(side.kind != "relation" for side in bare) and self.same(*bare)

    def stated(self, value: Value) -> Value:
        """What a relation says: 42 for `m + n = 42`, `|z| = 40 + 2 = 42` and `20 + 22 = 42 apples`; else as `bare`."""
        if value.kind == "named":
            return self.stated(value.items[1])
        sides = value.items if value.kind == "relation" and {*value.label.split()} == {"="} else ()
        if sides and is_unsolved(sides[0]):
            return value
        if len(sides) == 2 and is_solved(value) and variables(sides[1]):
            return sides[0]  # 42 = x
        numbers = [_plain(side) for side in sides if not variables(side) and side.kind in ("", "quantity")]
        if len(sides) < 2 or not numbers or sides[-1].kind not in ("", "quantity") or variables(sides[-1]):
            return self.bare(value)
        if len(numbers) < len(sides) - 1 or any(side.kind not in ("", "quantity") for side in sides[1:]):
            return self.bare(value)
        if not all(self.numbers.same_value(numbers[0], other) for other in numbers[1:]):
            return value
        return sides[0] if isinstance(sides[0], Number) and not isinstance(_plain(sides[-1]), Number) else sides[-1]

    def bare(self, value: Value) -> Value:
        """What stands alone for it: 5 for `x = 5`, [1, 3) for `1 <= x < 3`, 2 for `sqrt(4) = 2`; else itself."""
        if value.kind == "named":
            return self.bare(value.items[1])
        if value.kind != "relation":
            return value
        operators, sides = value.label.split(), value.items
        if {*operators} <= {"<", "<="} or operators == ["!="]:
            return interval(value)
        if not {*operators} <= {"=", "\u2248"} or any(side.kind or variables(side) for side in sides):
            return value
        pairs = zip(operators, sides, sides[1:], strict=False)
        true = all(self.numbers.same_value(a, b) if sign == "=" else self.near(a, b) for sign, a, b in pairs)
        return sides[operators.index("\u2248") if "\u2248" in operators else -1] if true else value

    def near(self, a: Expression, b: Expression) -> bool:
        """As near as what people write after an "approximately equals" sign: two per cent."""
        left, right = self.numbers.real_value(a), self.numbers.real_value(b)
        return left is not None and right is not None and abs(left - right) <= max(abs(left), abs(right)) / 50


# ---------------------------------------------------------------------------------------------------


def _is_scientific(product: Op) -> bool:
    """4.2 * 10^1 is a way to write a number."""
    last = product.args[-1]
    return len(product.args) == 2 and isinstance(last, Op) and last.name == "^" and last.args[0] == Number(Fraction(10))


def _value_and_unit(value: Value) -> tuple[Value, str]:
    return (value.items[0], value.label) if value.kind == "quantity" else (value, "")


def _plain(side: Value) -> Value:
    """A side of a chain of equations without its unit; a percentage as its part of one."""
    value, unit = _value_and_unit(side)
    return _percentage(value) if unit == "%" else value


def _percentage(value: Value) -> Value:
    if isinstance(value, Number):
        return Number(value.value / 100, None if value.decimals is None else value.decimals + 2)
    return op("*", value, Number(Fraction(1, 100)))


def _difference(relation: Value) -> Expression | None:
    """Left side minus right side, of `x + y = 7`, `y = 7 - x` or `x < y`; None where there is more to it."""
    if relation.kind not in ("named", "relation") or len(relation.items) != 2 or any(s.kind for s in relation.items):
        return None
    return op("+", relation.items[0], negated(relation.items[1]))
