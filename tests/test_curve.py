"""The held-out curve: where its points lie, what they are, and that a stop changes nothing of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers_runs import command, lines, one_line, weights
from helpers_runs import grpo as run_stage
from helpers_slow import slow
from safetensors.torch import load_file

import grpo.experience
import grpo.trainer
from grpo.results import curve
from grpo.results.curve import read_curve

REPO = Path(__file__).parents[1]
# the embedded model, so that something is right, and rewards that differ within nearly every group
SETTINGS = {
    "model__path": "tiny",
    "sampling__max_new_tokens": 40,
    "eval__every": 2,
    "eval__at_end": "true",
    "eval__data__count": 8,
    "grpo__steps": 5,
    "grpo__group_size": 3,
    "grpo__max_refills": 1,
    "grpo__prompts_per_step": 3,
}
REWARDS = ("rewards.accuracy.weight=1", "rewards.repetition.weight=0.1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("curve") / "whole"
    assert run_stage("grpo", run, *REWARDS, **SETTINGS) == 0
    return run


def test_points_lie_before_the_first_step_at_each_multiple_and_after_the_last(whole):
    rows, steps = lines(whole / "curve.jsonl"), lines(whole / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 2, 4, 5]
    for row in rows:
        assert row["problems"] == len(row["right"]) == 8
        assert row["accuracy"] == sum(row["right"]) / 16 and 0 <= row["greedy"] <= 1
        sampled = sum(one["groups"] + one["dropped"] for one in steps[: row["step"]]) * 3
        assert row["completions"] == sampled
    assert rows[0]["completions"] == 0 < rows[-1]["completions"]


def test_the_last_point_is_the_evaluation_and_is_made_once(whole, tmp_path, monkeypatch):
    end, result = lines(whole / "curve.jsonl")[-1], json.loads((whole / "eval.json").read_text())
    assert (end["accuracy"], end["greedy"]) == (result["sampled"]["accuracy"], result["greedy"]["accuracy"])
    calls, original = [], grpo.experience.sample_groups
    monkeypatch.setattr(grpo.experience, "sample_groups", lambda *a: calls.append(a[-1]) or original(*a))
    assert run_stage("sft", tmp_path / "run", **{**SETTINGS, "sft__steps": 2}) == 0
    assert calls == [-1] * 4  # sampled and greedy, at steps 0 and 2, and no more at the end
    assert [row["step"] for row in lines(tmp_path / "run" / "curve.jsonl")] == [0, 2]
    assert [row["completions"] for row in lines(tmp_path / "run" / "curve.jsonl")] == [0, 0]


def test_the_first_point_is_the_base_models_evaluation(whole, tmp_path):
    assert run_stage("eval", tmp_path / "base", **SETTINGS) == 0
    rows, first = lines(tmp_path / "base" / "eval.jsonl")[1:], lines(whole / "curve.jsonl")[0]
    marks = [row["correct"] for row in rows if row["kind"] == "sampled"]
    assert first["right"] == [sum(marks[i : i + 2]) for i in range(0, 16, 2)]


def test_training_is_the_same_with_a_curve_and_without(whole, tmp_path):
    assert run_stage("grpo", tmp_path / "plain", *REWARDS, **{**SETTINGS, "eval__every": 0}) == 0
    ours, theirs = weights(whole), weights(tmp_path / "plain")
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs) and not (tmp_path / "plain" / "curve.jsonl").exists()


@pytest.mark.parametrize("stop", [slow(1), slow(2), 3, slow(4)])
def test_a_run_that_is_stopped_and_continued_has_the_same_curve(whole, tmp_path, stop):
    """Bit for bit: stopped before a point, behind it, and with checkpoints at every second step."""
    run, original = tmp_path / "run", grpo.trainer.update
    with pytest.MonkeyPatch.context() as patch:

        def stopping(*arguments):
            if arguments[-1] == stop:
                raise KeyboardInterrupt
            return original(*arguments)

        patch.setattr(grpo.trainer, "update", stopping)
        assert run_stage("grpo", run, *REWARDS, **SETTINGS, log__save_every=2) == 130
    assert len(lines(run / "curve.jsonl")) == 1 + stop // 2
    assert run_stage("grpo", run, *REWARDS, **SETTINGS, log__save_every=2) == 0
    for name in ("curve.jsonl", "eval.jsonl", "eval.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_a_stop_in_the_middle_of_a_point_saves_the_steps_before_it(whole, tmp_path):
    run, original, calls = tmp_path / "run", grpo.experience.sample_groups, []
    with pytest.MonkeyPatch.context() as patch:

        def signalled(*arguments):
            if arguments[-1] == -1 and (calls.append(1) or len(calls)) == 3:  # the first of the second point
                os.kill(os.getpid(), signal.SIGTERM)
            return original(*arguments)

        patch.setattr(grpo.experience, "sample_groups", signalled)
        assert run_stage("grpo", run, *REWARDS, **SETTINGS, log__save_every=100) == 143
    assert (run / "checkpoints" / "step-00000002.safetensors").exists()
    assert run_stage("grpo", run, *REWARDS, **SETTINGS, log__save_every=100) == 0
    assert (run / "curve.jsonl").read_bytes() == (whole / "curve.jsonl").read_bytes()


@pytest.mark.slow
def test_kill_9_leaves_the_curve_as_it_would_have_been(whole, tmp_path):
    run = tmp_path / "run"
    arguments = command("grpo", run, *REWARDS, **SETTINGS)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    process = subprocess.Popen([sys.executable, "-m", "grpo", *arguments], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(read_curve(run)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert run_stage("grpo", run, *REWARDS, **SETTINGS) == 0
    assert (run / "curve.jsonl").read_bytes() == (whole / "curve.jsonl").read_bytes()


def test_a_subset_is_the_first_of_the_problems(whole, tmp_path):
    assert run_stage("grpo", tmp_path / "run", *REWARDS, **SETTINGS, eval__every_count=3) == 0
    some, everything = lines(tmp_path / "run" / "curve.jsonl"), lines(whole / "curve.jsonl")
    assert [row["right"] for row in some] == [row["right"][:3] for row in everything]
    assert (tmp_path / "run" / "eval.json").read_bytes() == (whole / "eval.json").read_bytes()


def test_the_best_model_is_kept(tmp_path):
    """The curve's accuracy rises, falls and reaches the same height again: the first of the highest is kept."""
    run, heights, saved = tmp_path / "run", iter([0.25, 0.75, 0.5, 0.75]), []
    settings, original, save = {**SETTINGS, "eval__at_end": "false"}, curve.describe, curve.Keeper.save_model

    def described(rows):
        return {**original(rows), **({"accuracy": next(heights)} if rows[0].kind == "sampled" else {})}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curve, "describe", described)
        patch.setattr(
            curve.Keeper, "save_model", lambda self, name: saved.append((self.state["step"], name)) or save(self, name)
        )
        assert run_stage("sft", run, **{**settings, "sft__steps": 6}, eval__keep_best="true") == 0
    assert saved == [(0, "best"), (2, "best")]
    assert run_stage("sft", tmp_path / "two", **{**settings, "sft__steps": 2}) == 0
    best, two = load_file(run / "best" / "model.safetensors"), weights(tmp_path / "two")
    assert all(torch.equal(best[k], two[k]) for k in two)
    assert run_stage("eval", tmp_path / "eval", **{**settings, "model__path": run / "best"}) == 0


def test_keep_best_without_a_curve_is_one_line(tmp_path, capsys):
    assert run_stage("sft", tmp_path / "run", eval__keep_best="true") == 2
    assert "eval.keep_best needs evaluations during training; set eval.every" in one_line(capsys)


def test_a_damaged_curve_is_read_up_to_the_damage(tmp_path):
    (tmp_path / "curve.jsonl").write_text('{"step": 0, "accuracy": 0.5}\n{"step": 2, "acc')
    assert [row["step"] for row in read_curve(tmp_path)] == [0] and read_curve(tmp_path / "none") == []
