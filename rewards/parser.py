"""A recursive-descent parser from tokens to values. Each method reads one rule of the grammar:

    answer   := item (("," | ";" | "or" | "and") item)*
    item     := side (relation side)*
    side     := words | currency? sum (":" sum)* unit? | group ("cup" group)*
    sum      := sign* product (("+" | "-" | "+-") sign* product)*
    product  := power (("*" | "/" | nothing) power)*
    power    := atom ("!" | "^" exponent)*
    atom     := numeral | name | function | group | fraction | root | "|" sum "|" | matrix

Nothing is evaluated but literals: a fraction of two numerals is a number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from rewards.lexer import Cursor, Token
from rewards.literals import MINUS_ONE, combined, divided, expression, negated, number, numeral_in_base
from rewards.values import Expression, Number, Op, Struct, Symbol, Unreadable, Value
from rewards.words import SCALES, read_currency, read_unit, read_words

MAX_DEPTH = 30
MAX_ITEMS = 100

_CLOSING = {"(": ")", "[": "]", "\\{": "\\}", "{": "}"}


def nested(rule: Callable[..., Value]) -> Callable[..., Value]:
    """Decorates the rules through which every recursion goes, to bound its depth."""

    @functools.wraps(rule)
    def bounded(self: Parser) -> Value:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("too deep")
        value = rule(self)
        self.depth -= 1
        return value

    return bounded


class Parser(Cursor):
    def __init__(self, tokens: list[Token]):
        super().__init__(tokens)
        self.depth = self.bars = 0

    # -- lists and relations ------------------------------------------------------------------------

    def answer(self) -> Value:
        items, joined = self.items()
        self.needs("end")
        return items[0] if len(items) == 1 else Struct("list", items, joined)

    def items(self) -> tuple[tuple[Value, ...], str]:
        items, joined = [self.item()], ""
        while self.sees("sep"):
            while self.sees("sep"):  # "a, b, or c"
                joined = "and" if self.needs("sep") == "and" else joined
            items.append(self.item())
        if len(items) > MAX_ITEMS:
            raise Unreadable("too many items")
        return tuple(items), joined

    def item(self) -> Value:
        start = self.at
        sides, operators = [self.side()], []
        name = _name(self.tokens[start : self.at], sides[0])
        while self.sees("rel"):
            operators.append(self.needs("rel"))
            sides.append(self.side())
        equals = operators[:1] == ["="] and set(operators) <= {"=", "~"}
        if name and (equals or operators == ["in"]):
            rest = Struct("relation", tuple(sides[1:]), " ".join(operators[1:]))
            return Struct("named", (rest if operators[1:] else sides[1], sides[0]), name)
        return Struct("relation", tuple(sides), " ".join(operators)) if operators else sides[0]

    def side(self) -> Value:
        if self.sees("word") or (self.sees("name") and self.tokens[self.at + 1].kind == "word"):
            return read_words(self)
        unit = read_currency(self)
        value = self.sum()
        if self.sees("op", ":"):
            parts = [expression(value)]
            while self.takes("op", ":"):
                parts.append(expression(self.sum()))
            value = Struct("ratio", tuple(parts))
        if isinstance(value, Struct) and self.sees("op", "cup"):
            parts = [value]
            while self.takes("op", "cup"):
                parts.append(self.atom())
            return Struct("union", tuple(parts))
        if isinstance(value, Number) and self.sees("word", *SCALES):
            value = Number(value.value * SCALES[self.needs("word")], value.decimals)
        if isinstance(value, Op) and value.name == "degree":
            unit, value = "degree", value.args[0]
        unit += read_currency(self) or read_unit(self)  # "$5 per day" is in dollar/day
        return Struct("quantity", (value,), unit) if unit else value

    # -- expressions --------------------------------------------------------------------------------

    @nested
    def sum(self) -> Value:
        terms = [self.signed(self.product)]
        while self.sees("op", "+", "-"):
            terms.append(self.signed(self.product))
        return combined("+", terms)

    def signed(self, rule: Callable[[], Value]) -> Value:
        signs = []
        while self.sees("op", "+", "-"):
            signs.append(self.needs("op"))
        value = rule()
        return negated(expression(value)) if signs.count("-") % 2 else value

    def product(self) -> Value:
        value = self.power()
        if isinstance(value, Struct):
            return value
        factors = [value]
        while True:
            if self.takes("op", "*"):
                factors.append(self.signed(self.power))
            elif self.takes("op", "/"):
                factors[-1:] = divided(factors[-1], self.signed(self.power))
            elif self.begins_factor():
                factors.append(self.power())
            else:
                return combined("*", factors)

    def begins_factor(self) -> bool:
        """Whether two things stand side by side, a product. `x2` and `(a)2` are none."""
        if self.sees("op", "bar"):
            return not self.bars
        return self.tokens[self.at].kind in ("name", "fn", "cmd") or self.sees("open", "(", "{")

    def power(self) -> Value:
        value = self.atom()
        while self.sees("op", "!", "^"):
            if self.takes("op", "!"):
                value = Op("!", (expression(value),))
            elif exponent := self.exponent():
                value = Op("^", (expression(value), exponent))
            else:
                value = Op("degree", (expression(value),))
        return value

    @nested
    def exponent(self) -> Expression | None:
        """What follows `^`, right to left (2^3^2 is 2^9); None for the degree sign."""
        self.needs("op", text="^")
        if self.sees("open", "{") and self.tokens[self.at + 1].text != "deg":
            return expression(self.atom())
        if self.braced(lambda: self.takes("op", "deg")):
            return None
        return expression(self.signed(self.power))

    def braced(self, rule: Callable[[], Any]) -> Any:
        """What `rule` reads, in braces if there are any."""
        if not self.takes("open", "{"):
            return rule()
        value = rule()
        self.needs("close", text="}")
        return value

    # -- atoms --------------------------------------------------------------------------------------

    @nested
    def atom(self) -> Value:
        kind, text, _ = self.tokens[self.at]
        rules = {"fn": self.function, "open": self.group, "begin": self.matrix, "cmd": self.command}
        if kind == "num":
            return self.numeral()
        if kind in rules:
            self.at += 1
            return rules[kind](text)
        if kind == "name":
            self.at += 1
            return Symbol(text + self.subscript())
        self.needs("op", text="bar")
        self.bars += 1
        value = Op("abs", (expression(self.sum()),))
        self.bars -= 1
        self.needs("op", text="bar")
        return value

    def numeral(self) -> Value:
        text = self.needs("num")
        if self.sees("op", "_"):
            return numeral_in_base(text, self.subscript()[1:])
        whole, start, part = number(text), self.at, None
        if text.isdigit() and self.takes("cmd", "frac"):  # 1\frac{4}{5}
            part = self.command("frac")
        elif text.isdigit() and self.sees("num") and self.tokens[self.at + 1].text == "/":  # 1 4/5
            top, _, bottom = self.needs("num"), self.needs("op", text="/"), self.needs("num")
            part = combined("*", divided(number(top), number(bottom)))
        if isinstance(part, Number) and 0 < part.value < 1:
            return Number(whole.value + part.value)
        self.at = start
        return whole

    def subscript(self) -> str:
        if not self.takes("op", "_"):
            return ""
        return "_" + self.braced(lambda: self.needs("num", "name", "word"))

    def function(self, name: str) -> Expression:
        base = []
        if self.takes("op", "_"):
            base = [number(self.needs("num")) if self.sees("num") else self.argument()]
        exponent = self.exponent() if self.sees("op", "^") else None
        if self.sees("open", "(", "{"):
            value = self.atom() if exponent else self.power()
        else:  # \sin 3x takes all of 3x, but \sin x \cos x is a product
            factors = [self.signed(self.power)]
            while self.sees("name") or self.sees("cmd", "frac", "sqrt"):
                factors.append(self.power())
            value = combined("*", factors)
        if exponent == MINUS_ONE and name in ("sin", "cos", "tan"):
            return Op("arc" + name, (expression(value),))
        call = Op(name, (expression(value), *base))
        return Op("^", (call, exponent)) if exponent else call

    def command(self, name: str) -> Value:
        if name == "emptyset":
            return Struct("{")
        if name == "frac":
            return combined("*", divided(self.argument(one_digit=True), self.argument(one_digit=True)))
        if name == "binom":
            return Op("binom", (self.argument(), self.argument()))
        degree: Expression = Number(Fraction(2))
        if self.takes("open", "["):
            degree = expression(self.sum())
            self.needs("close", text="]")
        return Op("root", (self.argument(), degree))

    def argument(self, one_digit: bool = False) -> Expression:
        """A command's argument: braced, or one token; of a bare `\\frac34` each takes one digit."""
        if not one_digit or not self.tokens[self.at].text.isdigit():
            return expression(self.atom())
        digit, rest = self.tokens[self.at].text[0], self.tokens[self.at].text[1:]
        self.tokens[self.at : self.at + 1] = [Token("num", text) for text in (digit, rest) if text]
        return number(self.needs("num"))

    def group(self, opening: str) -> Value:
        """Brackets: around one value only typography, around two an interval or a pair."""
        if opening == "\\{" and self.takes("close", "\\}"):
            return Struct("{")
        bars, self.bars = self.bars, 0
        items, _ = self.items()
        self.bars = bars
        closing = self.needs("close")
        matched = _CLOSING[opening] == closing
        if matched and (opening == "\\{" or (opening == "{" and len(items) > 1)):
            return Struct("{", items)
        if matched and len(items) == 1:
            return items[0]
        if len(items) == 2 and opening + closing in ("[]", "[)", "(]"):
            return Struct("interval", tuple(map(expression, items)), opening + closing)
        if not matched:
            raise Unreadable("brackets that don't match")
        return Struct(opening, items)

    def matrix(self, shape: str) -> Struct:
        rows: list[list[Value]] = [[]]
        while not self.takes("end", shape):
            rows[-1].append(self.item())
            if self.takes("op", "\\\\"):
                rows += [] if self.sees("end", shape) else [[]]
            elif not self.sees("end", shape):
                self.needs("op", text="&")
        if len({len(row) for row in rows}) != 1 or not 0 < len(rows) * len(rows[0]) <= MAX_ITEMS:
            raise Unreadable("a matrix too large, or with ragged rows")
        return Struct("matrix", tuple(Struct("row", tuple(row)) for row in rows))


# ---------------------------------------------------------------------------------------------------


def _name(tokens: list[Token], side: Value) -> str:
    """The name that a left side is: `x`, `f(x)`, `(x, y)`, `Total`; "" if it is more than a name."""
    kinds = [token.text if token.kind in ("open", "close") else token.kind for token in tokens]
    if isinstance(side, Struct) and side.kind == "words":
        return side.label if len(kinds) <= 3 and set(kinds) == {"word"} else ""
    pair = isinstance(side, Struct) and side.kind == "(" and all(isinstance(item, Symbol) for item in side.items)
    if isinstance(side, Symbol) or pair or kinds == ["name", "(", "name", ")"]:
        return "".join(token.text for token in tokens)
    return ""
