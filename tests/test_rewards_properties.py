"""What holds of the grader for any input: reflexive, deterministic, total, and safe in threads."""

from __future__ import annotations

import pickle
import random
import sys
import threading
from fractions import Fraction
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.answer import GradingConfig, equivalent, extract_answer
from rewards.grader.answer import read
from rewards.grader.values import Unreadable
from rewards.grader.writing import spelled
from rewards.text import split_sections

sys.path.insert(0, str(Path(__file__).parent))
from fuzz_answer import random_expression

SEEDS = st.integers(0, 2**32)
integers = st.integers(-(10**30), 10**30)
expressions = st.builds(lambda seed, size: random_expression(random.Random(seed), size), SEEDS, st.integers(1, 25))


@given(st.text(max_size=300))
def test_any_text_is_equivalent_to_itself(text):
    missing = text.strip().casefold() in ("", "nan", "null")
    assert equivalent(text, text) is not missing
    assert equivalent(text, f" {text}\n") is not missing


@given(st.one_of(st.text(max_size=60), expressions), st.one_of(st.text(max_size=60), expressions))
def test_deterministic(a, b):
    first = equivalent(a, b)
    read.cache_clear()
    assert equivalent(a, b) == first


@given(st.builds(lambda seed: random_expression(random.Random(seed), 6), SEEDS), st.integers(0, 99))
def test_a_gold_may_leave_undone_what_an_answer_may_not(text, value):
    """Whether a value is paid for a gold left undone is what the other order pays once that is allowed."""
    undone = GradingConfig(unevaluated=True)
    assert equivalent(text, str(value)) == equivalent(text, str(value), undone)
    if "=" not in text and "<" not in text and "le" not in text:
        assert equivalent(text, str(value)) == equivalent(str(value), text, undone)


@given(expressions)
def test_typography_changes_nothing(text):
    try:
        read(spelled(text))  # "\\pi" and "e" side by side are an unknown command
    except Unreadable:
        return
    if "boxed" not in text:
        spaced = text.replace("+", " + ").replace("\\frac", "\\dfrac").replace("(", "\\left(").replace(")", "\\right)")
        assert equivalent(text, f"${spaced}$")
        assert equivalent(f"\\boxed{{{text}}}", text)


@given(integers, integers)
def test_integers_are_exact(a, b):
    for form in (f"{b}", f"{b:,}", f"{b}.0", f"${b}$", f"x = {b}", f"\\text{{{b}}}", f"{b} apples"):
        assert equivalent(str(a), form) == (a == b)
    assert not equivalent(str(a), f"{a}.5")


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_fractions_are_exact(a, b):
    forms = [f"{b.numerator}/{b.denominator}", f"\\frac{{{b.numerator}}}{{{b.denominator}}}"]
    if b.denominator != 1:
        forms.append(f"\\frac{{{3 * b.numerator}}}{{{3 * b.denominator}}}")
    for form in forms:
        assert equivalent(str(a), form) == (a == b)


@given(st.fractions(min_value=-100, max_value=100, max_denominator=99), st.integers(6, 12))
def test_a_decimal_stands_for_the_fraction_it_is_rounded_from(value, digits):
    scaled = round(value * 10**digits)
    text = f"{'-' if scaled < 0 else ''}{abs(scaled) // 10**digits}.{abs(scaled) % 10**digits:0{digits}d}"
    exact = Fraction(scaled, 10**digits) == value
    if exact or (abs(value) > Fraction(1, 10) and Fraction(text).denominator != 1):
        assert equivalent(str(value), text) == (exact or value.denominator != 1)
    assert not equivalent(str(value + Fraction(1, 1000)), text)


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=6), st.randoms())
def test_sets_have_no_order_and_tuples_do(items, rng):
    shuffled = rng.sample(items, len(items))
    braces = "\\{%s\\}"
    assert equivalent(braces % ", ".join(map(str, items)), braces % ",".join(map(str, shuffled)))
    tuples = [f"({', '.join(map(str, each))})" for each in (items, shuffled)]
    assert equivalent(*tuples) == (items == shuffled)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=5), st.integers(-3, 3))
def test_polynomials_by_their_values(coefficients, change):
    terms = [f"({c})x^{{{k}}}" for k, c in enumerate(coefficients)]
    horner = "0"
    for c in reversed(coefficients):
        horner = f"({horner})x+({c})"
    assert equivalent("+".join(terms) + f"+{change}y", f"{horner} + y") == (change == 1)


@given(st.text(max_size=400), st.booleans())
def test_extraction_takes_at_most_one_answer(text, require_tags):
    answer = extract_answer(text, require_tags=require_tags)
    assert answer is None or (answer == answer.strip() and answer in text)
    assert split_sections(text).answer is None or text.count("<answer>") == text.count("</answer>") == 1


@settings(max_examples=30)
@given(expressions)
def test_values_and_settings_can_be_pickled(text):
    assert pickle.loads(pickle.dumps(GradingConfig(rounded=True))) == GradingConfig(rounded=True)
    try:
        value = read(spelled(text))
    except Unreadable:
        return
    assert pickle.loads(pickle.dumps(value)) == value


def test_threads_agree_with_one():
    rng = random.Random(0)
    pairs = [(random_expression(rng, 8), random_expression(rng, 8)) for _ in range(150)]
    pairs += [
        ("\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}"),
        ("\\sin(\\pi/6)x", "x/2"),
        ("10^{40}+\\pi", "\\pi+10^{40}"),
    ] * 9
    expected, results = [equivalent(*pair) for pair in pairs], []

    def grade() -> None:
        results.append([equivalent(*pair) for pair in pairs])

    threads = [threading.Thread(target=grade) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 6
