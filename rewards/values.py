"""What an answer can be: frozen dataclasses, hashable and picklable, without behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


class Unreadable(Exception):
    """The text is no answer that the grammar knows, or one beyond the limits."""


@dataclass(frozen=True)
class Number:
    """A literal: a numeral, a fraction of two, a mixed number, scientific notation; signed."""

    value: Fraction
    decimals: int | None = None
    """Digits after the point where it was written as a decimal: how far it may stand for another value."""
    undivided: bool = False
    """Written as a division that comes out whole (84/2): arithmetic left undone, not an integer."""


@dataclass(frozen=True)
class Symbol:
    """A variable, or one of the constants of `rewards.numeric`."""

    name: str


@dataclass(frozen=True)
class Op:
    """An operation on expressions: `+`, `*`, `^`, `+-`, or a function's name."""

    name: str
    args: tuple[Expression, ...]


@dataclass(frozen=True)
class Struct:
    """Anything that isn't an expression.

    | kind               | items                     | label                            |
    |--------------------|---------------------------|----------------------------------|
    | `(` `[` `{` `list` | the items                 | "and" for a list joined by "and" |
    | `union`            | intervals and sets        |                                  |
    | `interval`         | low, high                 | its brackets: "[)"               |
    | `relation`         | the sides                 | the operators: "< <="            |
    | `named`            | the value, the left side  | the left side's text: "f(x)"     |
    | `quantity`         | the value                 | the unit                         |
    | `matrix`, `row`    | the rows, the entries     |                                  |
    | `ratio`            | the parts, as in 3:1      |                                  |
    | `base`, `words`    |                           | the text: "52_8", "no solution"  |
    """

    kind: str
    items: tuple[Value, ...] = ()
    label: str = ""


Expression = Number | Symbol | Op
Value = Expression | Struct
