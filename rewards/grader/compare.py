"""Are two values the same answer?"""

from __future__ import annotations

import re
from fractions import Fraction

from rewards.grader.numeric import Evaluator
from rewards.grader.operations import negated, op, replaced, variables, whole_letters
from rewards.grader.relations import interval, is_definition, is_solved, is_unsolved
from rewards.grader.sets import Sets, is_joined
from rewards.grader.settings import GradingConfig
from rewards.grader.values import MINUS_ONE, UNIT_VECTOR, Expression, Number, Op, Struct, Symbol, Unreadable, Value

FLOAT_NOISE, FLOAT_DIGITS = Fraction(1, 10**14), 16
"""A decimal of so many digits is another if it is this near, relatively: 0.1 + 0.2 prints as 0.30000000000000004."""
NAMES = {"": "number or expression", "(": "tuple or interval", "{": "set", "words": "text"}


class Comparison:
    """One comparison, with its settings and its share of work."""

    def __init__(self, config: GradingConfig):
        self.config, self.numbers = config, Evaluator()
        self.families = False
        """Whether a side says what a letter may be: then its name does not matter."""
        self.rule = ""
        """What decided the last comparison, for `explain`."""

    def same(self, a: Value, b: Value) -> bool:
        """Whether `b` gives the gold `a`."""
        self.numbers.spend(3)
        if a == b:
            return self.decided("both are read alike", True)
        a, b = self.as_vector(a, b), self.as_vector(b, a)
        kinds = {a.kind, b.kind}
        if kinds == {""}:
            return self.same_expression(a, b)
        if kinds & {"named", "relation"}:
            return self.same_relation(a, b)
        if "quantity" in kinds:
            return self.same_quantity(a, b)
        if "arithmetic" in kinds:
            return self.decided("matrices, calculated by sympy at a few points", self.numbers.same_value(a, b))
        if "words" in kinds and len(kinds) > 1:
            same = same_letters(a, b) or same_letters(b, a)
            return self.decided("words that state no value", same)
        joined = is_joined(a), is_joined(b)
        if all(joined) and a.kind != b.kind:  # `x < 1 or y > 3` is no union, though its parts are intervals
            return self.same_set(a, b)
        return self.same_items(a, b) or (any(joined) and self.same_set(a, b))

    def decided(self, rule: str, result: bool) -> bool:
        self.rule = rule
        return result

    def same_items(self, a: Struct, b: Struct) -> bool:
        """Whether two collections are the same; a bare list may be any of them."""
        kinds = {a.kind, b.kind}
        if len(kinds) > 1 and not ("list" in kinds and kinds < {"list", "(", "{", "union"}):
            return self.decided(f"a {NAMES.get(a.kind, a.kind)} is no {NAMES.get(b.kind, b.kind)}", False)
        if a.label != b.label or len(a.items) != len(b.items):
            return self.decided("other brackets or words, or not as many members", False)
        if not kinds <= {"list", "{", "union"}:
            return all(map(self.same, a.items, b.items)) and bool(a.items)
        named = [item.label for item in a.items if item.kind == "named"]
        if len({*named}) == len(a.items) > 1 and not any(item.kind in ("named", "relation") for item in b.items):
            return all(map(self.same, a.items, b.items))  # x = 3, y = 4 is not 4, 3
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
            return self.decided("sets of numbers, by sympy", Sets(self.bare, self.numbers.real_value).same(a, b))
        except Unreadable:
            return False

    # -- expressions --------------------------------------------------------------------------------

    def same_expression(self, a: Expression, b: Expression) -> bool:
        if isinstance(a, Symbol) and isinstance(b, Symbol):
            return a == b or a.name.lower() == b.name.lower() in "abcde"  # the letter of a choice has no case
        letters, others = variables(a), variables(b)
        if self.families and len(letters - others) == len(others - letters) == 1:  # 2k pi and 2n pi
            b = replaced(b, {next(iter(others - letters)): Symbol(next(iter(letters - others)))})
        constants = [(name, base + name[1:]) for name in others - letters if name[0] in "cCK" for base in "cCK"]
        b = replaced(b, {old: Symbol(new) for old, new in constants if new in letters - others})  # of integration
        if self.leaves_undone(a, b):
            return self.decided("the answer leaves arithmetic undone", False)
        if self.stands_for(a, b) or self.stands_for(b, a):
            return self.decided("a decimal, rounded or cut off correctly", True)
        if isinstance(a, Number) and variables(b) and not self.config.unevaluated and self.same_value(a, b):
            return self.decided("the answer leaves it undone that its letters cancel", False)
        return self.same_value(a, b)

    def same_value(self, a: Expression, b: Expression) -> bool:
        where = "at a few random points" if variables(a) | variables(b) else "exactly or to 300 digits"
        where = "at small integers" if whole_letters(a) | whole_letters(b) else where
        return self.decided(f"by value, {where}", self.numbers.same_value(a, b))

    def stands_for(self, decimal: Expression, other: Expression) -> bool:
        """Whether a decimal is an exact value, correctly rounded or cut off to its digits; integers are exact."""
        if not isinstance(decimal, Number) or decimal.decimals is None or variables(other):
            return False
        exact = self.numbers.real_value(other)
        if exact is None or exact.denominator == 1 or decimal.value.denominator == 1:
            return False
        error, size = abs(exact - decimal.value), abs(exact)
        if isinstance(other, Number) and other.decimals is not None:
            printed = sum(number.digits >= FLOAT_DIGITS for number in (decimal, other)) == 1
            return printed and error <= FLOAT_NOISE * size
        step = Fraction(10) ** -decimal.decimals
        rounded, cut = error <= step / 2, error < step and abs(decimal.value) <= size
        noise = decimal.digits >= FLOAT_DIGITS and error <= FLOAT_NOISE * size  # cos(1.0) prints as 0.5403023058681398
        near = error <= Fraction(self.config.relative_tolerance) * size
        return noise or (near and (rounded or cut)) or (self.config.rounded and rounded)

    def leaves_undone(self, a: Value, b: Value) -> bool:
        """Whether the gold is a number, or a constant as sqrt(13), and the answer arithmetic that gives it."""
        if self.config.unevaluated or a.kind or b.kind or variables(a):
            return False
        if not isinstance(a, Number):
            return self.is_undone(b, sums_alone=True) and not self.is_undone(a, sums_alone=True)
        exact = a.decimals is None and isinstance(b, Op) and b.name in ("+", "*") and not _is_scientific(b)
        return self.is_undone(b) or (exact and sum(arg != MINUS_ONE for arg in b.args if not variables(arg)) > 1)

    def is_undone(self, value: Expression, sums_alone: bool = False) -> bool:
        """Whether arithmetic is left to do: 6 * 7, 40 + 2, 5!. Not a root or power. sums_alone: 40 + 2, |3 + 4i|."""
        if not isinstance(value, Op):
            return False
        if value.name not in ("+", "*", "^", "abs") and not sums_alone:
            return True
        if value.name == "abs" and not variables(value) and not isinstance(value.args[0], Number):
            return True  # |3 + 4i|
        if value.name == "+" or (value.name == "*" and not sums_alone and not _is_scientific(value)):
            sign = () if value.name == "+" else (MINUS_ONE,)
            constants = [arg for arg in value.args if not variables(arg) and arg not in sign]
            numbers = [arg for arg in constants if isinstance(self.numbers.value(arg), Fraction)]
            if len(numbers) > 1:
                return True
        return any(self.is_undone(arg, sums_alone) for arg in value.args)

    def as_vector(self, value: Value, other: Value) -> Value:
        """`2i + j` in unit vectors as (2, 1), where the other side is a vector; else the value itself."""
        used = {name for name in variables(value) if name.startswith(UNIT_VECTOR)}
        axes = [UNIT_VECTOR + axis for axis in "ijk"[: len(other.items)]] if used and other.kind == "(" else []
        if not axes or len(other.items) > 3 or not used <= {*axes}:
            return value
        found = [replaced(value, {axis: Number(Fraction(axis == own)) for axis in axes}) for own in axes]
        numbers = [None if variables(part) else self.numbers.value(part) for part in found]
        pairs = zip(found, numbers, strict=True)
        return Struct("(", tuple(Number(n) if isinstance(n, Fraction) else part for part, n in pairs))

    # -- quantities and relations -------------------------------------------------------------------

    def same_quantity(self, a: Value, b: Value) -> bool:
        (a, unit), (b, other_unit) = _value_and_unit(a), _value_and_unit(b)
        if unit == other_unit:
            return self.same(a, b)
        if "" not in (unit, other_unit):
            return self.decided(f"{unit} is not {other_unit}", False)
        if "%" in (unit, other_unit):
            parts = (_percentage(side) if own else side for side, own in ((a, unit), (b, other_unit)))
            return self.same(*parts) or (self.config.percent == "optional" and self.same(a, b))
        return self.config.units == "optional" and self.same(a, b)

    def same_relation(self, a: Value, b: Value) -> bool:
        """`x = 5` is 5, but not `y = 5`; an equation is another times a constant."""
        if a.kind == b.kind and a.label == b.label and all(map(self.same, a.items, b.items)):
            return True
        if a.kind == b.kind == "named" and re.fullmatch(rf"{re.escape(a.label)}_[0-9]", b.label):
            return self.same(a.items[1], b.items[1])  # x_1 = 2 is x = 2
        if a.kind == b.kind and "\u2afd" in a.label + b.label:
            return self.same_residue(a, b)
        if b.kind not in ("named", "relation"):  # a gold is no answer: x^2 + y^2 = 25 is not 25
            if not is_definition(a):
                return self.decided("the gold is an equation, and no side of it is the answer", False)
            bare = self.stated(a)
            return bare.kind not in ("named", "relation") and self.same(bare, b)
        if a.kind not in ("named", "relation"):
            bare = self.stated(b)
            if bare.kind == "relation":
                return self.decided("the answer is an equation or a condition that names no value", False)
            return self.same(a, bare)
        left, right = _difference(a), _difference(b)
        if is_solved(a) != is_solved(b):
            left = None  # 2x = 10 is not the answer x = 5
        if is_definition(a) and self.leaves_undone(value_side(a), value_side(b)):
            return self.decided("the answer leaves arithmetic undone", False)  # x = 6 * 7, x > 6 * 7
        operator, other = (side.label if side.kind == "relation" else "=" for side in (a, b))
        if left and right and operator == other:
            same = self.numbers.proportional(left, right, positive=operator in ("<", "<="))
            return self.decided("is one equation the other times a constant", same)
        if a.kind == b.kind and (a.kind == "named" or a.label == b.label):
            return False
        bare = self.bare(a), self.bare(b)
        return all(side.kind != "relation" for side in bare) and self.same(*bare)

    def same_residue(self, a: Struct, b: Struct) -> bool:
        """Whether x = r (mod m) and x = s (mod m) are one: m divides r - s. Either may leave x out."""
        (*names, first, modulus), (*others, second, other) = a.items, b.items
        if not self.same(modulus, other) or (names and others and not self.same(names[0], others[0])):
            return False
        if all(isinstance(n, Number) and n.value.denominator == 1 for n in (first, second, modulus)) and modulus.value:
            return (first.value - second.value) % modulus.value == 0
        return self.same(first, second)

    def stated(self, value: Value) -> Value:
        """What a relation says: 42 for `m + n = 42`, `|z| = 40 + 2 = 42` and `20 + 22 = 42 apples`; else as `bare`."""
        if value.kind == "named":
            return self.stated(value.items[1])
        sides = value.items if value.kind == "relation" and {*value.label.split()} == {"="} else ()
        if sides and is_unsolved(sides[0]):
            return value
        if value.label == "\u2261 \u2afd" and not variables(value.items[0]):
            return value.items[1]  # 2^100 = 2 (mod 7), as an answer, says 2
        if len(sides) == 2 and is_solved(value) and variables(sides[1]):
            return sides[0]  # 42 = x
        numbers = [_plain(side) for side in sides if not variables(side) and side.kind in ("", "quantity")]
        if len(sides) < 2 or not numbers or sides[-1].kind not in ("", "quantity") or variables(sides[-1]):
            return self.bare(value)
        if len(numbers) < len(sides) - 1 or any(side.kind not in ("", "quantity") for side in sides[1:]):
            return self.bare(value)
        if not all(self.same_value(numbers[0], other) for other in numbers[1:]):
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
        true = all(self.same_value(a, b) if sign == "=" else self.near(a, b) for sign, a, b in pairs)
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


def same_letters(words: Value, other: Value) -> bool:
    """ACD, several choices in one word, is A, C and D; no solution is the empty set."""
    if words.label == "no solution":
        return other.kind == "{" and not other.items
    if words.kind != "words" or other.kind not in ("list", "(", "{") or not re.fullmatch("[a-j]{2,}", words.label):
        return False
    letters = sorted(item.name.lower() for item in other.items if isinstance(item, Symbol))
    return letters == list(words.label) and len(letters) == len(other.items) == len(set(letters))


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


def value_side(relation: Value) -> Value:
    """The side of `x = 5` or `3 < x` without letters; of others the relation itself."""
    values = [side for side in relation.items if not variables(side)]
    return values[0] if len(values) == 1 and len(relation.items) == 2 else relation


def _difference(relation: Value) -> Expression | None:
    """Left side minus right side, of `x + y = 7`, `y = 7 - x` or `x < y`; None where there is more to it."""
    if relation.kind not in ("named", "relation") or len(relation.items) != 2 or any(s.kind for s in relation.items):
        return None
    return op("+", relation.items[0], negated(relation.items[1]))
