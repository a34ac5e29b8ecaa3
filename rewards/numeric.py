"""What an expression is worth: exactly where it is rational, else to as many digits as it takes.

Two expressions are equal if they are at each of a few pseudo-random points. With rational values that is
exact arithmetic (a false match has the odds of Schwartz and Zippel: degree / 10^6 a point). With roots, pi
and functions it is mpmath at 60 digits, and at more where literals are longer, so that nothing of this size
can differ and still agree. Nothing is simplified or searched for: the time depends on the size alone.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from mpmath.ctx_mp import MPContext

from rewards.values import Expression, Number, Op, Symbol, Unreadable

POINTS, DIGITS, MAX_DIGITS = 4, 60, 1200
MAX_BITS = 20_000
"""The size of an exact number: enough for 2004!, which a MATH answer holds."""
MAX_WORK = 1500
"""For one comparison, in units of some 20 microseconds."""

# mpmath keeps its precision in the context and its constants in global caches: one thread at a time.
_MP = MPContext()
_LOCK = threading.Lock()
_CONSTANTS = {"pi": lambda: +_MP.pi, "e": lambda: +_MP.e, "i": lambda: _MP.j}
_IN_MPMATH = ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "ln", "exp")
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    **{name: getattr(_MP, name) for name in _IN_MPMATH},
    **{"arcsin": _MP.asin, "arccos": _MP.acos, "arctan": _MP.atan, "abs": abs},
}


def same_value(a: Expression, b: Expression) -> bool:
    """Whether two expressions are equal wherever both are defined."""
    return _agree(_close, a, b)


def proportional(a: Expression, b: Expression, positive: bool = False) -> bool:
    """Whether two expressions differ by a constant factor, as the sides of 2x + y = 3 and 4x + 2y = 6 do."""
    ratios: list[Any] = []

    def consistent(left: Any, right: Any, tolerance: Any) -> bool:
        if left == 0 or right == 0:
            return left == right
        ratios.append(left / right if isinstance(left, type(right)) else _inexact(left) / _inexact(right))
        if positive and (isinstance(ratios[-1], _MP.mpc) or ratios[-1] < 0):
            return False
        return _close(ratios[0], ratios[-1], tolerance)

    return _agree(consistent, a, b) and bool(ratios)


def real_value(value: Expression) -> Fraction | None:
    """The value of a constant: exact where it is rational, else to `DIGITS` digits; None if it isn't real."""
    with _LOCK:
        _MP.dps = DIGITS
        number = _Evaluator().value(value)
        if isinstance(number, Fraction | _MP.mpc):
            return number if isinstance(number, Fraction) else None
        return Fraction(_MP.nstr(number, DIGITS))


def variables(value: Expression) -> frozenset[str]:
    """The names of the variables in an expression."""
    if isinstance(value, Symbol):
        return frozenset([value.name]) - _CONSTANTS.keys()
    return frozenset().union(*map(variables, value.args)) if isinstance(value, Op) else frozenset()


def is_undone(value: Expression) -> bool:
    """Whether arithmetic on numbers is left to do: 6 * 7, 40 + 2, 5!. A root or power of a number is none."""
    with _LOCK:
        _MP.dps = DIGITS
        return _is_undone(value, _Evaluator())


# ---------------------------------------------------------------------------------------------------


def _agree(consistent: Callable[[Any, Any, Any], bool], a: Expression, b: Expression) -> bool:
    names = sorted(variables(a) | variables(b))
    seed = random.Random("\n".join(sorted((repr(a), repr(b)))))  # the same points in either order
    evaluator = _Evaluator()
    with _LOCK:
        # Variables are real, and so is what is made of them; if that is nowhere so, complex.
        for evaluator.real in (True, False) if names else (False,):
            agreed = 0
            for attempt in range(2 * POINTS if names else 1):
                # All positive, all negative, any signs, and so on.
                signs = [(1, -1, seed.choice((1, -1)))[attempt % 3] for _ in names]
                sizes = [Fraction(seed.randrange(1000, 2000), seed.randrange(1000, 2000)) for _ in names]
                evaluator.point = {n: sign * size for n, sign, size in zip(names, signs, sizes, strict=True)}
                try:
                    if not consistent(*evaluator.values(a, b)):
                        return False
                except ZeroDivisionError:
                    continue  # one of them is undefined here
                agreed += 1
                if agreed == POINTS:
                    return True
            if agreed >= (2 if names else 1):
                return True
    return False


