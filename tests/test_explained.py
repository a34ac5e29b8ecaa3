"""What the command line explains: why a completion earned what it did, what a setting means, where a model is from."""

from __future__ import annotations

import json
import os
import stat

import pytest
import yaml
from helpers_runs import grpo

from grpo import cli
from grpo.commands.why import earned, lines, what_is_wrong
from grpo.runs.config import Config, RewardConfig
from grpo.runs.explain import explain
from grpo.runs.hints import known_keys
from grpo.runs.journal import Judged

GOOD = "<think>6 x 7 = 42.</think><answer>42</answer>"


def judged(text: str, **rewards: float | None) -> Judged:
    return Judged(0, text, text == GOOD, text == GOOD, 2, None, 12, False, rewards, gold="42", question="6 x 7?")


def test_each_reward_with_its_weight_and_why():
    rewards = {"accuracy": RewardConfig(), "format": RewardConfig(weight=0.2), "mine:f": RewardConfig(weight=2)}
    rewards |= {"reflection": RewardConfig(weight=0.5)}
    row = judged("<answer>43</answer>", accuracy=0.0, format=0.0, reflection=0.0, **{"mine:f": None})
    found = {one["reward"]: one["why"] for one in earned(Config(rewards=rewards), row)}
    assert found["accuracy"].startswith("'43': ") and found["accuracy"].endswith("gold '42'")
    assert found["format"] == "<think> is missing"
    assert found["reflection"] == "2 reflections; the answer is wrong" and found["mine:f"] == "does not apply"
    table = lines(Config(rewards=rewards), judged(GOOD, accuracy=1.0, format=1.0, reflection=0.5)).splitlines()
    assert table[-1].split() == ["total", "1.45"] and table[0].split()[:4] == ["accuracy", "1.00", "x", "1"]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("<think>a</think><answer>1</answer", "</answer> is missing"),
        (GOOD + GOOD, "<think> occurs 2 times"),
        ("<answer>1</answer><think>a</think>", "the tags are in another order"),
        ("<think> </think><answer>1</answer>", "the thought is empty"),
        ("<think>a</think><answer> </answer>", "the answer is empty"),
        ("So: " + GOOD, "there is text before <think>"),
        ("<think>a</think> so <answer>1</answer>", "there is text between </think> and <answer>"),
        (GOOD + " Done.", "there is text after </answer>"),
    ],
)
def test_what_keeps_a_completion_from_the_form(text, wrong):
    assert what_is_wrong(text) == wrong


def test_sample_as_json_has_the_rewards_and_nothing_else_on_stdout(tmp_path, capsys):
    extra = ("rewards.accuracy.weight=1", "rewards.format.weight=0.2", "--json")
    assert grpo("sample", tmp_path / "run", *extra) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 6 and all({"question", "gold", "text", "correct"} <= row.keys() for row in rows)
    assert [one["reward"] for one in rows[0]["rewards"]] == ["accuracy", "format"]
    assert all(one["why"] for row in rows for one in row["rewards"])


def test_every_setting_is_explained_and_one_or_a_group_alone(capsys):
    text = explain()
    assert [key for key in known_keys() if f"\n{key}" not in f"\n{text}"] == []
    texts = [line for line in text.splitlines() if line.startswith("    ")]
    assert all(line.strip() and len(line) <= 100 for line in texts) and len(texts) > len(known_keys())
    assert cli.main(["config", "--explain", "optim.lr", "optim.lr=3e-4"]) == 0
    said = capsys.readouterr().out
    assert said == "optim.lr = 0.0003  (default 1e-06)  [number above 0]\n    Peak learning rate.\n"
    assert "loss.preset" in explain("loss") and "optim" not in explain("loss.beta")
    assert cli.main(["config", "--explain", "optim.lrr"]) == 2
    assert "did you mean 'optim.lr'?" in capsys.readouterr().err


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_model_has_a_card_and_files_of_the_umask_s_mode(tmp_path, mask):
    before = os.umask(mask)
    try:
        settings = {"rewards__accuracy__weight": 1, "grpo__steps": 1, "eval__at_end": "true"}
        assert grpo("grpo", tmp_path / "run", grpo__drop_zero_spread="false", **settings) == 0
    finally:
        os.umask(before)
    model = tmp_path / "run" / "model"
    assert {stat.S_IMODE(path.stat().st_mode) for path in model.iterdir()} == {0o666 & ~mask}
    card = (model / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers" and "base_model" not in front and "grpo" in front["tags"]
    assert all(
        text in card for text in ("- Parent: `tiny-init`", "| `accuracy` | `accuracy` | 1 |", "held-out problems")
    )
    assert "{question}" in card and "group_size: 4" in card


def test_the_demo_refuses_what_differs_from_stage_to_stage(capsys):
    assert cli.main(["demo", "run=runs/x"]) == 2
    assert "demo: run differs from stage to stage; run the stages one by one" in capsys.readouterr().err
