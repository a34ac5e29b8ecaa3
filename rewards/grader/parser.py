"""A recursive-descent parser from tokens to values. Each method reads one rule of the grammar:

    answer   := item (("," | ";" | "or" | "and") item)*
    item     := side (relation side)*
    side     := words | currency? sum ((":" | "cup" | "cap" | "setminus") sum)* unit?
    sum      := sign* product (("+" | "-") sign* product)*
    product  := power (("*" | "/" | nothing) power)*
    power    := atom ("!" | "degree" | "^" sign* power)*
    atom     := numeral | name | call | function | fraction | root | binomial | group | "|" sum "|" | matrix
              | floor | ceiling | ("sum" | "prod") "_" "{" name "=" sum "}" "^" atom product

Nothing is evaluated but literals: a fraction of two numerals is a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from rewards.grader.lexer import Token
from rewards.grader.operations import divided, expression, negated, op, replaced
from rewards.grader.relations import asked, name_of, relation
from rewards.grader.units import SCALES, unit_name
from rewards.grader.values import CONSTANTS, MINUS_ONE, Expression, Number, Op, Struct, Symbol, Unreadable, Value

MAX_DEPTH = 20
"""How deep brackets and exponents may nest."""

_FUNCTIONS = ("f", "g", "h", "F", "G", "f_prime", "g_prime", "h_prime")
_JOINED = {":": "ratio", "\u222a": "union", "\u2229": "intersection", "\u2216": "difference"}
_CLOSING = {"(": ")", "[": "]", "\\{": "\\}", "{": "}"}


class Parser:
    def __init__(self, tokens: list[Token], trusted: bool = False):
        self.tokens, self.at, self.trusted = tokens, 0, trusted
        self.depth = self.bars = 0
        self.currency: list[str] = []  # signs between a sign and its number: -$29, $20 + $22

    def sees(self, kind: str, *texts: str) -> bool:
        token = self.tokens[self.at]
        return token.kind == kind and (not texts or token.text in texts)

    def takes(self, kind: str, *texts: str) -> bool:
        found = self.sees(kind, *texts)
        self.at += found
        return found

    def needs(self, *kinds: str) -> str:
        token = self.tokens[self.at]
        if token.kind not in kinds:
            raise Unreadable(f"{token.text!r} where {' or '.join(kinds)} should be")
        self.at += 1
        return token.text

    # -- lists and relations ------------------------------------------------------------------------

    def answer(self) -> Value:
        found = self.items()
        self.needs("end")
        return found.items[0] if len(found.items) == 1 else found

    def items(self) -> Struct:
        items, joined = [self.item()], ""
        while self.sees("sep"):
            while self.sees("sep"):  # "a, b, or c"
                joined = "and" if self.needs("sep") == "and" else joined
            items.append(self.item())
        conditions = any(item.kind == "relation" for item in items)
        return Struct("list", tuple(items), joined if conditions else "")

    def item(self) -> Value:
        start = self.at
        try:
            sides, operators = [self.side()], []
            name = name_of(self.tokens[start : self.at], sides[0])
            if not start and not any(map(self.sees, ("rel", "sep", "end", "close"))):
                raise Unreadable("a side that goes on")
        except Unreadable:
            if start or not (length := asked(self.tokens)):
                raise
            self.at, self.depth, self.bars = length, 0, 0
            name = "".join(token.text for token in self.tokens[:length])
            sides, operators = [Struct("words", (), name)], []
        while self.sees("rel"):
            operators.append(self.needs("rel"))
            sides.append(self.side())
        return relation(name, sides, operators)

    def side(self) -> Value:
        if self.sees("word") or (self.sees("name") and self.tokens[self.at + 1].kind == "word"):
            return self.words()
        unit, self.currency = [self.needs("unit")] if self.sees("unit") else [], []
        value = self.sum()
        unit = unit or self.currency[:1]
        while self.sees("op", *_JOINED):  # from left to right, and several unions are one
            kind, part = _JOINED[self.needs("op")], self.sum()
            first = value.items if value.kind == kind != "difference" else (value,)
            value = Struct(kind, (*first, part))
        word = self.tokens[self.at].text.lower() if isinstance(value, Number) and self.sees("word") else ""
        if scale := SCALES.get(word) or SCALES.get(word.removesuffix("s")):
            self.needs("word")
            value = Number(value.value * scale, value.decimals)
        if isinstance(value, Op) and value.name == "degree":
            unit, value = ["degree"], value.args[0]
        name = self.unit(unit)
        return Struct("quantity", (value,), name) if name else value

    def words(self) -> Struct:
        """An answer in words, without its article."""
        words = []
        while any(map(self.sees, ("word", "name", "num"))) or (words and self.sees("op", ":")):
            words.append(self.needs("word", "name", "num", "op").casefold())  # AB:BC is a name too
        text = " ".join(words[words[0] in ("the", "a", "an") and len(words) > 1 :])
        return Struct("words", (), {"dne": "does not exist", "no solutions": "no solution"}.get(text, text))

    def unit(self, words: list[str]) -> str:
        """The unit that the words so far and those here are: "$" and "per day"; "" if they are none."""
        start, glued = self.at, not self.tokens[self.at].spaced
        while self.sees("word") or self.sees("unit") or (words and self.sees("op", "/", "^")) or words[-1:] == ["/"]:
            words = [*words, self.needs("word", "unit", "op", "name")]
            if words[-1] == "^":
                words.append(self.needs("num"))
        unit = unit_name(words, glued, self.trusted)
        self.at = self.at if unit else start
        return unit

    # -- expressions --------------------------------------------------------------------------------

    def sum(self) -> Value:
        terms = [self.signed(self.product)]
        while self.sees("op", "+", "-"):
            terms.append(self.signed(self.product))
        return op("+", *terms) if len(terms) > 1 else terms[0]

    def signed(self, rule: Callable[[], Value]) -> Value:
        signs = ""
        while self.sees("op", "+", "-"):
            signs += self.needs("op")
        if self.sees("unit", *"$£€¥₹"):
            self.currency.append(self.needs("unit"))
        value = rule()
        if not signs.count("-") % 2:
            return value
        degree = isinstance(value, Op) and value.name == "degree"
        return op("degree", negated(value.args[0])) if degree else negated(value)

    def product(self) -> Value:
        """Factors with a sign between them, or side by side: `2x`, `2(a)`, but not `x2` and `(a)2`."""
        factors = [self.power()]
        while not isinstance(factors[0], Struct) or factors[0].kind in ("matrix", "arithmetic"):
            after = self.tokens[self.at + 1] if self.sees("open", "[") else self.tokens[self.at]
            beside = self.sees("open", "(", "{") or (self.sees("bar") and not self.bars)
            beside |= after.kind == "open" and after.text.startswith("\\begin")
            beside |= self.sees("num") and self.tokens[self.at - 1].text == "!"  # 3!5! is a product
            if self.takes("op", "*"):
                factors.append(self.signed(self.power))
            elif self.sees("op", "/") and self.tokens[self.at + 1].kind != "word":  # $29/day is no division
                self.at += 1
                factors.append(divided(factors.pop(), self.signed(self.power)))
            elif beside or any(map(self.sees, ("name", "fn", "cmd"))):
                factors.append(self.power())
            else:
                break
        return op("*", *factors) if len(factors) > 1 else factors[0]

    def power(self) -> Value:
        """All that nests in brackets or in exponents goes through here."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("too deep")
        value = self.atom()
        while self.sees("op", "!", "\u00b0", "^"):
            operator = self.needs("op")
            if operator == "^":  # right to left: 2^3^2 is 2^9
                exponent = self.atom() if self.sees("open", "{") else self.signed(self.power)
                value = op("^", value, exponent)
            else:
                value = op("!" if operator == "!" else "degree", value)
        self.depth -= 1
        return value

    # -- atoms --------------------------------------------------------------------------------------

    def atom(self) -> Value:
        kind = self.tokens[self.at].kind
        text = self.needs("num", "name", "fn", "cmd", "open", "bar")
        return getattr(self, f"read_{kind}")(text)

    def read_num(self, text: str) -> Value:
        if self.sees("op", "_"):  # equal to the same numeral in the same base, not to its value
            return Struct("base", (), text.lstrip("0") + self.subscript())
        mantissa = text.lower().partition("e")[0]
        whole = Number(Fraction(text))
        if "." in mantissa:
            digits = mantissa.replace(".", "").lstrip("0")
            places = len(mantissa.partition(".")[2]) - int(text[len(mantissa) + 1 :] or 0)
            whole = Number(whole.value, places, len(digits))
        raised = re.search(r"\^[-+]?$", "".join(t.text for t in self.tokens[max(0, self.at - 3) : self.at - 1]))
        if text.isdigit() and self.sees("cmd", "frac") and not raised:  # 1\frac{4}{5}, not x^2\frac{1}{3}
            start = self.at
            part = self.atom()
            if isinstance(part, Number) and 0 < part.value < 1:
                return Number(whole.value + part.value)
            self.at = start
        return whole

    def read_name(self, name: str) -> Expression:
        """A letter; with a number in brackets, or called f, g or h, or of x or t, it is a function's value: f(2)."""
        name += self.subscript()
        inverse = name in _FUNCTIONS and [t.text for t in self.tokens[self.at : self.at + 6]] == ["^", *"{-1}", "("]
        at = self.at + (5 if inverse else 0)
        if name in CONSTANTS or self.tokens[at].text != "(":
            return Symbol(name)
        inside = "".join(token.text for token in self.tokens[at + 1 : at + 6]).partition(")")[0]
        number = re.fullmatch(r"[-+]?[0-9.]+(?:/[0-9]+)?", inside)
        if not (number or inverse or name in _FUNCTIONS or (inside in ("x", "t") and name != inside)):
            return Symbol(name)
        self.at = at
        return Op(f"{name}{'^-1' * inverse}()", (expression(self.atom()),))

    def subscript(self) -> str:
        return "_" + self.needs("num", "name", "word") if self.takes("op", "_") else ""

    def read_fn(self, name: str) -> Value:
        base = [self.atom()] if name == "log" and self.takes("op", "_") else []
        exponent = self.signed(self.atom) if self.takes("op", "^") else None
        if self.sees("open", "(", "{"):
            value = self.atom()
        else:  # \sin 3x takes all of 3x, but \sin x \cos x is a product
            factors = [self.signed(self.power)]
            while self.sees("name") or self.sees("cmd", "frac", "sqrt"):
                factors.append(self.power())
            value = op("*", *factors) if len(factors) > 1 else factors[0]
        if exponent == MINUS_ONE and name[:3] not in ("arc", "ln", "log", "exp"):
            return op("arc" + name, value)
        call = op(name, value, *base)
        return op("^", call, exponent) if exponent else call

    def read_cmd(self, name: str) -> Value:
        if name == "frac":
            top, bottom = self.atom(), self.atom()
            if isinstance(top, Number) and isinstance(bottom, Number) and bottom.value:
                return Number(top.value / bottom.value)  # not reduced, but not left undone as 84/2 is
            return divided(top, bottom)
        if name == "binom":
            return op("binom", self.atom(), self.atom())
        if name in ("lfloor", "lceil"):
            value = op(name[1:], self.sum())
            self.needs("close")
            return value
        if name in ("sum", "prod"):
            return self.series(name)
        degree = self.atom() if self.sees("open", "[") else Number(Fraction(2))
        return op("^", self.atom(), divided(Number(Fraction(1)), degree))

    def series(self, name: str) -> Expression:
        """A finite sum or product: all that is multiplied with its body belongs to it."""
        found = self.takes("op", "_") and self.takes("open", "{") and self.sees("name")
        index, _, low = (Symbol(self.needs("name")), self.needs("rel"), self.sum()) if found else (None, "", None)
        if not (found and self.takes("close", "}") and self.takes("op", "^")):
            raise Unreadable("a sum without bounds")
        high = self.atom()
        bound = Symbol(index.name + "_")  # i is no imaginary unit in it
        return op(name, replaced(expression(self.product()), {index.name: bound}), bound, low, high)

    def read_bar(self, _: str) -> Value:
        self.bars += 1
        value = op("abs", self.sum())
        self.bars -= 1
        self.needs("bar")
        return value

    def read_open(self, opening: str) -> Value:
        """Brackets: around one value only typography, around two an interval or a pair."""
        if opening.startswith("\\begin"):
            return self.matrix()
        if opening == "\\{" and self.takes("close", "\\}"):
            return Struct("{")
        items = self.items().items
        brackets = opening + self.needs("close")
        if len(items) == 2 and brackets in ("[]", "[)", "(]"):
            return Struct("(", tuple(map(expression, items)), brackets)
        if brackets != opening + _CLOSING[opening]:
            raise Unreadable("brackets that don't match")
        if len(items) == 1 and opening != "\\{":
            return items[0]
        return Struct("(" if opening in "([" else "{", items)

    def matrix(self) -> Struct:
        rows = [self.items().items]
        while self.takes("op", "\\\\") and not self.sees("close"):
            rows.append(self.items().items)
        self.needs("close")
        if len({len(row) for row in rows}) != 1:
            raise Unreadable("ragged rows")
        if len(rows) > 1 and len(rows[0]) == 1:
            return Struct("(", tuple(entry for (entry,) in rows))  # a column is a vector
        return Struct("matrix", tuple(Struct("row", row) for row in rows))
