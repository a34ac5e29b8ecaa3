"""A sentence is read by what it says."""

from __future__ import annotations

from helpers_grading import graded, small
from hypothesis import given
from hypothesis import strategies as st


@given(
    small,
    st.sampled_from(
        [
            "The area is {}.",
            "So, the total is {}.",
            "Total: {}",
            "He has {} apples.",
            "The cost is ${}",
            "Therefore, {}.",
            "so {}",
            "x is {}",
            "She sold {} clips altogether in April and May.",
            "It takes {} minutes to get there.",
            "The train travels {} miles per hour.",
            "In total, {} people came.",
            "{} is the answer.",
            "“{}”",
            "{\\bf {}}",
            "\\fbox{{}}",
            "\\boxed {{}}",
            "{} ✓",
            "{} \\qquad \\blacksquare",
            "{}, because the rest is gone.",
        ]
    ),
)
def test_a_sentence_whose_only_number_can_be_meant(value, sentence):
    assert graded(value, sentence.replace("{}", str(value))) and not graded(
        value + 1, sentence.replace("{}", str(value))
    )


@given(
    small,
    st.sampled_from(
        [
            "It is less than {}.",
            "There are about {}.",
            "It is not {}.",
            "The total is {} or more.",
            "He has two bags of {}.",
            "The area is {} thousand.",
            "It was {} minutes past.",
            "It is {} million",
            "Up to {} people came.",
            "The total divided by {}.",
            "It is a multiple of {}.",
            "Half of {}.",
            "The square of {}.",
            "The number of divisors of {}.",
            "He ate {} and she ate 30.",
            "{} is too high.",
            "Maybe {} is the answer.",
            "It may be {}.",
            "{}, because it is not 5.",
        ]
    ),
)
def test_a_sentence_that_doubts_or_multiplies_its_number(value, sentence):
    assert not graded(value, sentence.replace("{}", str(value)))


SAYING = [
    "In the end there are {}.", "We get {}.", "So there are {} ways.", "Tom's total is {}.",
    "The number of apples is {}.", "{} apples, altogether.", "{} in total",
    "Each child gets {} candies.", "Sam and Tom have {} coins in total.",
    "Therefore, the answer is {}.", "The value of the expression is ${}$.",
    "答案是{}", "所以答案为{}。", "The solution is {}.",
]  # fmt: skip
NOT_SAYING = [
    "Nobody got {}.", "The sum of {} and itself.", "{} incorrectly", "{} approx", "I doubt it is {}.", "It exceeds {}.",
    "It fails to reach {}.", "He denies that it is {}.", "{} wrongly", "The teacher said {}.", "It rounds to {}.",
    "Anything but {}", "{}ish", "{} or thereabouts", "She expected {}.", "It used to be {}.", "Who has {}?",
    "答案不是{}",
    "The opposite of the answer is {}.", "If x is {}, then it holds.", "Everyone but Ann has {}.", "It ought to be {}.",
]  # fmt: skip


@given(small, st.sampled_from(SAYING), st.sampled_from(NOT_SAYING))
def test_a_sentence_is_paid_for_what_it_says_and_nothing_else(value, saying, other):
    assert graded(value, saying.replace("{}", str(value))) and not graded(value + 1, saying.replace("{}", str(value)))
    assert not graded(value, other.replace("{}", str(value)))


REASONS = st.sampled_from(["because it is even", "it converges", "f jumps"])


@given(st.sampled_from(["yes", "no", "true", "false"]), REASONS)
def test_a_verdict_with_a_reason_is_the_verdict(word, reason):
    other = {"yes": "no", "no": "yes", "true": "false", "false": "true"}[word]
    for text in (f"{word.capitalize()}, {reason}.", f"{word}. {reason.capitalize()}."):
        assert graded(word, text) and graded(text, word) and not graded(other, text) and not graded(text, other)
    assert not graded(word, f"{word} or {other}") and not graded(word, f"{word}. Wait, {other}.")


CLAUSES = st.sampled_from(["", " \\text{ for all } x", ", k \\in \\mathbb{Z}"])


@given(st.sampled_from(["f(x) = 2x", "n = 3k", "x^2 + C"]), CLAUSES)
def test_a_clause_about_letters_may_be_left_out(answer, clause):
    assert graded(answer, answer + clause) and graded(answer + clause, answer)
    assert not graded(answer, answer.replace("2x", "3x").replace("3k", "2k").replace("+", "-") + clause)
    assert not graded("n = 3k, k \\in \\mathbb{N}", "n = 3k, k \\in \\mathbb{Z}")
