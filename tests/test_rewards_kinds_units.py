# ruff: noqa: RUF001
"""Units, money and words that multiply a number, generated."""

from __future__ import annotations

from helpers_grading import graded, numbers, paid, small
from hypothesis import assume, given
from hypothesis import strategies as st

UNITS = [
    "cm",
    "m",
    "km",
    "kg",
    "g",
    "lbs",
    "mins",
    "hours",
    "GB",
    "inches",
    "ft",
    "miles",
    "dollars",
    "°C",
    "m/s",
    "km/h",
    "m²",
    "cm^2",
    "\\text{ cm}^{2}",
    "\\mbox{ m}^3",
    "\\text{ meters}",
    "square feet",
    "sq. ft.",
    "sq. m",
    "J/kg",
    "kg m/s",
    "^\\circ\\text{C}",
    "\\frac{\\text{m}}{\\text{s}}",
    "cubic meters",
    "mph",
]


@given(numbers, st.sampled_from(UNITS), st.sampled_from(["", " ", "\\,", "~"]))
def test_a_unit_may_be_left_out_in_any_spelling(value, unit, space):
    assume(
        space
        or not unit.startswith(("m", "g", "J", "kg m", "in", "ft", "dollars", "sq", "cubic"))
        or unit in ("mins", "mph")
    )
    assert graded(value, f"{value}{space}{unit}") and not graded(value + 1, f"{value}{space}{unit}")


@given(numbers, st.sampled_from(["m/n", "\\frac{m}{n}", "s/t", "h k", "V W", "m n", "g/x", "mk"]))
def test_letters_that_are_no_units_count(value, letters):
    assert not paid(str(value), f"{value} {letters}")


@given(
    numbers,
    st.sampled_from([("cm", "inches"), ("kg", "lbs"), ("m", "m^2"), ("£", "lbs"), ("m/s", "mph"), ("GB", "MB")]),
)
def test_two_units_are_two_answers(value, units):
    first, second = (f"£{value}" if unit == "£" else f"{value} {unit}" for unit in units)
    assert not graded(first, second) and graded(first, first)


@given(
    numbers,
    st.sampled_from(
        [
            "${}",
            "\\${}",
            "US${}",
            "USD {}",
            "Rs. {}",
            "€{}",
            "${}/day",
            "${} a day",
            "${} per day",
            "= {}",
            "{} (apples)",
            "#### {}",
            "**Answer**: {}",
            '"{}"',
            "{}.",
            "The answer is {}.",
        ]
    ),
)
def test_money_rates_and_markdown(value, around):
    assert graded(value, around.replace("{}", str(value))) and not graded(value + 1, around.replace("{}", str(value)))


@given(small, st.sampled_from(["-${}", "−${}", "-\\${}", "-{}^\\circ", "-{}°"]))
def test_signs_before_money_and_degrees(value, around):
    answer = around.replace("{}", str(value))
    assert graded(-value, answer) and not graded(value, answer)


SCALES = {
    "thousand": 1000,
    "thousands": 1000,
    "million": 10**6,
    "millions": 10**6,
    "dozen": 12,
    "hundreds": 100,
    "lakh": 10**5,
    "crore": 10**7,
    "billion": 10**9,
}


@given(small, st.sampled_from(sorted(SCALES)))
def test_a_scale_word_multiplies(value, word):
    assert not graded(value, f"{value} {word}") and graded(value * SCALES[word], f"{value} {word}")


@given(
    small,
    st.sampled_from(
        ["halves", "thirds", "tenths", "hundredths", "percent", "per cent", "pct", "%", "degrees below zero"]
    ),
)
def test_a_part_is_not_the_whole(value, word):
    assert not graded(value, f"{value} {word}")


PHYSICS = [
    "\\text{ A}", "\\ \\Omega", " nm", "\\text{ km s}^{-1}", "\\text{ N}\\cdot\\text{m}", "\\mathrm{~F}",
    " \\mu\\text{m}", " kWh", "\\text{ rad/s}", "\\,\\text{m/s}^2", "\\text{ kg m}^2", " ohms",
]  # fmt: skip


@given(small, st.sampled_from(PHYSICS))
def test_units_of_physics_may_be_left_out_but_not_changed(value, unit):
    assert graded(value, f"{value}{unit}") and not graded(value + 1, f"{value}{unit}")
    assert not graded(value, f"{value} \\times 10^{{-3}}{unit}")
    assert graded(f"{value}{unit}", f"{value}{unit}") and not graded(f"{value} \\text{{ mA}}", f"{value} \\text{{ kA}}")
    assert not graded(f"{value} mW", f"{value} MW")
