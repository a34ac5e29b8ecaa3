"""Exact arithmetic on text, and nothing but arithmetic."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.solutions.arithmetic import compute, spell

# Expression trees as text, with their value by Python's Fraction.
NUMBERS = st.decimals(0, 10**6, places=2).map(lambda d: (str(d), Fraction(d))) | st.integers(0, 99).map(
    lambda i: (str(i), Fraction(i))
)


def _combine(children):
    def join(parts):
        (left, a), name, (right, b) = parts
        if name == "/" and b == 0:
            name = "-"
        value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else a}[name]
        return f"({left}) {name} ({right})", value

    negative = children.map(lambda child: (f"-({child[0]})", -child[1]))
    return st.tuples(children, st.sampled_from("+-*/"), children).map(join) | negative


@given(st.recursive(NUMBERS, _combine, max_leaves=12))
def test_trees(tree):
    text, value = tree
    assert compute(text)[0] == value
    assert compute(text.replace(" ", ""))[0] == value


@given(st.integers(1, 99), st.lists(st.tuples(st.sampled_from("+-*/"), st.integers(1, 99)), max_size=12))
def test_products_before_sums_and_from_left_to_right(first, pairs):
    terms = [Fraction(first)]  # what is to be added up; * and / change the last of them
    for sign, number in pairs:
        if sign in "+-":
            terms.append(Fraction(number if sign == "+" else -number))
        else:
            terms[-1] = terms[-1] * number if sign == "*" else terms[-1] / number
    value, steps = compute(str(first) + "".join(f"{sign}{number}" for sign, number in pairs))
    assert value == sum(terms)
    assert len(steps) == len(pairs)


def test_steps_are_said_in_the_order_they_are_done():
    assert compute("1 + 2 * -(3 - .5)")[1] == ["3 - 0.5 = 2.5", "2 * -2.5 = -5", "1 + -5 = -4"]
    assert compute("2/-4*8") == (-4, ["2 / -4 = -0.5", "-0.5 * 8 = -4"])
    assert compute("8-4-2") == (2, ["8 - 4 = 4", "4 - 2 = 2"])
    assert compute("1/3*3") == (1, ["1 / 3 = (1/3)", "(1/3) * 3 = 1"])
    assert compute("( 290.0 )") == (290, [])


BROKEN = ["", "1 +", "+1", "* 2", "1 2", "(1", "1)", "()", "(1)(2)", "2(3)", "-", "1-", "1..2"]
FOREIGN = ["x", "1,000", "2**3", "1e5", "1_0", "1 // 2", "1 % 2", "1=1", "\u0661", "__import__('os')"]


@pytest.mark.parametrize("text", [*BROKEN, *FOREIGN, "1 / 0", "1/(2-2)"])
def test_what_is_no_arithmetic(text):
    with pytest.raises(ValueError):
        compute(text)


@given(st.text("0123456789.+-*/() x", max_size=20))
def test_any_text_is_a_value_or_a_value_error(text):
    try:
        value, steps = compute(text)
    except ValueError:
        return
    assert isinstance(value, Fraction) and all(isinstance(step, str) for step in steps)


def test_deep_and_long_are_no_trouble():
    assert compute("(" * 50_000 + "1" + ")" * 50_000)[0] == 1
    assert compute("-" * 50_001 + "1")[0] == -1
    assert compute("+".join(["1"] * 20_000))[0] == 20_000


@given(st.fractions())
def test_spell_is_exact(value):
    assert Fraction(spell(value).strip("()")) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [("145.0", "145"), ("-.05", "-0.05"), ("1/8", "0.125"), ("-2/3", "(-2/3)"), ("0", "0"), ("1e3", "1000")],
)
def test_spell(value, text):
    assert spell(Fraction(value)) == text
