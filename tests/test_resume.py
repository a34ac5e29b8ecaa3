"""A run that stops and goes on ends bit for bit where one ends that never stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers_runs import PARITY, command, lines, manifest, metrics, saved_steps, weights, write_module
from helpers_runs import grpo as run_stage
from helpers_slow import quick

import grpo.sft
import grpo.trainer

REPO = Path(__file__).parents[1]
CASES = {
    "sft": ("sft", {}),
    "sft bf16": ("sft", {"model__dtype": "bfloat16"}),
    "sft lora": ("sft", {"model__lora__rank": 2}),
    "sft epochs": ("sft", {"sft__steps": 0, "sft__epochs": 2, "data__count": 5}),
    "grpo": ("grpo", {}),
    "grpo bf16": ("grpo", {"model__dtype": "bfloat16"}),
    "grpo lora": ("grpo", {"model__lora__rank": 2}),
    "grpo mu=2": ("grpo", {"grpo__updates_per_batch": 2, "loss__preset": "dapo"}),
    "grpo mini-batches": (
        "grpo",
        {"grpo__mini_batches": 2, "grpo__updates_per_batch": 2, "loss__weight": "[top_entropy, opsm]"},
    ),
    "grpo refills": ("grpo", {"grpo__group_size": 2, "grpo__max_refills": 3, "data__count": 5}),
    "grpo kl in reward": ("grpo", {"loss__kl_in": "reward", "loss__kl": "k1", "optim__warmup_steps": 2}),
}


@pytest.fixture
def rewards(tmp_path, monkeypatch) -> list[str]:
    return [f"rewards.{write_module(tmp_path, monkeypatch, PARITY)}:parity.weight=1"]


def stop_at(step: int) -> pytest.MonkeyPatch:
    """Ctrl-C in the middle of a step, counted from 0; undo() lets the run go on."""
    patch = pytest.MonkeyPatch()
    for module, name in ((grpo.sft, "sft_step"), (grpo.trainer, "update")):
        original = getattr(module, name)

        def stopping(*arguments, original=original):
            result = original(*arguments)
            if arguments[-1] == step:
                raise KeyboardInterrupt
            return result

        patch.setattr(module, name, stopping)
    return patch


def assert_same_runs(a: Path, b: Path) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert metrics(a) == metrics(b)
    assert (a / "completions.jsonl").read_bytes() == (b / "completions.jsonl").read_bytes()


@pytest.mark.parametrize("case", quick(CASES, "sft lora", "grpo mini-batches", "grpo refills"))
def test_resumed_equals_uninterrupted(tmp_path, monkeypatch, capsys, rewards, case):
    stage, settings = CASES[case]
    extra = rewards if stage == "grpo" else []
    assert run_stage(stage, tmp_path / "whole", *extra, **settings) == 0
    rows = metrics(tmp_path / "whole")
    if case == "grpo refills":
        assert sum(row["refills"] for row in rows) > 0
    assert any(row["grad_norm"] > 0 for row in rows)
    for stop, every in ((2, 2), (1, 1), (3, 2)):  # at the checkpoint's step, behind it, before it
        run = tmp_path / f"stopped-{stop}"
        patch = stop_at(stop)
        assert run_stage(stage, run, *extra, **{**settings, "log__save_every": every}) == 130
        patch.undo()
        assert not (run / "model").exists() and "finished" not in manifest(run)
        capsys.readouterr()
        assert run_stage(stage, run, *extra, **{**settings, "log__save_every": every}) == 0
        assert "continues from its last checkpoint" in capsys.readouterr().err
        assert_same_runs(tmp_path / "whole", run)
        assert not (run / "checkpoints").exists()


def test_a_run_that_stops_again_and_again_still_ends_the_same(tmp_path, monkeypatch, rewards):
    assert run_stage("grpo", tmp_path / "whole", *rewards) == 0
    for stop in (0, 1, 2, 3):
        patch = stop_at(stop)
        assert run_stage("grpo", tmp_path / "run", *rewards) == 130
        patch.undo()
    assert run_stage("grpo", tmp_path / "run", *rewards) == 0
    assert_same_runs(tmp_path / "whole", tmp_path / "run")


def test_lines_after_the_checkpoint_and_half_a_line_are_cut_off(tmp_path, monkeypatch, rewards):
    assert run_stage("grpo", tmp_path / "whole", *rewards) == 0
    patch = stop_at(3)
    assert run_stage("grpo", tmp_path / "run", *rewards, log__save_every=2) == 130
    patch.undo()
    assert [row["step"] for row in lines(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3]
    assert max(row["step"] for row in lines(tmp_path / "run" / "completions.jsonl")) == 3
    with (tmp_path / "run" / "metrics.jsonl").open("a") as f:
        f.write('{"step": 4, "rew')
    assert run_stage("grpo", tmp_path / "run", *rewards, log__save_every=2) == 0
    assert_same_runs(tmp_path / "whole", tmp_path / "run")


def test_only_the_newest_checkpoints_are_kept_and_the_newest_is_where_it_goes_on(tmp_path, monkeypatch):
    patch = stop_at(3)
    assert run_stage("sft", tmp_path / "run", "log.keep_checkpoints=2") == 130
    patch.undo()
    assert saved_steps(tmp_path / "run") == [2, 3]
    steps, original = [], grpo.sft.sft_step
    monkeypatch.setattr(grpo.sft, "sft_step", lambda *a: steps.append(a[-1]) or original(*a))
    assert run_stage("sft", tmp_path / "run", "log.keep_checkpoints=2") == 0
    assert steps == [3]


def test_the_reference_after_a_resume_is_the_policy_that_the_run_began_with(tmp_path, monkeypatch, rewards):
    """The KL is 0 at the first step only; a reference taken from the checkpoint would make it 0 again."""
    patch = stop_at(1)
    assert run_stage("grpo", tmp_path / "run", *rewards, optim__lr=1e-2) == 130
    patch.undo()
    assert run_stage("grpo", tmp_path / "run", *rewards, optim__lr=1e-2) == 0
    kl = [row["kl"] for row in metrics(tmp_path / "run")]
    assert kl[0] == 0 and min(kl[1:]) > 1e-6


@pytest.mark.slow
def test_kill_9_loses_nothing(tmp_path, monkeypatch, rewards):
    """A real process, killed while it trains; the same command goes on."""
    settings = {"grpo__steps": 12, "log__save_every": 3}
    assert run_stage("grpo", tmp_path / "whole", *rewards, **settings) == 0
    run = tmp_path / "run"
    arguments = command("grpo", run, *rewards, **settings)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(REPO), str(tmp_path)])}
    process = subprocess.Popen([sys.executable, "-m", "grpo", *arguments], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(run.glob("checkpoints/step-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert run_stage("grpo", run, *rewards, **settings) == 0
    assert_same_runs(tmp_path / "whole", run)


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_stop_during_the_final_evaluation_costs_no_training(tmp_path, monkeypatch, rewards, stage):
    extra = rewards if stage == "grpo" else []
    assert run_stage(stage, tmp_path / "whole", *extra) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("grpo.commands.run.evaluate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run_stage(stage, tmp_path / "run", *extra, log__save_every=100, eval__at_end="true") == 130
    with pytest.MonkeyPatch.context() as patch:  # no further step is taken
        patch.setattr(grpo.sft, "sft_step", None)
        patch.setattr(grpo.trainer, "update", None)
        assert run_stage(stage, tmp_path / "run", *extra, log__save_every=100) == 0
    assert_same_runs(tmp_path / "whole", tmp_path / "run")
