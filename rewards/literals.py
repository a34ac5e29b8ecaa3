"""How literals become values: a quotient of two numerals is a number, and so is minus a number."""

from __future__ import annotations

from fractions import Fraction

from rewards.values import Expression, Number, Op, Struct, Unreadable, Value

MAX_DIGITS = 3000
"""Digits of one numeral, written out."""
MINUS_ONE = Number(Fraction(-1))


def expression(value: Value) -> Expression:
    """The value itself, if it can stand in an expression."""
    if isinstance(value, Struct):
        raise Unreadable(f"a {value.kind} where a number or expression should be")
    return value


def negated(value: Expression) -> Expression:
    """Minus the value; minus a number is a number."""
    if isinstance(value, Number):
        return Number(-value.value, value.decimals, value.undivided)
    return Op("*", (MINUS_ONE, value))


def combined(operation: str, parts: list[Value]) -> Value:
    """The sum or product of several values; a single one stays what it is."""
    return Op(operation, tuple(map(expression, parts))) if len(parts) > 1 else parts[0]


def divided(top: Value, bottom: Value) -> list[Value]:
    """The factors of a quotient: a single number, if both are numbers."""
    if not (isinstance(top, Number) and isinstance(bottom, Number)):
        return [expression(top), Op("^", (expression(bottom), MINUS_ONE))]
    if bottom.value == 0:
        raise Unreadable("division by zero")
    value = top.value / bottom.value
    return [Number(value, undivided=value != 0 and value.denominator == 1 and abs(bottom.value) != 1)]


def number(text: str) -> Number:
    """The value of a numeral."""
    mantissa, _, power = text.lower().partition("e")
    whole, point, decimals = mantissa.partition(".")
    shift = int(power or 0) if len(power) <= 5 else MAX_DIGITS
    if len(mantissa) + abs(shift) > MAX_DIGITS:
        raise Unreadable("too many digits")
    value = Fraction(int(whole + decimals)) * Fraction(10) ** (shift - len(decimals))
    return Number(value, len(decimals) if point else None)


def numeral_in_base(digits: str, base: str) -> Struct:
    """`52_8`: equal to the same numeral in the same base, not to its value."""
    if not (base.isdigit() and digits.isdigit() and len(base) <= 2):
        raise Unreadable("no numeral of that base")
    return Struct("base", (), f"{digits.lstrip('0') or '0'}_{base}")
