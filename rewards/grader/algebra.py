"""What points at random cannot decide, by sympy: formulas in an integer n, sums, floors, matrices.

Its objects are built node by node from what our parser read, never from a text. Letters are numbers by then, so that
sympy calculates and never searches; and what would make a large number is refused before it is made, because with
gmpy2 a number that does not fit into memory ends the process.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

from rewards.grader.operations import is_matrix
from rewards.grader.values import CONSTANTS, Number, Op, Struct, Symbol, Unreadable, Value

POINTS = 8
MAX_BITS = 4000
"""The size of an integer."""
MAX_TERMS = 1000
"""Of a sum or a product."""
MAX_SIDE = 5
"""Rows or columns of a matrix."""
DIGITS, NOISE, RANGE = 90, 60, 64
"""Of a number that is not rational: its digits, the decimals of a sum that are right, its bits around the point.
What is smaller than the range, and larger than noise, is refused: it could hide in a sum."""
_OWN = {"floor": "floor", "ceil": "ceiling", "!": "factorial", "binom": "binomial", "abs": "Abs", "ln": "log"}


@functools.cache
def sympy_module() -> Any:
    """sympy, imported where it is first needed: `import rewards` stays fast."""
    import sympy

    return sympy


def parts(value: Value) -> tuple[Value, ...]:
    return value.args if isinstance(value, Op) else value.items if isinstance(value, Struct) else ()


def symbols(value: Value) -> frozenset[str]:
    """All names in a value, bound ones and those of unknown functions too."""
    own = {value.name} if isinstance(value, Symbol) or (isinstance(value, Op) and value.name.endswith("()")) else ()
    return frozenset(own).union(*map(symbols, parts(value))) - CONSTANTS


def whole_letters(value: Value) -> frozenset[str]:
    """The letters that only integers can stand for: in n!, a binomial, (-1)^n, a sum's bound, a floor of n."""
    found = frozenset().union(*map(whole_letters, parts(value)))
    if not isinstance(value, Op):
        return found
    if value.name in ("!", "binom"):
        return found.union(*map(symbols, value.args))
    if value.name in ("sum", "prod"):
        return found.union(*map(symbols, value.args[1:]))
    if value.name == "^" and isinstance(value.args[0], Number) and value.args[0].value < 0:
        return found | symbols(value.args[1])
    if value.name in ("floor", "ceil"):
        return found | (symbols(value) & {*"ijklmnpq"})
    return found


def is_discrete(value: Value) -> bool:
    """Whether it is for sympy: it has integer letters, or a floor, a sum or a matrix in it."""
    own = (isinstance(value, Op) and value.name in ("floor", "ceil", "sum", "prod")) or value.kind == "arithmetic"
    return own or bool(whole_letters(value)) or any(map(is_discrete, parts(value)))


