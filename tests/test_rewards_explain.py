"""Why an answer is paid or not: the reading, the rule, the difference; and nothing hangs."""

from __future__ import annotations

import time

import pytest

from grpo import cli
from rewards import explain
from rewards.answer import GradingConfig, equivalent

RULES = [
    ("42", "6*7", "leaves arithmetic undone", "0"),
    ("x^2+y^2=25", "25", "the gold is an equation", "not two expressions"),
    ("\\frac{2}{3}", "0.666667", "rounded or cut off", "-"),
    ("\\binom{n}{2}", "n(n-1)/2", "at small integers", "0"),
    ("(x+1)^2", "x^2+2x+2", "random points", "-1"),
    ("5 cm", "5 kg", "centimeter is not kilogram", "not two expressions"),
    ("42", "Nobody got 42.", "words", "not two expressions"),
    ("42", "\\boxed{41} or \\boxed{42}", "several boxes", "nothing was compared"),
    ("42", "", "missing", "nothing was compared"),
]


@pytest.mark.parametrize(("gold", "answer", "rule", "difference"), RULES)
def test_the_rule_and_the_difference_are_said(gold, answer, rule, difference):
    found = explain(gold, answer, seconds=60)
    assert rule in found.verdict.rule and difference in found.difference, str(found)
    assert found.verdict.paid == equivalent(gold, answer)


def test_both_sides_are_shown_as_they_were_read():
    found = explain("\\frac{x}{2}", "<think>so</think><answer>x = [1, 2)</answer>", seconds=60)
    assert found.gold.splitlines() == ["x", "\u2500", "2"] and found.answer == "x = [1, 2)"
    assert explain("0.5", "50%", GradingConfig(percent="optional"), seconds=60).verdict.paid


def test_what_never_ends_is_killed_and_said():
    start = time.monotonic()
    found = explain("10^{10^{10}}", "10^{10^{10}} + 1", seconds=4)
    assert time.monotonic() - start < 30 and "stopped" in found.difference and not found.verdict.paid


def test_the_command_says_it_and_ends_with_the_verdict(capsys):
    assert cli.main(["grade", "-5", "-\\frac{10}{2}"]) == 0
    assert capsys.readouterr().out.startswith("paid: both are read alike")
    assert cli.main(["grade", "25%", "25"]) == 1 and cli.main(["grade", "25%", "25", "percent=optional"]) == 0
    assert cli.main(["grade", "25%", "25", "percnt=optional"]) == 2
    assert "did you mean 'percent'" in capsys.readouterr().err
