"""Before training: golds that cannot be graded, and questions that stand there twice with different golds."""

from __future__ import annotations

import json
import warnings

import pytest
from helpers_runs import grpo, manifest

from data import DataConfig, DataError, Problem
from grpo.golds import gradable, warn_of_contradictions
from grpo.runs.config import RewardConfig
from rewards import accuracy_reward

ACCURACY = {"accuracy": RewardConfig()}


def problems(*golds: str) -> list[Problem]:
    return [Problem(f"p/{i}", f"{i}?", gold, place=f"x.jsonl:{i + 1}") for i, gold in enumerate(golds)]


def test_golds_that_the_reward_does_not_pay_are_left_out_and_named():
    """A tag in the gold: whatever a completion writes, its answer ends there."""
    some = problems("4", "5</answer>", r"\frac12", "<think>6", "Monday")
    assert accuracy_reward([f"<think>a</think><answer>{some[1].answer}</answer>"], answer=[some[1].answer]) == [0.0]
    text = r"2 of 5 answers are not paid .*\(x.jsonl:2 '5</answer>', x.jsonl:4 '<think>6'\): left out; data.keep_ungra"
    with pytest.warns(UserWarning, match=text):
        assert gradable(some, ACCURACY, DataConfig()) == [some[0], some[2], some[4]]
    with pytest.warns(UserWarning, match="2 of 5 .*keeps them"):
        assert gradable(some, ACCURACY, DataConfig(keep_ungradable=True)) == some
    with pytest.raises(DataError, match=r"1 of 1 .*look at data\.answer_field"):
        gradable(some[1:2], ACCURACY, DataConfig())


def test_the_runs_own_reward_is_asked_and_others_say_nothing():
    named = {"right": RewardConfig(function="accuracy", args={"require_tags": False})}
    with pytest.warns(UserWarning, match="1 of 2"):
        assert len(gradable(problems("4", "<answer>"), named, DataConfig())) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(gradable(problems("4", "<answer>"), {"format": RewardConfig()}, DataConfig())) == 2
        assert len(gradable(problems("4", "x + 1", "(1, 2)", "yes"), ACCURACY, DataConfig())) == 4


def test_one_question_with_two_answers_is_named_with_both_places():
    def problem(line: int, question: str, answer: str, **more) -> Problem:
        return Problem(f"p/{line}", question, answer, place=f"x.jsonl:{line}", **more)

    first = problem(1, "Half of 1?", "0.5")
    same = [problem(2, " Half  of\n1?", r"\frac{1}{2}"), problem(3, "half of 1?", "7"),
            problem(4, "Half of 1?", "2", turns=[{"role": "user", "content": "Hello"}])]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_contradictions([first, *same])
        warn_of_contradictions([problem(5, "5!?", "120"), problem(6, "5!?", "5!"), problem(7, "5!?", "120.0")])
        warn_of_contradictions([problem(8, "5!?", "5!"), problem(9, "5!?", "120")])
    with pytest.warns(UserWarning, match=r"1 questions .*\(x\.jsonl:1 '0\.5' and x\.jsonl:9 '2'\): correct or remove"):
        assert len(gradable([first, problem(9, "Half of 1?", "2")], ACCURACY, DataConfig())) == 2


@pytest.mark.parametrize("stage", ["grpo", "reject", "base"])
def test_a_run_names_them_before_its_first_step(tmp_path, capsys, stage):
    rows = [
        ("Mia has 3 apples.", "3"),
        ("Mia has 3 apples.", "4"),
        ("Mia has 5 apples.", "proof"),
        ("Eve?", "5</answer>"),
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))
    key = "eval.data" if stage == "base" else "data"
    settings = {f"{key}.source".replace(".", "__"): tmp_path / "x.jsonl", f"{key}.count".replace(".", "__"): 0}
    more = {"rewards__accuracy__weight": 1, "rewards__format__weight": 1, "grpo__drop_zero_spread": "false"}
    code = grpo(stage, tmp_path / "run", **{**settings, **more, "grpo__steps": 1, "reject__samples": 2})
    said = capsys.readouterr().err
    assert "1 of 4 answers can never be matched" in said and "x.jsonl:3 'proof'): left out" in said
    assert "x.jsonl:1 '3' and " in said and "x.jsonl:2 '4'): correct or remove" in said
    assert "1 of 3 answers are not paid" in said and "x.jsonl:4 '5</answer>'): left out" in said
    assert said.count("left out") == 2, "each is said once"
    if stage == "reject":
        assert code == 2 and "none of 4 samples was kept" in said
    else:
        assert code == 0 and manifest(tmp_path / "run")
