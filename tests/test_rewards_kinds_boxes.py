# ruff: noqa: RUF001
"""What stands in and around a box, and where an answer may be."""

from __future__ import annotations

import pytest
from helpers_grading import graded, small
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.answer import extract_answer


@given(
    small,
    st.sampled_from(
        [
            "${}$",
            "\\[{}\\]",
            "**{}**",
            "So the answer is {}.",
            "x = {}",
            "Thus $x = {}$.",
            "{} apples",
            "In May she sold half; in all {}.",
            "It does not rain. Hence {}",
            "({})",
        ]
    ),
)
def test_a_box_in_a_sentence_is_what_it_holds(value, around):
    answer = around.replace("{}", f"\\boxed{{{value}}}")
    assert graded(value, answer) and not graded(value + 1, answer)


@given(
    st.integers(4, 99),
    st.sampled_from(
        [
            "-{}",
            "1{}",
            "\\sqrt{{}}",
            "{}\\%",
            "{}!",
            "{}\\pi",
            "{} million",
            "{}^2",
            "2\\cdot{}",
            "{} or 1",
            "{}. Wait, it is 1",
            "{} dozen",
            "not {}",
            "{}0",
            "either {} or \\boxed{1}",
            "{}, no, \\boxed{1}",
        ]
    ),
)
def test_what_stands_around_a_box_counts(value, around):
    answer = around.replace("{}", f"\\boxed{{{value}}}", 1)
    assert not graded(value, answer)


@given(
    st.integers(4, 99),
    st.sampled_from(
        ["twice", "half of", "the square root of", "the opposite of", "minus", "at least", "about", "under"]
    ),
    st.sampled_from(["below zero", "degrees below zero", "in base five", "to the power of two", "and five", "gross"]),
)
def test_words_next_to_a_box_that_change_its_number(value, before, after):
    box = f"\\boxed{{{value}}}"
    for answer in (f"{before} {box}", f"It is {before} ${box}$", f"{box} {after}", f"0.{box}"):
        assert not graded(value, answer), answer
    for answer in (f"It has half as many; so {box}", f"The base is even. {box} apples in all", f"1+1=2. {box}"):
        assert graded(value, answer) and not graded(value + 1, answer), answer


@given(small, st.integers(2, 9))
def test_what_is_left_of_a_box_or_between_two_counts(value, a):
    box = f"\\boxed{{{value}}}"
    wrong = [f"{a}x = {box}", f"x - {a} = {box}", f"\\frac{{x}}{{{a}}} = {box}", f"x{box}", f"f({box})", f"x_{{{box}}}"]
    wrong += [f"{a}, {box}", f"{a} and {box}", f"x = {a}, x = {box}", f"{box}+{box}", box + box]
    wrong += [f"{a} * {box}", f"{box} * {a}", f"**{a} * {box}**"]
    wrong += [f"{box} \\text{{ million}}", f"{box} thousand dollars", f"{box}. Correction: it is less"]
    for answer in wrong:
        assert not graded(value, answer), answer
    assert not graded(f"{a}{value}", f"{a} * {box}") and not graded(f"{value}{a}", f"{box} * {a}")
    right = [f"f({a}) = {box}", f"{a} + {value - a} = {box} clips in May", f"P(A) = {box}", f"{box}\\text{{ cm}}"]
    for answer in [*right, f"{box} and again {box}"]:
        assert graded(value, answer) and not graded(value + 1, answer), answer
    assert graded(1000 * value, f"{box} \\text{{ thousand}}")


@settings(max_examples=30)
@given(small, st.sampled_from(["<think>{}", "so <think> it is {}", "</think> <think> then {}"]))
def test_a_thought_that_never_ends_holds_no_answer(value, text):
    for answer in (f"\\boxed{{{value}}}", f"#### {value}", f"The answer is {value}"):
        assert extract_answer(text.replace("{}", answer), require_tags=False) is None
        assert extract_answer(f"<think>so</think> {answer}", require_tags=False) == str(value)


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("\\frac{3}{3}", "1", True),
        ("\\frac{84}{2}", "42", True),
        ("42", "84/2", False),
        ("June 20", "20", False),
        ("4", "x + \\boxed{4}", False),
        ("42", "42 = x", True),
        ("42", "42 = 6 \\cdot 7", True),
        ("1/3", "0.333...", True),
        ("1/3", "0.(3)", True),
        ("1/3", "0.333", False),
        ("\\alpha", "α", True),
        ("\\lambda", "λ", True),
        ("5", "B) 5", False),
        ("B", "B)", True),
        ("B", "(b)", True),
        ("52_8", "(52)_8", True),
        ("an ellipse", "ellipse", True),
        ("ellipse", "hyperbola", False),
    ],
)
def test_decided_cases(gold, answer, same):
    assert graded(gold, answer) == same
