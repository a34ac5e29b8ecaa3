"""Rewards that hang, groups without spread, cut completions, odd tokenizers, long prompts: said, with the fix."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from helpers_runs import PARITY, command, metrics, one_line, weights, write_module
from helpers_runs import grpo as run_stage

from data import make_problems
from data.embedded.tiny_model import build_model, build_tokenizer
from grpo import cli
from grpo.evaluation import evaluate
from grpo.model.policy import ModelConfig, load_policy
from grpo.runs.config import Config
from grpo.runs.folder import open_run
from grpo.runs.keeper import warnings as warnings_of
from grpo.runs.settings import load_config


@pytest.fixture
def rewards(tmp_path, monkeypatch) -> list[str]:
    return [f"rewards.{write_module(tmp_path, monkeypatch, PARITY)}:parity.weight=1"]


def assert_same(run: Path, whole: Path) -> None:
    ours, theirs = weights(run), weights(whole)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs) and metrics(run) == metrics(whole)


def save_tiny(folder: Path, seed: int = 0, **tokens: str | None) -> None:
    build_model(seed).save_pretrained(folder)
    tokenizer = build_tokenizer()
    for name, value in tokens.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(folder)


def test_a_reward_that_hangs_costs_its_completion_and_is_said(tmp_path, monkeypatch, capsys):
    source = (
        "def f(completions, completion_ids, **columns):\n"
        "    while any(ids[0] % 3 == 1 for ids in completion_ids): pass\n"
        "    return [float(ids[0] % 2) for ids in completion_ids]\n"
    )
    name = write_module(tmp_path, monkeypatch, source)
    settings = {"sandbox__enabled": "true", "sandbox__seconds": 0.1, "grpo__steps": 1, "grpo__max_refills": 0}
    assert run_stage("grpo", tmp_path / "run", f"rewards.r.function={name}:f", **settings) == 0
    (row,) = metrics(tmp_path / "run")
    assert row["killed"] > 0
    said = capsys.readouterr().err
    assert f"WARNING, step 1: the scoring of {row['killed']:.0f} completions was killed" in said
    assert "raise sandbox.seconds=0.1" in said


@pytest.mark.parametrize("drop", ["true", "false"])
def test_groups_that_all_earned_the_same_are_said_loudly(tmp_path, monkeypatch, capsys, drop):
    name = write_module(tmp_path, monkeypatch, "def f(completions, **columns): return [1.0] * len(completions)\n")
    settings = {"grpo__drop_zero_spread": drop, "loss__beta": 0, "grpo__steps": 12}
    assert run_stage("grpo", tmp_path / "run", f"rewards.r.function={name}:f", **settings) == 0
    said = capsys.readouterr().err
    assert "WARNING, step 1: in every group all completions earned the same" in said
    assert "nothing to learn from: raise grpo.group_size=4" in said
    assert "WARNING, step 11: in every" in said and said.count("in every group") == 2  # not at every step
    assert len(metrics(tmp_path / "run")) == 12


def test_completions_that_are_all_cut_off_are_said_loudly_with_the_setting(tmp_path, capsys, rewards):
    assert run_stage("grpo", tmp_path / "run", *rewards, sampling__max_new_tokens=1) == 0
    said = capsys.readouterr().err
    share = r"\d+% of the completions are cut off at sampling.max_new_tokens=1; they do not loop, .*: raise it"
    assert re.search(f"WARNING, step 1: {share}", said), said


def test_warnings_are_for_what_is_wrong_alone():
    assert warnings_of(Config(), {"killed": 0, "skipped": 0, "sampler_gap": 1e-4}) == {}
    wrong = {"killed": 2, "skipped": 1, "sampler_gap": 0.4}
    assert set(warnings_of(Config(), wrong)) == set(wrong)
    rounded = Config(model=ModelConfig(dtype="bfloat16"))
    assert not warnings_of(rounded, {"sampler_gap": 0.2}) and warnings_of(rounded, {"sampler_gap": 0.4})


@pytest.mark.parametrize("stage", ["sft", "grpo", "eval"])
def test_a_tokenizer_without_a_pad_token_will_do(tmp_path, rewards, stage):
    """Masks come from the sampler; nothing is ever compared with a pad id."""
    save_tiny(tmp_path / "model", pad_token=None)
    settings = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert settings.get("pad_token") is None
    extra = rewards if stage == "grpo" else []
    assert run_stage(stage, tmp_path / "run", *extra, model__path=tmp_path / "model") == 0
    assert run_stage(stage, tmp_path / "padded", *extra) == 0
    if stage != "eval":
        assert_same(tmp_path / "run", tmp_path / "padded")


def test_a_tokenizer_without_a_chat_template_is_one_line_or_plain(tmp_path, capsys):
    assert run_stage("sft", tmp_path / "run", prompt__style="chat") == 2
    assert "prompt.style is chat, but the tokenizer has no chat template: use plain or auto" in one_line(capsys)
    assert run_stage("sft", tmp_path / "run", prompt__style="auto") == 0


@pytest.mark.parametrize("room", [True, False])
def test_prompts_longer_than_the_context_are_found_before_the_first_step(tmp_path, capsys, rewards, room):
    data = tmp_path / "mine.jsonl"
    longest = "Ana has 3 apples. " * (30 if room else 100)
    rows = [{"question": q, "answer": "3"} for q in ["Ana has 3 apples."] * 9 + [longest]]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"data__source": data, "data__count": 0, "sampling__max_new_tokens": 150}
    assert run_stage("grpo", tmp_path / "run", *rewards, **settings) == 2
    said = one_line(capsys)
    assert "1 of 10 prompts are too long: a prompt of " in said and "exceeds the model's context of 256" in said
    if room:
        fitting = int(said.partition("lower sampling.max_new_tokens to ")[2].split()[0])
        settings["sampling__max_new_tokens"] = fitting + 1
        assert run_stage("grpo", tmp_path / "run", *rewards, **settings) == 2
        settings["sampling__max_new_tokens"] = fitting
        assert run_stage("grpo", tmp_path / "run", *rewards, **{**settings, "grpo__steps": 1}) == 0
    else:
        assert "lower" not in said and "leave out the long ones" in said
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("stage", ["sft", "grpo", "reject"])
def test_held_out_prompts_that_are_too_long_stop_a_run_before_its_first_step(tmp_path, capsys, rewards, stage):
    held_out = tmp_path / "held.jsonl"
    held_out.write_text(json.dumps({"question": "Ana has 3 apples. " * 100, "answer": "3"}) + "\n")
    settings = {"eval__data__source": held_out, "eval__data__count": 0, "eval__at_end": "true"}
    assert run_stage(stage, tmp_path / "run", *(rewards if stage == "grpo" else []), **settings) == 2
    assert "exceeds the model's context of 256" in one_line(capsys)
    assert not (tmp_path / "run" / "metrics.jsonl").exists() and not (tmp_path / "run" / "eval.jsonl").exists()


def test_an_evaluation_does_not_go_on_with_the_answers_to_other_problems(tmp_path):
    held_out = tmp_path / "held.jsonl"
    settings = [f"run={tmp_path / 'run'}", "model.path=tiny", f"eval.data.source={held_out}", "eval.data.count=0"]
    settings += ["prompt.style=plain", "prompt.template='{question}\\n'", "eval.samples=1", "eval.pass_at=[1]"]
    config = load_config(None, [*settings, "sampling.max_new_tokens=100"])
    policy = load_policy(config.model)
    run = open_run(config, "eval")
    rows = [{"question": p.question, "answer": p.answer} for p in make_problems("test", 40, seed=0)]
    figures = []
    unsolvable = [{**row, "answer": "-1"} for row in rows[20:]]
    for some, kept in ((rows[:20], run), (rows[20:], run), (rows[20:], None), (unsolvable, run)):
        held_out.write_text("".join(json.dumps(row) + "\n" for row in some))
        figures.append(evaluate(config, policy, kept))
    assert figures[1] == figures[2] != figures[0]
    assert figures[3]["greedy"]["accuracy"] == 0 < figures[2]["greedy"]["accuracy"]
    run.lock.close()


def test_skipped_rows_are_counted_in_one_line(tmp_path, capsys):
    data = tmp_path / "mine.jsonl"
    good = [json.dumps({"question": f"{i} + 1?", "answer": str(i + 1)}) for i in range(4)]
    data.write_text("\n".join([*good[:2], "{", good[2], '{"question": 5, "answer": 1}', good[3]]) + "\n")
    settings = {"eval__data__source": data, "eval__data__count": 0}
    assert run_stage("eval", tmp_path / "run", **settings) == 2
    assert f"{data}:3: not JSON: " in one_line(capsys)
    with warnings.catch_warnings():
        assert cli.main(command("eval", tmp_path / "run", **settings, eval__data__skip_bad_rows="true")) == 0
    said = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "bad rows" in line]
    assert said == [said[0]] and said[0].startswith(f"warning: skipped 2 bad rows; the first: {data}:3: not JSON")


@pytest.mark.parametrize("stage", ["sft", "grpo", "reject", "eval"])
def test_problems_with_long_prompts_are_left_out_where_that_is_asked_for(tmp_path, capsys, rewards, stage):
    extra = rewards if stage == "grpo" else []
    key = "eval__data__max_prompt_tokens" if stage == "eval" else "data__max_prompt_tokens"
    if stage in ("sft", "grpo"):
        assert run_stage(stage, tmp_path / "run", *extra, **{key: 36, "eval__at_end": False}) == 0
        said = capsys.readouterr().err
        assert re.search(r"warning: \d+ of \d+ problems left out: their prompts are longer than", said), said
    assert run_stage(stage, tmp_path / "none", *extra, **{key: 2}) == 2
    assert "every prompt is longer, the shortest has" in capsys.readouterr().err
