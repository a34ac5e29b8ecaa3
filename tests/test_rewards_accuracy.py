"""Right answers are paid, others are not, whatever they look like."""

from __future__ import annotations

import pytest

from rewards import RewardError, accuracy_reward
from rewards.accuracy import gold_answer
from rewards.answer import equivalent, extract_answer

SAME = [
    ("42", "42.0"),
    ("42", "+42"),
    ("1200", "1,200"),
    ("10{,}000", "10000"),
    ("18", "\\$18.00"),
    ("0.5", "\\frac{1}{2}"),
    ("0.5", "\\dfrac12"),
    ("-2/3", "-\\frac{2}{3}"),
    ("918.5", "918\\frac{1}{2}"),
    ("42", "4.2e1"),
    ("0.25", "25%"),
    ("42", "\\boxed{42}"),
    ("42", "The answer is 42."),
    ("even", "\\text{even}"),
]
DIFFERENT = [
    ("42", "43"),
    ("42", "-42"),
    ("42", "\u221242"),
    ("42", "42%"),
    ("42", "42,000"),
    ("42", "4,2"),
    ("42", "4_2"),
    ("42", "0x2A"),
    ("42", "4 2"),
    ("42", "41, 42"),
    ("42", "\\boxed{41} \\boxed{42}"),
    ("42", "not 42"),
    ("42", "nan"),
    ("nan", "nan"),
    ("", ""),
    ("42", "1e999"),
    ("1/2", "1/0"),
    ("even", "odd"),
    ("1000", "1,00,0"),
]


def tagged(answer):
    return f"<think>6 x 7</think><answer>{answer}</answer>"


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_same(gold, answer):
    assert equivalent(gold, answer) and equivalent(answer, gold)
    assert accuracy_reward([tagged(answer)], answer=[gold]) == [1.0]


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different(gold, answer):
    assert not equivalent(gold, answer) and not equivalent(answer, gold)
    assert accuracy_reward([tagged(answer)], answer=[gold]) == [0.0]


def test_the_gold_column():
    worked = "16 - 3 - 4 = 9\n9 * 2 = 18\n#### 18"
    assert gold_answer(worked) == "18"
    assert gold_answer("So it is $\\boxed{\\frac{1}{2}}$.") == "\\frac{1}{2}"
    assert accuracy_reward([tagged("18")], answer=[worked]) == [1.0]
    assert accuracy_reward([tagged("18")], solution=[worked]) == [1.0]
    assert accuracy_reward([tagged("18")] * 2, answer=["18", None], solution=["17", "18"]) == [1.0, 1.0]
    assert accuracy_reward([tagged("18")]) == [None]
    assert accuracy_reward([tagged("18")], answer=[18]) == [1.0]  # a JSON number


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{41}\nNo: \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("so\n#### 42\n", "42"),
        ("The answer is 42.", "42"),
        ("\\boxed{41} or \\boxed{42}", None),
        ("I give up.", None),
        ("\\boxed{42", None),
        ("So $x = \\boxed{42}$. Q: What is 3 + 3?", "x =42"),
        ("So it is $-\\boxed{42}$.", "-42"),
        ("It is \\boxed{42} million.", "42 million"),
        ("2 * \\boxed{21}", "2 *21"),
        ("2x = \\boxed{10}", "2x =10"),
        ("The discount is $\\boxed{42}\\%$.", "42\\%"),
        ("\\boxed{42} or 43", None),
        ("41 or \\boxed{42}", None),
        ("I doubt that it is \\boxed{42}.", None),
        ("Suppose the answer is 42.", None),
        ("You asked whether the answer is 42.", None),
        ("Hence the answer is 42.", "42"),
        ("6*7 = 42\n\n**Answer:** 42", "** 42"),
    ],
)
def test_without_tags(text, answer):
    assert extract_answer(text, require_tags=False) == answer
    assert extract_answer(text) is None
    assert accuracy_reward([text], answer=["42"]) == [0.0]


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think><answer>41</answer><answer>\\boxed{42}</answer>",
        "<think>a</think><answer>\\boxed{42}",
        "<think>a</think>\\boxed{42}</answer>",
        "<think>It is \\boxed{42}.</think> I give up.",
    ],
)
def test_what_tags_withhold_the_untagged_rules_do_not_pay(text):
    assert extract_answer(text, require_tags=False) is None


@pytest.mark.parametrize(
    "attack", ["9**9**9**9", "{" * 100_000, "1" * 100_000, "__import__('os')", "42\ud800", "1e9999"]
)
def test_attacks_earn_nothing_and_raise_nothing(attack):
    assert accuracy_reward([tagged(attack)], answer=["42"]) == [0.0]
    assert equivalent(attack, "42") is False


def test_grading_policies_are_settings():
    assert accuracy_reward([tagged("25")], answer=["25%"]) == [0.0]
    assert accuracy_reward([tagged("25")], answer=["25%"], grading={"percent": "optional"}) == [1.0]
    with pytest.raises(RewardError, match="did you mean 'percent'"):
        accuracy_reward([tagged("25")], answer=["25%"], grading={"percents": "optional"})
    with pytest.raises(RewardError, match="exact or optional"):
        accuracy_reward([tagged("25")], answer=["25%"], grading={"percent": "maybe"})
