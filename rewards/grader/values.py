"""What an answer can be: frozen dataclasses, hashable and picklable, and how they are put together."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


class Unreadable(Exception):
    """The text is no answer that the grammar knows, or one beyond the limits."""


@dataclass(frozen=True)
class Number:
    """A literal: a numeral, a fraction of two, a mixed number; signed."""

    kind = ""
    value: Fraction
    decimals: int | None = None
    """Digits after the point where it was written as a decimal: how far it may stand for another value."""


@dataclass(frozen=True)
class Symbol:
    """A variable, or one of the constants of `rewards.grader.numeric`."""

    kind = ""
    name: str


@dataclass(frozen=True)
class Op:
    """An operation on expressions: `+`, `*`, `^`, `!`, or a function's name."""

    kind = ""
    name: str
    args: tuple[Expression, ...]


@dataclass(frozen=True)
class Struct:
    """Anything that isn't an expression.

    | kind             | items                    | label                                        |
    |------------------|--------------------------|----------------------------------------------|
    | `(`              | of a tuple or interval   | brackets, of an interval with a closed end   |
    | `{` `list`       | in any order             | "and" for conditions that hold together      |
    | `union`          | intervals and sets       |                                              |
    | `intersection`   | the same                 |                                              |
    | `difference`     | two of them              |                                              |
    | `relation`       | the sides                | the operators: "< <="                        |
    | `named`          | the left side, the value | the left side's text: "f(x)"                 |
    | `quantity`       | the value                | the unit                                     |
    | `matrix`, `row`  | the rows, the entries    |                                              |
    | `ratio`          | the parts, as in 3:1     |                                              |
    | `base`, `words`  |                          | the text: "52_8", "no solution"              |
    """

    kind: str
    items: tuple[Value, ...] = ()
    label: str = ""


Expression = Number | Symbol | Op
Value = Expression | Struct
MINUS_ONE = Number(Fraction(-1))
INFINITY = Symbol("infty")
CONSTANTS = frozenset(["pi", "e", "i"])


def expression(value: Value) -> Expression:
    """The value itself, if it can stand in an expression.

    Raises:
        Unreadable: if it can't.
    """
    if isinstance(value, Struct):
        raise Unreadable(f"a {value.kind} where a number or expression should be")
    return value


def op(name: str, *args: Value) -> Op:
    """The operation on these values, all of them expressions."""
    return Op(name, tuple(map(expression, args)))


def negated(value: Value) -> Expression:
    """Minus the value; minus a number is a number."""
    if isinstance(value, Number):
        return Number(-value.value, value.decimals)
    return op("*", MINUS_ONE, value)


def divided(top: Value, bottom: Value) -> Expression:
    """A quotient; of two numbers it is a number, unless it comes out whole: 84/2 is arithmetic left undone."""
    if isinstance(top, Number) and isinstance(bottom, Number):
        if bottom.value == 0:
            raise Unreadable("division by zero")
        value = top.value / bottom.value
        if value == 0 or value.denominator > 1 or abs(bottom.value) == 1:
            return Number(value)
    return op("*", top, op("^", bottom, MINUS_ONE))


def variables(value: Value) -> frozenset[str]:
    """The names of the variables in an expression; none in anything else."""
    if isinstance(value, Symbol):
        return frozenset([value.name]) - CONSTANTS
    return frozenset().union(*map(variables, value.args)) if isinstance(value, Op) else frozenset()
