"""Exact arithmetic on text: + - * / and parentheses over decimals, as fractions, one step at a time.

compute("(4 - 2) * 3")  ->  (Fraction(6), ["4 - 2 = 2", "2 * 3 = 6"])
"""

from __future__ import annotations

import operator
import re
from fractions import Fraction

_TOKEN = re.compile(r"\s*(?:([0-9]+(?:\.[0-9]*)?|\.[0-9]+)|([-+*/()]))")
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_BINDS = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2, "negative": 3}


def compute(expression: str) -> tuple[Fraction, list[str]]:
    """Evaluate an expression, and say each binary operation in the order it is carried out.

    Dijkstra's shunting yard: two stacks and one pass, no recursion and no `eval`.

    Raises:
        ValueError: not an expression, or a division by zero.
    """
    values: list[Fraction] = []
    pending: list[str] = []  # operators and open brackets
    steps: list[str] = []

    def carry_out(down_to: int) -> None:
        while pending and _BINDS[pending[-1]] >= down_to:
            name = pending.pop()
            right = values.pop()
            if name == "negative":
                values.append(-right)
                continue
            left = values.pop()
            if name == "/" and right == 0:
                raise ValueError("division by zero")
            values.append(_OPERATORS[name](left, right))
            steps.append(f"{spell(left)} {name} {spell(right)} = {spell(values[-1])}")

    wants_number = True
    for number, sign in _tokens(expression):
        if wants_number != (bool(number) or sign == "(" or (sign == "-" and wants_number)):
            raise ValueError(f"{number or sign!r} is out of place")
        if number:
            values.append(Fraction(number))
        elif sign == ")":
            carry_out(down_to=1)
            if not pending:
                raise ValueError("unbalanced parentheses")
            pending.pop()
        elif wants_number:
            pending.append("negative" if sign == "-" else "(")
        else:
            carry_out(down_to=_BINDS[sign])
            pending.append(sign)
        wants_number = not (number or sign == ")")
    if wants_number:
        raise ValueError("the expression breaks off")
    carry_out(down_to=1)
    if pending:
        raise ValueError("unbalanced parentheses")
    return values[0], steps


def spell(value: Fraction) -> str:
    """An exact number as text: a decimal if it ends ("0.2", "24"), else a fraction in brackets ("(1/3)")."""
    sign, digits, places = "-" if value < 0 else "", abs(value), 0
    rest = value.denominator
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest //= prime
            power += 1
        places = max(places, power)
    if rest > 1:
        return f"({value})"
    text = str(int(digits * 10**places)).rjust(places + 1, "0")
    return sign + (f"{text[:-places]}.{text[-places:]}" if places else text)


def _tokens(expression: str) -> list[tuple[str, str]]:
    tokens, end = [], 0
    expression = expression.rstrip()
    while end < len(expression):
        match = _TOKEN.match(expression, end)
        if not match:
            raise ValueError(f"{expression[end:][:20]!r} is no arithmetic")
        tokens.append((match[1] or "", match[2] or ""))
        end = match.end()
    return tokens
