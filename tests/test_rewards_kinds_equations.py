"""Equations, what stands left of an equals sign, and functions: generated."""

from __future__ import annotations

import pytest
from helpers_grading import graded, paid, small
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(-50, 50), st.integers(2, 9), st.integers(-9, 9), st.sampled_from("xnty"))
def test_a_solved_equation_is_no_other_equation_that_it_solves(value, a, b, x):
    solved, swapped = f"{x} = {value}", f"{value} = {x}"
    for other in (f"{a}{x} + {b} = {a * value + b}", f"{a}{x} = {a * value}", f"{x}/{a} = {value}/{a}"):
        assert not paid(solved, other)
    assert paid(solved, swapped) and paid(solved, str(value)) and not paid(solved, str(value + 1))
    assert not paid(solved, swapped.replace(x, "z"))


@given(st.integers(2, 50), st.integers(2, 9), st.sampled_from("xntk"))
def test_the_right_side_of_an_equation_that_is_not_solved_is_no_answer(value, a, x):
    for left in (f"{a}{x}", f"{x} + {a}", f"{x} - {a}", f"{x}/{a}", f"{x}^2", f"{a}a + b", f"{x}({x} - {a})", f"{x}!"):
        assert not graded(str(value), f"{left} = {value}") and not graded("0", f"{left} = 0"), left
    for left in (f"f({a})", f"f(g({a}))", f"f'({a})", f"a_{a}", "a + b", "|z|", "\\sin A", "P(A)"):
        assert graded(str(value), f"{left} = {value}") and not graded(str(value), f"{left} = {value + 1}"), left


@given(st.integers(-50, 50), st.integers(2, 9), st.sampled_from(["<", ">", "\\le", "\\ge"]))
def test_a_solved_inequality_is_no_other_one(value, a, sign):
    assert not paid(f"x {sign} {value}", f"{a}x {sign} {a * value}")
    assert paid(f"x {sign} {value}", f"x{sign} {value}")


@given(st.integers(1, 9), st.integers(1, 9), st.integers(-9, 9), st.integers(2, 5))
def test_a_line_is_any_equation_of_it(a, b, c, k):
    assert paid(f"{a}x + {b}y = {c}", f"{k * a}x + {k * b}y = {k * c}")
    assert paid(f"{a}x + {b}y = {c}", f"{b}y = {c} - {a}x") and not paid(f"{a}x + {b}y = {c}", f"{a}x + {b}y = {c + 1}")


@given(
    small,
    st.sampled_from(["f(3)", "f^{-1}(x)", "|z|", "m + n", "\\sin A", "\\angle ABC", "x^2 + y^2", "Total", "AB", "n"]),
)
def test_an_expression_on_the_left_names_what_is_asked(value, left):
    assert graded(value, f"{left} = {value}") and not graded(value, f"{left} = {value + 1}")


ASKED = [
    "\\gcd(12, 18)", "\\text{lcm}(4, 6)", "\\lfloor x \\rfloor", "\\lceil \\frac{x}{2} \\rceil", "P(A|B)",
    "P(X \\ge 2)", "\\det A", "\\max(a, b)", "\\sum_{i=1}^{n} i", "\\int_0^1 f(x)\\,dx", "\\lim_{x \\to 0} f(x)",
    "AB + BC", "AB/CD", "\\mathbb{E}[X]", "\\text{Var}(X)", "\\bar{z}", "|A \\cup B|", "7^{100} \\bmod 43", "C(10, 3)",
    "\\varphi(12)", "y'",
]  # fmt: skip
UNSOLVED = [
    "2 \\lfloor x \\rfloor", "\\lfloor x \\rfloor + 2", "x \\bmod 7", "3AB", "100 - AB", "not AB", "half of AB",
    "twice AB", "half \\gcd(a, b)", "maybe AB", "|x| - 1", "3\\gcd(a, b)", "AB = 3, CD", "5 - \\det A",
]  # fmt: skip


@given(small, st.sampled_from(ASKED), st.sampled_from(UNSOLVED))
def test_a_left_side_that_nothing_here_reads_is_a_name_unless_it_is_arithmetic(value, asked, unsolved):
    assert graded(value, f"{asked} = {value}") and not graded(value, f"{asked} = {value + 1}"), asked
    assert not graded(value, f"{unsolved} = {value}"), unsolved


@given(
    small,
    small,
    st.sampled_from(
        [
            "{a} + {b} = {c}",
            "m + n = {a} + {b} = {c}",
            "${a} + ${b} = ${c}",
            "{a} + {b} = {c} dollars",
            "{a} apples + {b} apples = {c} apples",
            "{c} - {b} = {a}",
            "x = {a} + {b} = {c}",
        ]
    ),
)
def test_a_true_chain_is_its_end_and_a_false_one_is_nothing(a, b, chain):
    text, end = chain.format(a=a, b=b, c=a + b), a if chain.startswith("{c}") else a + b
    assert graded(end, text)
    false = chain.format(a=a, b=b, c=a + b + 1)
    assert not graded(a + b + 1, false) and not graded(a + b, false)


CURVES = ["x^2 + y^2", "x + y - z", "x y", "\\frac{x^2}{4} + y^2", "|z|", "a x + b", "2^x", "\\sin x", "x^2"]
ODES = ["\\frac{d^2y}{dt^2} + 4y", "y'' + y", "\\ddot{x} + \\omega^2 x", "m\\ddot{x}", "\\nabla^2 u", "x y' + y"]


@given(st.integers(0, 99), st.sampled_from(CURVES))
def test_a_gold_that_is_an_equation_is_not_its_right_side(value, left):
    gold = f"{left} = {value}"
    assert not graded(gold, str(value)) and graded(gold, gold.replace(" = ", "=")), gold
    assert not graded(gold, f"{left} = {value + 1}")


@pytest.mark.parametrize("left", ODES)
def test_a_differential_equation_as_gold_is_not_its_right_side(left):
    assert not graded(f"{left} = 0", "0") and graded(f"{left} = 0", f"{left}=0")


@given(st.integers(2, 50), st.sampled_from(["x", "f(x)", "Total", "\\frac{dy}{dx}", "\\theta", "a_n", "f'(x)", "x_1"]))
def test_a_gold_whose_left_side_is_a_name_is_its_right_side(value, name):
    gold = f"{name} = {value}"
    assert graded(gold, str(value)) and not graded(gold, str(value + 1)), gold


RESTS = st.sampled_from(["", " e^{-kt}", " + at"])


@given(st.integers(0, 9), st.integers(10, 19), st.sampled_from("fghxyvPNIk"), RESTS)
def test_a_function_at_a_point_is_one_symbol(at, other, name, rest):
    gold = f"{name}({at}){rest}"
    assert graded(gold, f"{name}( {at} ){rest}")
    for wrong in (f"{name}({other}){rest}", f"{at}{name}{rest}", f"{name}{rest}", "0", f"z({at}){rest}"):
        assert not graded(gold, wrong), (gold, wrong)


@given(small, st.sampled_from("nxak"), st.integers(1, 9))
def test_brackets_around_more_than_a_number_are_a_product(a, x, b):
    assert paid(f"{x}({x} + {b})", f"{x}^2 + {b}{x}") and paid(f"{a}({x} + {b})", f"{a}{x} + {a * b}")
    assert not paid(f"f({x} + {b})", f"f({x}) + f({b})") and not paid(f"f(f({x}))", f"f({x})^2")