def _is_undone(value: Expression, evaluator: _Evaluator) -> bool:
    if not isinstance(value, Op):
        return isinstance(value, Number) and value.undivided
    if value.name not in ("+", "*", "^", "root", "abs"):
        return True
    last = value.args[-1]  # 4.2 * 10^1 is a way to write a number
    scientific = isinstance(last, Op) and last.name == "^" and last.args[0] == Number(Fraction(10))
    if value.name == "+" or (value.name == "*" and not (len(value.args) == 2 and scientific)):
        constants = [arg for arg in value.args if not variables(arg) and arg != Number(Fraction(-1))]
        if len(constants) > 1 and sum(isinstance(evaluator.value(arg), Fraction) for arg in constants) > 1:
            return True
    return any(_is_undone(arg, evaluator) for arg in value.args)


def _inexact(value: Any) -> Any:
    return _MP.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _close(left: Any, right: Any, tolerance: Any) -> bool:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    left, right = _inexact(left), _inexact(right)
    return abs(left - right) <= tolerance * max(abs(left), abs(right))


class _Evaluator:
    """Values at a point; refuses what would take long, and what its digits can't tell from nothing."""

    def __init__(self) -> None:
        self.point: dict[str, Fraction] = {}
        self.real = False  # whether a value that isn't real counts as undefined
        self.digits = DIGITS
        self.work = 0.0
        self.bits = 0  # of the longest exact number that had to be rounded

    def values(self, a: Expression, b: Expression) -> tuple[Any, Any, Any]:
        """Both values, to twice the digits of the longest literal in them, and a tolerance for equality."""
        while True:
            self.bits, _MP.dps = 0, self.digits
            left, right = self.value(a), self.value(b)
            needed = DIGITS + self.bits * 2 // 3 if self.bits > 100 else DIGITS
            if needed <= self.digits:
                return left, right, _MP.mpf(10) ** (30 - self.digits)
            if needed > MAX_DIGITS:
                raise Unreadable("too many digits for a value that isn't rational")
            self.digits = needed

    def value(self, value: Expression) -> Any:
        """A Fraction, or an mpmath number."""
        self.spend(1)
        if isinstance(value, Number):
            return value.value
        if isinstance(value, Symbol):
            return _CONSTANTS[value.name]() if value.name in _CONSTANTS else self.point[value.name]
        args = [self.value(arg) for arg in value.args]
        rules = {"+": self.sum, "*": self.product, "^": self.power, "root": self.root, "log": self.log}
        rules |= {"!": self.count, "binom": self.count, "degree": self.degree}
        if value.name in rules:
            return rules[value.name](*args)
        if value.name not in _FUNCTIONS or len(args) != 1:
            raise Unreadable(f"no function {value.name} of {len(args)}")
        return self.function(value.name, args[0])

    # -- limits -------------------------------------------------------------------------------------

    def spend(self, work: float) -> None:
        self.work += work
        if self.work > MAX_WORK:
            raise Unreadable("too much work")

    def exact(self, value: Fraction) -> Fraction:
        bits = value.numerator.bit_length() + value.denominator.bit_length()
        if bits > 2 * MAX_BITS:
            raise Unreadable("too large")
        self.spend((bits / 1500) ** 2)
        return value

    def inexact(self, value: Any) -> Any:
        """As an mpmath number, neither infinite nor huge nor so small that it would be lost in a sum."""
        if isinstance(value, Fraction):
            self.bits = max(self.bits, value.numerator.bit_length(), value.denominator.bit_length())
            return _inexact(value)
        self.spend(3 * self.digits / DIGITS)
        if self.real and isinstance(value, _MP.mpc):
            raise ZeroDivisionError
        if not _MP.isfinite(value) or (value and not -40 < _MP.mag(value) < 2000):
            raise Unreadable("out of range")
        return value

    def settled(self, value: Any, scale: Any) -> Any:
        """A value, or exactly zero if it is nothing but rounding: sin(pi), sqrt(2)^2 - 2."""
        return Fraction(0) if abs(value) <= scale * _MP.mpf(10) ** (20 - self.digits) else self.inexact(value)

    # -- operations ---------------------------------------------------------------------------------

    def sum(self, *terms: Any) -> Any:
        if all(isinstance(term, Fraction) for term in terms):
            total = Fraction(0)
            for term in terms:
                total = self.exact(total + term)
            return total
        numbers = [number for number in map(self.inexact, terms) if number]
        sizes = [abs(number) for number in numbers]
        if min(sizes) < max(sizes) * _MP.mpf(10) ** -25:
            raise Unreadable("a term too small to tell")
        return self.settled(_MP.fsum(numbers), max(sizes))

    def product(self, *factors: Any) -> Any:
        exact = Fraction(1)
        for factor in factors:
            exact = self.exact(exact * factor) if isinstance(factor, Fraction) else exact
        rest = [factor for factor in factors if not isinstance(factor, Fraction)]
        return self.inexact(_MP.fprod([self.inexact(exact), *rest])) if rest and exact else exact

    def power(self, base: Any, exponent: Any) -> Any:
        if isinstance(base, Fraction) and isinstance(exponent, Fraction):
            if exponent.denominator == 1:
                return self.integer_power(base, int(exponent))
            if base >= 0 and exponent.denominator <= 12:
                return self.power(self.root(base, Fraction(exponent.denominator)), Fraction(exponent.numerator))
        if base == 0:
            raise ZeroDivisionError
        base, exponent = self.inexact(base), self.inexact(exponent)
        if abs(exponent) * (abs(_MP.mag(base)) + 1) > 2000:
            raise Unreadable("too high a power")
        self.spend(5 * self.digits / DIGITS)
        return self.inexact(_MP.power(base, exponent))

    def integer_power(self, base: Fraction, exponent: int) -> Fraction:
        if abs(base) in (0, 1):
            exponent = (2 - exponent % 2) * (-1 if exponent < 0 else 1) if exponent else 0  # however high it is
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits * abs(exponent) > 2 * MAX_BITS:
            raise Unreadable("too high a power")
        return self.exact(base**exponent)

    def root(self, base: Any, degree: Any) -> Any:
        """The real root where there is one, exactly where it is rational."""
        if not isinstance(degree, Fraction) or degree.denominator != 1 or not 0 < degree <= 100:
            raise Unreadable("no such root")
        index = int(degree)
        if not isinstance(base, _MP.mpc) and base < 0 and index % 2:
            return -self.root(-base, degree)
        if isinstance(base, Fraction) and base >= 0:
            top, bottom = _integer_root(base.numerator, index), _integer_root(base.denominator, index)
            if Fraction(top, bottom) ** index == base:
                return Fraction(top, bottom)
        self.spend(5 * self.digits / DIGITS)
        return self.inexact(_MP.root(self.inexact(base), index))

    def log(self, value: Any, base: Any = Fraction(10)) -> Any:
        return self.product(self.function("ln", value), self.power(self.function("ln", base), Fraction(-1)))

    def degree(self, value: Any) -> Any:
        return self.product(value, +_MP.pi, Fraction(1, 180))

    def function(self, name: str, value: Any) -> Any:
        if name == "abs" and isinstance(value, Fraction):
            return abs(value)
        if name == "ln" and value == 0:
            raise ZeroDivisionError
        value = self.inexact(value)
        exponential = name in ("exp", "sinh", "cosh", "tanh") or isinstance(value, _MP.mpc)
        if abs(value) > (1000 if exponential else 10**60):
            raise Unreadable("out of range")
        self.spend(10 * self.digits / DIGITS)
        return self.settled(_FUNCTIONS[name](value), 1)

    def count(self, top: Any, bottom: Any = None) -> Fraction:
        """A factorial, or a binomial coefficient."""
        numbers = (top,) if bottom is None else (top, bottom)
        if not all(isinstance(n, Fraction) and n.denominator == 1 and 0 <= n <= 2500 for n in numbers):
            raise Unreadable("no small natural number")
        self.spend(50)
        count = math.factorial(int(top)) if bottom is None else math.comb(int(top), int(bottom))
        return self.exact(Fraction(count))


def _integer_root(value: int, degree: int) -> int:
    """The floor of the degree-th root, by Newton's method from above."""
    guess = 1 << -(-value.bit_length() // degree)
    while value and (better := ((degree - 1) * guess + value // guess ** (degree - 1)) // degree) < guess:
        guess = better
    return guess if value else 0
