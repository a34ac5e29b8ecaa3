"""Equations and inequalities: what names what is asked, what is solved, and what a condition leaves: `1 <= x < 3`."""

from __future__ import annotations

import re
from fractions import Fraction

from rewards.grader.lexer import Token
from rewards.grader.operations import negated, variables
from rewards.grader.units import CHANGING
from rewards.grader.values import INFINITY, MINUS_ONE, Number, Op, Struct, Symbol, Unreadable, Value


def name_of(tokens: list[Token], side: Value) -> str:
    """The name that a left side is: `x`, `f(x)`, `(x, y)`, `Total`; "" if it is more than a name."""
    if side.kind == "words":
        return side.label if len(tokens) <= 3 else ""
    text = "".join(token.text for token in tokens)
    called = re.fullmatch(
        r"([a-zA-Z]|(?:var)?phi|sigma|tau|mu|omega|pi)(?:_prime)?(?:\^\{?-?1\}?)?\(([-+a-zA-Z0-9.,()]+)\)"  # f^{-1}(3)
        r"|\([a-zA-Z]+(?:,[a-zA-Z]+)*\)"  # (x, y)
        r"|(?:frac\{)?d\^?[0-9]?[a-zA-Z]\}?[/{]*d[a-zA-Z]\^?[0-9]?\}?"  # dy/dx
        r"|frac\{d\}\{d[a-zA-Z]\}[^-+]*",
        text,
    )
    return text if isinstance(side, Symbol) or (called and called[1] not in (called[2] or [])) else ""


def asked(tokens: list[Token]) -> int:
    """How many tokens stand before an "=" and name what is asked, though no rule reads them: `P(A|B)`, `\\gcd(a, b)`.

    0 where they may be an equation to solve, `2 \\lfloor x \\rfloor`, or are in doubt.
    """
    depth, numbers, letters, at = 0, False, False, 0
    steps = {"open": 1, "close": -1, "lfloor": 1, "lceil": 1, "rfloor": -1, "rceil": -1}
    while tokens[at].kind != "rel" or depth:
        kind, text, _ = tokens[at]
        depth += steps.get(kind, 0) or steps.get(text, 0)
        power = tokens[at - 1].text == "^" and tokens[at - 2].kind != "word"  # AB^2 is no AB
        numbers |= kind == "num" and not depth and tokens[at - 1].text != "_" and not power
        letters |= kind in ("name", "word") or text in ("lfloor", "lceil")
        if kind == "end" or (not depth and kind == "sep") or (kind == "word" and text.lower() in CHANGING):
            return 0
        at += 1
    whole = tokens[0].text in ("int", "lim")
    doubt = any(t.text in "+-" for t in tokens[:at]) if whole else letters
    return at if tokens[at].text == "=" and not (numbers and doubt) else 0


def is_definition(gold: Value) -> bool:
    """Whether a gold only names its value: `x = 5`, `f(x) = 2x`, 3 < x. An equation of a curve, an ODE do not."""
    if gold.kind == "named":
        left, right = gold.items
        if left.kind == "words" and not re.fullmatch(r"[\w ]*", left.label):  # no rule reads it: \gcd(a, b), \ddot{x}
            outside = re.sub(r"\([^()]*\)|\{[^{}]*\}", "", left.label)
            if re.search(r"dot|'", outside):  # x'' = 0 and y' = y are equations to solve, y' = 2x is none
                letters = set(re.sub("d*dot", "", left.label)) & variables(right)
                return not letters and right != Number(Fraction(0))
            return not re.search(r"[-+]|nabla|partial", outside) and is_definition(right)
        if left.kind == "words" and len(left.label) < 4 and variables(right):
            return False  # PV = nRT
        of = re.match(r"(?:frac\{)?d\^?[0-9]?([a-zA-Z])\W", gold.label)
        names = {of[1]} if of and isinstance(left, Op) else {gold.label}
        return names.isdisjoint(variables(right)) and is_definition(right)
    equation = gold.kind == "relation" and "=" in gold.label.split() and any(map(variables, gold.items))
    return not equation or is_solved(gold)


def relation(name: str, sides: list[Value], operators: list[str]) -> Value:
    """Sides with the signs between them, in ascending order; a side alone is itself."""
    if not operators:
        return sides[0]
    if any(side.kind == "words" and not CHANGING.isdisjoint(side.label.split()) for side in sides):
        raise Unreadable("a name in doubt: half of AB, not AB")
    if "\u2afd" in operators:  # a remainder: x = 3 (mod 7)
        return Struct("relation", tuple(sides), " ".join(operators).replace("=", "\u2261"))
    if name and operators[0] in ("=", "\u2208"):
        return Struct("named", (sides[0], relation("", sides[1:], operators[1:])), name)
    if {*operators} <= {">", ">="}:
        sides, operators = sides[::-1], [operator.replace(">", "<") for operator in reversed(operators)]
    return Struct("relation", tuple(sides), " ".join(operators))


def is_solved(value: Value) -> bool:
    """Whether it is a letter and its value or bound, `x = 5`, `5 = x`, `x >= 3`; a line or a conic is not."""
    if len(value.items) != 2:
        return False
    x, other = value.items if isinstance(value.items[0], Symbol) and variables(value.items[0]) else value.items[::-1]
    return isinstance(x, Symbol) and bool(variables(x)) and not variables(other)


def is_unsolved(left: Value) -> bool:
    """Whether a left side is arithmetic on a letter, 2x, x - 5, x^2, n!, and not what is asked: m + n, |z|, sin A."""

    def parts(value: Value) -> list[Value]:
        if not isinstance(value, Op) or value.name not in ("+", "*", "^", "!"):
            return [value]
        args = value.args[:1] if value.name == "^" else value.args
        return [part for arg in args if value.name != "*" or arg != MINUS_ONE for part in parts(arg)]

    found, names = parts(left), variables(left)
    number = any(isinstance(part, Number) for part in found)
    return (
        bool(names)
        and found != [left]
        and (number or (len(names) == 1 and any(isinstance(part, Symbol) for part in found)))
    )


def interval(relation: Struct) -> Value:
    """A condition on a variable as an interval; others as they are."""
    operators, sides = relation.label.split(), relation.items
    if operators == ["!="]:
        x, value = sides if variables(sides[0]) else sides[::-1]
        if not isinstance(x, Symbol) or value.kind or variables(value):
            return relation
        return Struct("difference", (Struct("(", (negated(INFINITY), INFINITY)), Struct("{", (value,))))
    if len(sides) == 2:  # a side without a bound
        below = bool(variables(sides[0]))
        sides = (negated(INFINITY), *sides) if below else (*sides, INFINITY)
        operators.insert(0 if below else 1, "<")
    if len(sides) != 3 or not isinstance(sides[1], Symbol) or not variables(sides[1]):
        return relation
    brackets = ("[" if operators[0] == "<=" else "(") + ("]" if operators[1] == "<=" else ")")
    return Struct("(", (sides[0], sides[2]), "" if brackets == "()" else brackets)
