"""Cold-start responses: well formed, faithful to the solution, and what they check is true."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import ColdStartConfig, DataConfig, DataError, Problem, load_problems, response_text
from data.solutions.coldstart import true_steps
from rewards import accuracy_reward, format_reward
from rewards.reflection import count_reflections

ALWAYS = ColdStartConfig(reflect_share=1.0)
NEVER = ColdStartConfig(reflect_share=0.0)
ANNOTATED = "Half is 48/2 = <<48/2=24>>24.\nNothing here.\nAll: 48+24 = <<48+24=72>>72."
PLAIN = "Half is 48/2 = 24.\nNothing here.\nAll: 48+24 = 72."


def gsm8k(number: int = 0, annotated: str = ANNOTATED) -> Problem:
    return Problem(
        f"gsm8k/train/{number}",
        "q",
        "72",
        re.sub("<<.*?>>", "", annotated),
        {"annotated_solution": annotated},
    )


def svamp(equation: str, answer: str) -> Problem:
    return Problem("svamp/test/0", "q", answer, equation)


def test_worked_solution_in_tags():
    assert response_text(gsm8k(), NEVER) == f"<think>\n{PLAIN}\n</think>\n<answer>72</answer>"


def test_a_check_follows_the_line_that_it_checks():
    first = "Half is 48/2 = 24.\nWait, let me check: 48 / 2 = 24. Yes.\nNothing here.\nAll: 48+24 = 72."
    second = "Half is 48/2 = 24.\nNothing here.\nAll: 48+24 = 72.\nWait, let me check: 48 + 24 = 72. Yes."
    texts = {response_text(gsm8k(number), ALWAYS) for number in range(30)}
    assert texts == {f"<think>\n{thought}\n</think>\n<answer>72</answer>" for thought in (first, second)}


def test_wording_is_configurable():
    config = ColdStartConfig(1.0, check="Hmm: {computation}?")
    assert "Hmm: 48 / 2 = 24?" in response_text(gsm8k(annotated="a <<48/2=24>>24"), config)


def test_share_and_determinism():
    config = ColdStartConfig(reflect_share=0.3)
    texts = [response_text(gsm8k(number), config, seed=1) for number in range(1000)]
    share = sum("Wait" in text for text in texts) / 1000
    assert 0.25 < share < 0.35  # 3.4 standard deviations
    order = list(reversed(range(1000)))
    assert [response_text(gsm8k(number), config, seed=1) for number in order] == texts[::-1]
    assert [response_text(gsm8k(number), config, seed=2) for number in range(1000)] != texts


@pytest.mark.parametrize(
    "annotated",
    [
        "no annotation",
        "wrong <<48/2=25>>25",
        "rounded <<100/3=33.33>>33.33",
        "none <<72=72>>72",
        "bad <<4x=1>>",
        "empty <<=>>",
        "a third <<1/3*3=1>>1",
        "zero <<1/0=1>>1",
        "code <<__import__('os')=1>>",
    ],
)
def test_only_true_computations_are_checked(annotated):
    text = response_text(gsm8k(annotated=annotated), ALWAYS)
    assert text == response_text(gsm8k(annotated=annotated), NEVER)


@given(st.integers(-99, 99), st.sampled_from("+-*/"), st.integers(-9, 9), st.integers(-200, 200))
def test_a_claim_is_stated_only_if_true(left, sign, right, claimed):
    steps = true_steps(f"{left}{sign}({right})={claimed}")
    if sign == "/" and right == 0:
        assert steps == []
        return
    value = {"+": left + right, "-": left - right, "*": left * right, "/": Fraction(left, right or 1)}[sign]
    assert bool(steps) == (value == claimed)


def test_longer_computations_are_checked_step_by_step():
    assert "check: 16 - 3 = 13, 13 - 4 = 9. Yes." in response_text(gsm8k(annotated="<<16-3-4=9>>9"), ALWAYS)


@pytest.mark.parametrize(
    ("equation", "answer", "thought"),
    [
        ("( 290.0 / 2.0 )", "145", "290 / 2 = 145."),
        ("( ( 4.0 - 2.0 ) + 3.0 )", "5", "4 - 2 = 2.\n2 + 3 = 5."),
        ("( ( 4.0 - 2.0 ) + 3.0 )", "1", "( ( 4.0 - 2.0 ) + 3.0 )"),
        ("8.0", "8", "8.0"),
    ],
)
def test_an_equation_becomes_its_steps_if_it_gives_the_gold(equation, answer, thought):
    assert response_text(svamp(equation, answer), NEVER) == f"<think>\n{thought}\n</think>\n<answer>{answer}</answer>"


def test_an_equation_is_checked():
    text = response_text(svamp("( 290.0 / 2.0 )", "145"), ALWAYS)
    assert "290 / 2 = 145.\nWait, let me check: 290 / 2 = 145. Yes.\n</think>" in text
    assert "Wait" not in response_text(svamp("( 4.0 + 3.0 )", "1"), ALWAYS)


def test_a_whole_response_is_taken_as_it_is():
    for problem in load_problems(DataConfig(source="demo", count=20)):
        assert response_text(problem, ALWAYS) == problem.solution


@pytest.mark.parametrize("solution", ["7 + 5 = 2. So 2.", "<think>7 + 5 = 12", "<<7+5=12>>12"])
def test_as_it_is_teaches_the_solution_and_nothing_else(solution):
    assert response_text(Problem("x/y/0", "q", "12", solution), ColdStartConfig(1.0, as_it_is=True)) == solution


@pytest.mark.parametrize(
    "solution",
    [
        "<think>a",
        "a</answer>",
        "<answer>1</answer><think>a</think>",
        "<think>a</think><answer>1</answer> more",
        "<think>a</think><answer>1</answer><answer>2</answer>",
        "x <think>a</think><answer>1</answer>",
    ],
)
def test_stray_tags_are_refused(solution):
    with pytest.raises(DataError, match="problem x/y/0: the solution or answer has tags, but is no whole response"):
        response_text(Problem("x/y/0", "q", "1", solution), NEVER)


def test_a_tag_in_the_answer_is_refused():
    with pytest.raises(DataError, match="has tags"):
        response_text(Problem("x/y/0", "q", "1</answer>", "a"), NEVER)


def test_no_solution():
    with pytest.raises(DataError, match=r"x/y/0 has no worked solution to learn from; see data.solution_field"):
        response_text(Problem("x/y/0", "q", "1"), NEVER)


def test_a_foreign_column_of_that_name_is_not_trusted():
    problem = Problem("x/y/0", "q", "1", "the solution", {"annotated_solution": "another <<1+1=2>>2"})
    assert response_text(problem, ALWAYS) == "<think>\nthe solution\n</think>\n<answer>1</answer>"
    assert "the solution" in response_text(
        Problem("x/y/0", "q", "1", "the solution", {"annotated_solution": 7}), ALWAYS
    )


@pytest.mark.parametrize(
    "config",
    [
        {"reflect_share": 1.1},
        {"reflect_share": float("nan")},
        {"check": "Yes."},
        {"check": "</think>{computation}"},
    ],
)
def test_bad_config(config):
    with pytest.raises(DataError, match="coldstart"):
        ColdStartConfig(**config)


def test_our_own_rewards_pay_for_what_we_teach():
    texts = [response_text(gsm8k(number), ALWAYS) for number in range(5)]
    assert accuracy_reward(texts, prompts=["q"] * 5, answer=["72"] * 5) == [1.0] * 5
    assert format_reward(texts, prompts=["q"] * 5) == [1.0] * 5
    assert [count_reflections(text) for text in texts] == [1] * 5
    assert count_reflections(response_text(gsm8k(), NEVER)) == 0