class Algebra:
    """Values as sympy objects, at a point; with no point, letters stay letters (to be shown)."""

    def __init__(self, spend: Callable[[float], None]):
        self.spend = spend
        self.point: dict[str, Any] | None = None

    def same(self, a: Value, b: Value) -> bool:
        """Whether two values are equal at all of a few points where both are defined."""
        names = sorted(name for name in symbols(a) | symbols(b) if not name.endswith("_"))  # but those of sums
        whole = whole_letters(a) | whole_letters(b)
        seed, defined, sympy = random.Random(repr((a, b))), 0, sympy_module()
        numbers = {name: seed.sample(range(1, 16), POINTS) for name in names}
        for at in range(POINTS if names else 1):
            self.point = {name: sympy.Rational(numbers[name][at], 1 if name in whole else 7) for name in names}
            try:
                left, right = self.build(a), self.build(b)
            except (TypeError, ValueError, NotImplementedError) as error:  # a matrix and a number cannot be added
                raise Unreadable(f"sympy: {error}") from None
            if left.has(sympy.zoo, sympy.nan, sympy.oo) or right.has(sympy.zoo, sympy.nan, sympy.oo):
                continue
            if not self.equal(left, right):
                return False
            defined += 1
        return defined >= min(3, POINTS if names else 1)

    def equal(self, left: Any, right: Any) -> bool:
        if left.is_Matrix != right.is_Matrix or (left.is_Matrix and left.shape != right.shape):
            return False
        pairs = zip(left, right, strict=True) if left.is_Matrix else [(left, right)]
        return all(a == b or self.near(a, b) for a, b in pairs)

    def near(self, a: Any, b: Any) -> bool:
        if a.is_Rational and b.is_Rational:
            return False
        return bool(abs(a - b) <= sympy_module().Float(10, DIGITS) ** -NOISE * max(1, abs(a), abs(b)))

    # -- building -----------------------------------------------------------------------------------

    def build(self, value: Value) -> Any:
        self.spend(8)
        sympy = sympy_module()
        if isinstance(value, Number):
            return self.sized(sympy.Rational(value.value.numerator, value.value.denominator))
        if isinstance(value, Symbol):
            constant = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "infty": sympy.oo}.get(value.name)
            return (
                self.sized(constant)
                if constant
                else (sympy.Symbol(value.name) if self.point is None else self.point[value.name])
            )
        if value.kind in ("matrix", "("):
            rows = [row.items for row in value.items] if value.kind == "matrix" else [(item,) for item in value.items]
            if max(len(rows), len(rows[0])) > MAX_SIDE:
                raise Unreadable("a large matrix")
            return sympy.ImmutableMatrix([[self.build(item) for item in row] for row in rows])
        if isinstance(value, Op) and value.name in ("sum", "prod"):
            return self.series(value)
        if not isinstance(value, Op) and value.kind != "arithmetic":
            raise Unreadable(f"{value.kind} is no arithmetic")
        name, items = (value.name, value.args) if isinstance(value, Op) else (value.label, value.items)
        if name == "^" and items[1] in (Symbol("T"), Symbol("top")) and is_matrix(items[0]):
            return self.build(items[0]).T
        return self.operation(name, [self.build(item) for item in items])

    def operation(self, name: str, args: list[Any]) -> Any:
        sympy = sympy_module()
        if name in ("+", "*"):
            return functools.reduce(lambda a, b: self.sized(a + b, "+") if name == "+" else self.sized(a * b), args)
        if name == "^":
            return self.power(*args)
        if self.point is None:
            function = getattr(sympy, _OWN.get(name, name.replace("arc", "a")), None) or sympy.Function(name[:-2])
            return function(*args) if name != "log" or len(args) > 1 else sympy.log(args[0], 10)
        if name.endswith("()"):
            return sympy.Rational(random.Random(f"{name}{self.point[name]}{args}").randrange(1, 10**6), 10**5)
        if name in ("!", "binom"):
            if not all(arg.is_Integer and abs(arg) <= 300 for arg in args) and self.point is not None:
                raise Unreadable("no small integer")
            return getattr(sympy, _OWN[name])(*args)
        size = abs(args[0].evalf(15))
        self.spend(60)
        if not (size.is_Float or size.is_Rational) or size > 10**6:
            raise Unreadable("out of range")
        if name in ("floor", "ceil"):
            low = int(args[0]) - bool(args[0] < int(args[0]))
            low += bool(args[0].is_Float and args[0] - low > 1 - sympy.Float(10, DIGITS) ** -40)  # nothing but rounding
            whole = abs(args[0] - low) < sympy.Float(10, DIGITS) ** -40
            return sympy.Integer(low + (name == "ceil" and not whole))
        if name == "degree":
            return self.sized(args[0] * sympy.pi / 180, name)
        if name == "log":
            return self.sized(sympy.log(args[0], *(args[1:] or [10])), name)
        return self.sized(getattr(sympy, _OWN.get(name, name.replace("arc", "a")))(args[0]), name)

    def power(self, base: Any, exponent: Any) -> Any:
        if self.point is None:
            return base**exponent
        if base.is_Matrix:
            if not (exponent.is_Integer and abs(exponent) <= 20 and all(entry.is_Rational for entry in base)):
                raise Unreadable("no small power of a matrix of rational numbers")
            self.spend(20 * len(base))
            return self.sized(base**exponent)
        if abs(exponent.evalf(15)) > 10**4:
            raise Unreadable("out of range")
        bits = max(int(base.p).bit_length(), int(base.q).bit_length()) if base.is_Rational else RANGE
        if bits * (abs(exponent) + 1) > (MAX_BITS if exponent.is_Integer and base.is_Rational else 10 * RANGE):
            raise Unreadable("too large")
        self.spend(5 if base.is_Rational and exponent.is_Integer else 30)
        return self.sized(base**exponent)

    def series(self, value: Op) -> Any:
        body, index, low, high = value.args
        sympy = sympy_module()
        if self.point is None:
            bounds = (self.build(index), self.build(low), self.build(high))
            return (sympy.Sum if value.name == "sum" else sympy.Product)(self.build(body), bounds)
        low, high = self.build(low), self.build(high)
        if not (low.is_Integer and high.is_Integer and high - low < MAX_TERMS):
            raise Unreadable("no short sum")
        before, total = self.point.get(index.name), sympy.Integer(0 if value.name == "sum" else 1)
        for k in range(int(low), int(high) + 1):
            self.point[index.name] = sympy.Integer(k)
            total = self.operation("+" if value.name == "sum" else "*", [total, self.build(body)])
        self.point[index.name] = before
        return total

    def sized(self, value: Any, made_by: str = "*") -> Any:
        """A number of a size to reckon with: exact if it is rational, else to so many digits; and never a large one."""
        if self.point is None or value.is_infinite or value is sympy_module().nan:
            return value
        if value.is_Matrix:
            return value.applyfunc(lambda entry: self.sized(entry, "+"))
        if value.is_Rational:
            if max(int(value.p).bit_length(), int(value.q).bit_length()) > MAX_BITS:
                raise Unreadable("too large")
            return value
        self.spend(20)
        value = value.evalf(DIGITS)
        if not value.is_Float:
            raise Unreadable("no real number")
        if made_by not in ("*", "^") and abs(value) < sympy_module().Float(10, DIGITS) ** -NOISE:
            return sympy_module().Integer(0)  # what a sum or sin(pi) leaves is rounding
        if not -RANGE < value.num.man.bit_length() + value.num.exp < RANGE:
            raise Unreadable("out of range")
        return value
