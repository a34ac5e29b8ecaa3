"""What an expression is worth: exactly where it is rational, else to 300 digits.

Two expressions are equal if they are at each of a few pseudo-random points; letters that only integers can stand for
are small integers there. With rational values that is exact arithmetic (a false match has the odds of Schwartz and
Zippel: degree / 10^5 a point). With roots, pi and functions it is mpmath, at more than twice the digits of any literal
that it lets in, so that nothing of this size can differ and still agree. Matrices are calculated by sympy. Nothing is
simplified or searched for: the time depends on the size alone.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from typing import Any

from mpmath.ctx_mp import MPContext

from rewards.grader.matrices import calculated, same_entries
from rewards.grader.operations import variables, whole_letters
from rewards.grader.values import Expression, Number, Op, Symbol, Unreadable, Value

POINTS, WHOLE_POINTS = 6, 8
MAX_TERMS = 1000
"""Of a sum or a product."""
DIGITS = 300
MAX_ROUNDED_BITS = 400
"""The size of an exact number that may be rounded: 120 digits, so that even its square shows in a sum."""
MAX_EXACT_BITS = 40_000
"""The size of an exact number: enough for 1/2004!, which a MATH answer holds."""
MAX_WORK = 6000
"""For one comparison of answers, in units of some 5 microseconds."""

LOCK = threading.Lock()
"""To be held during a comparison: mpmath keeps its constants in global caches, one thread at a time."""
_MP = MPContext()
_MP.dps = DIGITS
_NOISE, _TOLERANCE = _MP.mpf(10) ** (20 - DIGITS), _MP.mpf(10) ** (30 - DIGITS)
_CONSTANTS = {"pi": +_MP.pi, "e": +_MP.e, "i": _MP.j}
_IN_MPMATH = "sin cos tan cot sec csc sinh cosh tanh coth sech csch ln exp"
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(_MP, name) for name in _IN_MPMATH.split()},
    **{f"arc{name}": getattr(_MP, f"a{name}") for name in _IN_MPMATH.split()[:10]},
    **{"abs": abs, "degree": _MP.radians},
    "log": lambda value, base=10: _MP.log(value, base),
}


class Evaluator:
    """Compares expressions by value; refuses what would take long, and what its digits can't tell from nothing."""

    def __init__(self) -> None:
        self.point: dict[str, Fraction] = {}
        self.real = False  # whether a value that isn't real counts as undefined
        self.work = 0.0

    def same_value(self, a: Expression, b: Expression) -> bool:
        """Whether two expressions are equal wherever both are defined."""
        return self.agree(self.close, a, b)

    def proportional(self, a: Expression, b: Expression, positive: bool) -> bool:
        """Whether two expressions differ by a constant factor, as the sides of 2x + y = 3 and 4x + 2y = 6 do."""
        ratios: list[Any] = []

        def consistent(left: Any, right: Any) -> bool:
            if not (left and right):
                return False
            ratios.append(self.product(left, self.power(right, Fraction(-1))))
            signed = positive and not self.close(ratios[-1], abs(ratios[-1]))
            return not signed and self.close(ratios[0], ratios[-1])

        return self.agree(consistent, a, b)

    def agree(self, consistent: Callable[[Any, Any], bool], a: Value, b: Value) -> bool:
        """Whether the values of two expressions are consistent at a few points where both are defined."""
        names, seed = sorted(variables(a) | variables(b)), random.Random(repr((a, b)))
        whole = sorted(whole_letters(a) | whole_letters(b))
        integers = {name: seed.sample(range(1, 16), WHOLE_POINTS) for name in whole}
        for self.real in (True, False):  # what is made of reals is real; if that is nowhere so, complex
            defined = 0
            for attempt in range(WHOLE_POINTS if integers else POINTS if names else 2):
                # Variables below 1, then above 1.5, and so on; all positive, all negative, of any signs, and so on.
                self.point = {}
                for name in names:
                    size = Fraction(seed.randrange(500, 1000), seed.randrange(1000, 2000)) * (1, 6)[attempt % 2]
                    self.point[name] = size * (1, -1, seed.choice((1, -1)))[attempt % 3]
                self.point |= {name: Fraction(values[attempt]) for name, values in integers.items()}
                try:
                    if not consistent(self.value(a), self.value(b)):
                        return False
                    defined += 1
                except ZeroDivisionError:
                    continue  # one of them is undefined here
            if defined > (2 if integers else 1):
                return True
        return False

    def real_value(self, value: Expression) -> Fraction | None:
        """The value of a constant, as far as its digits go; None if it isn't real."""
        self.real = False
        number = self.value(value)
        if isinstance(number, Fraction | _MP.mpc):
            return number if isinstance(number, Fraction) else None
        return Fraction(_MP.nstr(number, DIGITS))

    def value(self, value: Value) -> Any:
        """The value at the point: a Fraction, an mpmath number, or a matrix of sympy's."""
        self.spend(1)
        if value.kind:
            return calculated(value, self.real_value, self.spend)
        if isinstance(value, Number):
            return value.value
        if isinstance(value, Symbol):
            return _CONSTANTS[value.name] if value.name in _CONSTANTS else self.point[value.name]
        if value.name in ("sum", "prod"):
            return self.series(value)
        args = [self.value(arg) for arg in value.args]
        if value.name.endswith("()"):  # whatever f is, it has one value at each argument
            seen = args[0] if isinstance(args[0], Fraction) else _MP.nstr(self.inexact(args[0]), 50)
            seed = random.Random(f"{value.name}{self.point[value.name]}{seen}")
            return Fraction(seed.randrange(500, 1000), seed.randrange(1000, 2000))
        rules = {"+": self.sum, "*": self.product, "^": self.power, "!": self.count, "binom": self.count}
        rules |= {"floor": self.floor, "ceil": lambda number: -self.floor(-number)}
        return rules[value.name](*args) if value.name in rules else self.function(value.name, *args)

    # -- limits -------------------------------------------------------------------------------------

    def spend(self, work: float) -> None:
        self.work += work
        if self.work > MAX_WORK:
            raise Unreadable("too much work")

    def exact(self, value: Fraction, power: int = 1) -> Fraction:
        """A rational number to a power, if it is of a size to reckon with."""
        bits = (value.numerator.bit_length() + value.denominator.bit_length()) * abs(power)
        if bits > MAX_EXACT_BITS:
            raise Unreadable("too large")
        self.spend((bits / 1500) ** 2)
        return value**power

    def inexact(self, value: Any) -> Any:
        """As an mpmath number, neither infinite nor huge nor so small that it would be lost in a sum."""
        if isinstance(value, Fraction):
            if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_ROUNDED_BITS:
                raise Unreadable("too many digits for a value that isn't rational")
            return _MP.mpf(value.numerator) / value.denominator
        self.spend(3)
        if self.real and isinstance(value, _MP.mpc):
            raise ZeroDivisionError
        if not _MP.isfinite(value) or (value and not -40 < _MP.mag(value) < MAX_ROUNDED_BITS):
            raise Unreadable("out of range")
        return value

    def settled(self, value: Any, scale: Any) -> Any:
        """A value, or exactly zero if it is nothing but rounding: sin(pi), sqrt(2)^2 - 2."""
        return Fraction(0) if abs(value) <= scale * _NOISE else self.inexact(value)

    def close(self, left: Any, right: Any) -> bool:
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return left == right
        if hasattr(left, "is_Matrix") or hasattr(right, "is_Matrix"):
            return same_entries(left, right)
        left, right = self.inexact(left), self.inexact(right)
        return abs(left - right) <= _TOLERANCE * max(abs(left), abs(right))

    # -- operations ---------------------------------------------------------------------------------

    def sum(self, *terms: Any) -> Any:
        if all(isinstance(term, Fraction) for term in terms):
            return reduce(lambda total, term: self.exact(total + term), terms)
        numbers = [self.inexact(term) for term in terms]
        return self.settled(_MP.fsum(numbers), max(map(abs, numbers)))

    def product(self, *factors: Any) -> Any:
        rational = [factor for factor in factors if isinstance(factor, Fraction)]
        exact = reduce(lambda total, factor: self.exact(total * factor), rational, Fraction(1))
        rest = [factor for factor in factors if not isinstance(factor, Fraction)]
        return self.inexact(_MP.fprod([self.inexact(exact), *rest])) if rest and exact else exact

    def power(self, base: Any, exponent: Any) -> Any:
        """Exact where it is rational; the odd root of a negative number is the real one."""
        if isinstance(exponent, Fraction) and exponent.denominator <= 100 and not isinstance(base, _MP.mpc):
            degree, power = exponent.denominator, exponent.numerator
            if base < 0 and degree % 2 and degree > 1:
                return (-1) ** power * self.power(-base, exponent)
            if isinstance(base, Fraction) and (base >= 0 or degree == 1):
                root = Fraction(_integer_root(base.numerator, degree), _integer_root(base.denominator, degree))
                if root**degree == base:
                    return self.exact(root, power)
        base, exponent = self.inexact(base), self.inexact(exponent)
        if abs(exponent) * (abs(_MP.mag(base)) + 1) > 2000:
            raise Unreadable("too high a power")
        self.spend(5)
        return self.inexact(_MP.power(base, exponent))

    def function(self, name: str, *args: Any) -> Any:
        if name == "abs" and isinstance(args[0], Fraction):
            return abs(args[0])
        numbers = [self.inexact(arg) for arg in args]
        exponential = name in ("exp", "sinh", "cosh", "tanh") or isinstance(numbers[0], _MP.mpc)
        if abs(numbers[0]) > (200 if exponential else 10**60):
            raise Unreadable("out of range")
        self.spend(10)
        return self.settled(_FUNCTIONS[name](*numbers), 1)

    def series(self, value: Op) -> Any:
        """A finite sum or product, term by term."""
        body, index, *bounds = value.args
        low, high = map(self.value, bounds)
        whole = all(isinstance(end, Fraction) and end.denominator == 1 for end in (low, high))
        if not whole or high - low >= MAX_TERMS:
            raise Unreadable("no short sum")
        outside, terms = self.point, []
        for k in range(int(low), int(high) + 1):
            self.point = outside | {index.name: Fraction(k)}
            terms.append(self.value(body))
        self.point = outside
        return self.sum(Fraction(0), *terms) if value.name == "sum" else self.product(*terms)

    def floor(self, number: Any) -> Fraction:
        """The largest integer up to a real number; what is an integer but for rounding is that one."""
        if isinstance(number, Fraction):
            return Fraction(math.floor(number))
        if isinstance(number, _MP.mpc):
            raise Unreadable("the floor of what is no real number")
        near = _MP.nint(number)
        return Fraction(int(near if abs(number - near) <= _NOISE * max(1, abs(near)) else _MP.floor(number)))

    def count(self, *numbers: Any) -> Fraction:
        """A factorial, or a binomial coefficient."""
        if not all(isinstance(n, Fraction) and n.denominator == 1 and n <= 2500 for n in numbers):
            raise Unreadable("no small integer")
        if min(numbers) < 0:
            raise ZeroDivisionError
        self.spend(50)
        function = math.factorial if len(numbers) == 1 else math.comb
        return self.exact(Fraction(function(*map(int, numbers))))


def _integer_root(value: int, degree: int) -> int:
    """The floor of the degree-th root, by Newton's method from above."""
    guess = 1 << -(-value.bit_length() // degree)
    while value and (better := ((degree - 1) * guess + value // guess ** (degree - 1)) // degree) < guess:
        guess = better
    return guess if value else 0
