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
