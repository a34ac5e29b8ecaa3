"""What an answer can be: frozen dataclasses, hashable and picklable, and how they are put together."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


class Unreadable(Exception):
    """The text is no answer that the grammar knows, or one beyond the limits."""


@dataclass(frozen=True)
class Number:
    """A literal: a numeral, a fraction of two, a mixed number; signed."""

    kind = label = ""
    value: Fraction
    decimals: int | None = None
    """Digits after the point where it was written as a decimal: how far it may stand for another value."""
    digits: int = 0
    """How many digits a decimal has, without zeros in front."""


@dataclass(frozen=True)
class Symbol:
    """A variable, or one of the constants of `rewards.grader.numeric`."""

    kind = label = ""
    name: str


@dataclass(frozen=True)
class Op:
    """An operation on expressions: `+`, `*`, `^`, `!`, a function's name, or "f()" for the value of an unknown one."""

    kind = label = ""
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
    | `arithmetic`     | matrices and numbers     | `+`, `*` or `^`, left undone                 |
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
UNIT_VECTOR = "unitvector"
CONSTANTS = frozenset(["pi", "e", "i"])


def expression(value: Value) -> Expression:
    """The value itself, if it can stand in an expression.

    Raises:
        Unreadable: if it can't.
    """
    if isinstance(value, Struct):
        raise Unreadable(f"a {value.kind} where a number or expression should be")
    return value


def op(name: str, *args: Value) -> Expression | Struct:
    """The operation on these values: expressions, or with matrices and vectors among them."""
    if name in ("+", "*", "^") and any(map(is_matrix, args)):
        return Struct("arithmetic", tuple(arg if is_matrix(arg) else expression(arg) for arg in args), name)
    return Op(name, tuple(map(expression, args)))


def is_matrix(value: Value) -> bool:
    """Whether it can be reckoned with as a matrix or a vector."""
    vector = value.kind == "(" and not value.label and not any(item.kind for item in value.items)
    return value.kind in ("matrix", "arithmetic") or vector


def negated(value: Value) -> Expression | Struct:
    """Minus the value; minus a number is a number."""
    if isinstance(value, Number):
        return Number(-value.value, value.decimals, value.digits)
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


def replaced(value: Expression, by: dict[str, Expression]) -> Expression:
    """An expression with other values for some of its symbols."""
    if isinstance(value, Op):
        return Op(value.name, tuple(replaced(arg, by) for arg in value.args))
    return by.get(value.name, value) if isinstance(value, Symbol) else value


def variables(value: Value) -> frozenset[str]:
    """The names of the variables and of unknown functions in an expression; none in anything else."""
    if isinstance(value, Symbol):
        return frozenset([value.name]) - CONSTANTS
    if isinstance(value, Op) and value.name in ("sum", "prod"):
        body, index, low, high = value.args
        return (variables(body) - variables(index)) | variables(low) | variables(high)
    if not isinstance(value, Op):
        return frozenset()
    return frozenset({value.name} if value.name.endswith("()") else ()).union(*map(variables, value.args))
