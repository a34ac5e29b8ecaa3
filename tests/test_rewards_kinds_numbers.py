# ruff: noqa: RUF001
"""Lists, separators, decimals, Unicode fractions and arithmetic left undone, generated."""

from __future__ import annotations

import math

from helpers_grading import graded, paid, small
from hypothesis import assume, given
from hypothesis import strategies as st


@given(st.integers(1, 999), st.integers(1, 99))
def test_a_number_with_a_separator_is_no_list(head, tail):
    number, group = head * 1000 + tail, f"{tail:03}"
    for spelling in (f"{head},{group}", f"{head}{{,}}{group}", f"{head}\\,{group}", f"{head}\u2009{group}"):
        assert paid(str(number), spelling)
    for listed in (f"{head}, {tail}", f"{tail}, {head}", f"{head} and {tail}"):
        assert not paid(f"{head},{group}", listed)


@given(st.lists(small, min_size=2, max_size=4, unique=True), st.randoms())
def test_lists_have_no_order_and_no_other_members(values, random):
    other = random.sample(values, len(values))
    assert paid(", ".join(map(str, values)), " and ".join(map(str, other)))
    assert not paid(", ".join(map(str, values)), ", ".join(map(str, [*values[:-1], 100])))


@given(st.integers(1, 999), st.integers(0, 999), st.integers(1, 99))
def test_the_decimal_comma_is_a_setting_as_a_whole(head, group, cents):
    cents = cents if cents % 10 else cents + 1
    point, comma = f"{head}{group:03}.{cents:02}", f"{head}.{group:03},{cents:02}"
    assert paid(point, comma.replace(".", "").replace(",", "."))
    assert paid(comma, f"{head}{group:03},{cents:02}", decimal_comma=True)
    assert not paid(comma, f"{head}.{group:03},{cents:02}1", decimal_comma=True)
    assert paid(f"{head}.{group:03}", f"{head}{group:03}", decimal_comma=True)
    assert paid(comma.replace(".", " "), point, decimal_comma=True)
    assert paid(f"0,{group:03}", f"0.{group:03}", decimal_comma=True)
    assert not paid(f"0,{group:03}", str(group)) and (
        group == 0 or not paid(f"0,{group:03}", str(group), decimal_comma=True)
    )


VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¾": "3/4", "⅕": "1/5", "⅞": "7/8"}


@given(st.integers(1, 50), st.sampled_from(sorted(VULGAR)), st.integers(1, 9))
def test_unicode_fractions_exponents_and_roots(whole, sign, digit):
    top, bottom = map(int, VULGAR[sign].split("/"))
    assert paid(f"{whole}{sign}", f"\\frac{{{whole * bottom + top}}}{{{bottom}}}") and not paid(
        f"{whole}{sign}", str(whole)
    )
    assert paid(f"x{'⁰¹²³⁴⁵⁶⁷⁸⁹'[digit]}", f"x^{digit}") and paid(f"x{'₀₁₂₃₄₅₆₇₈₉'[digit]}", f"x_{digit}")
    assert paid(f"{digit}.5×10⁻{'⁰¹²³⁴⁵⁶⁷⁸⁹'[digit]}", f"{digit}.5 \\times 10^{{-{digit}}}")
    assert paid(f"∛{whole}", f"\\sqrt[3]{{{whole}}}") and paid(f"√{whole}", f"\\sqrt{{{whole}}}")


@given(st.integers(1, 10**9), st.integers(3, 999), st.integers(1, 6))
def test_a_decimal_stands_for_a_value_only_correctly_rounded_or_cut_off(top, bottom, places):
    assume(top % bottom and 10 ** (6 - places) <= top // bottom)  # seven digits or more: near enough
    cut, rest = divmod(top * 10**places, bottom)
    assume(rest and cut % 10**places not in (0, 10**places - 1))
    value, text = f"\\frac{{{top}}}{{{bottom}}}", lambda n: f"{n // 10**places}.{n % 10**places:0{places}}"
    rounded = cut + (2 * rest >= bottom)
    assert graded(value, text(cut)) and graded(value, text(rounded))
    assert not graded(value, text(cut - 1)) and not graded(value, text(cut + 2)), value
    assert graded(value, text(cut + 1)) == (rounded == cut + 1)


@given(st.integers(1, 10**12), st.integers(1, 8), st.sampled_from([1, -1]))
def test_two_decimals_are_compared_digit_by_digit(whole, digit, step):
    assert not graded(f"{whole}.{digit}", f"{whole}.{digit + step}") and graded(f"{whole}.{digit}", f"{whole}.{digit}0")
    assert not graded(f"{whole}.{digit}", f"{whole + step}.{digit}")


@given(small, small, st.sampled_from("+-*/!"))
def test_a_gold_may_leave_arithmetic_undone_and_an_answer_may_not(a, b, sign):
    left = {"+": f"{a} + {b}", "-": f"{a} - {b}", "*": f"{a} \\cdot {b}", "/": f"{a * b} / {b}", "!": f"{a % 9}!"}[sign]
    factorial = math.factorial(a % 9)
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a, "!": factorial}[sign]
    assert graded(left, str(value)) and not graded(left, str(value + 1)) and not graded(value, left)
