"""NaN or infinity in a loss or gradient: the step is skipped and counted; several in a row stop the run, unharmed."""

from __future__ import annotations

import math

import pytest
import torch
from helpers_runs import PARITY, metrics, one_line, saved_steps, weights, write_module
from helpers_runs import grpo as run_stage
from helpers_slow import slow
from torch import nn

import grpo.sft
import grpo.trainer
from grpo.model.optim import OptimConfig, Optimizer

STEPS = {"sft__steps": 8, "grpo__steps": 8, "log__save_every": 1, "max_skipped": 3}


@pytest.fixture
def rewards(tmp_path, monkeypatch) -> list[str]:
    return [f"rewards.{write_module(tmp_path, monkeypatch, PARITY)}:parity.weight=1"]


def poison(value: float, steps: set[int], where: str = "loss") -> pytest.MonkeyPatch:
    """Make the log-probs (and so the loss) or the gradient of some steps, counted from 0, not finite."""
    patch, now = pytest.MonkeyPatch(), [-1]
    for module, name in ((grpo.sft, "sft_step"), (grpo.trainer, "update")):
        original = getattr(module, name)

        def numbered(*arguments, original=original):
            now[0] = arguments[-1]
            return original(*arguments)

        patch.setattr(module, name, numbered)
    for module in (grpo.sft, grpo.trainer):
        original_logps = module.completion_logps

        def poisoned(*arguments, original=original_logps, **options):
            logps, entropy = original(*arguments, **options)
            if now[0] in steps and logps.requires_grad:
                if where == "loss":
                    logps = logps + value
                else:
                    logps.register_hook(lambda gradient: gradient * value)
            return logps, entropy

        patch.setattr(module, "completion_logps", poisoned)
    return patch


def test_the_gradient_of_a_loss_that_is_not_finite_moves_nothing_even_if_it_is_finite():
    for loss, moves in ((1.0, True), (math.nan, False), (math.inf, False)):
        model = nn.Linear(2, 2)
        optimizer = Optimizer(dict(model.named_parameters()), OptimConfig(lr=0.1), 10)
        before = model.weight.detach().clone()
        model(torch.ones(1, 2)).sum().backward()
        assert optimizer.step(0, loss)["skipped"] == (not moves)
        assert torch.equal(before, model.weight) != moves
        assert model.weight.grad is None


@pytest.mark.parametrize(("where", "value"), [slow("loss", math.nan), ("loss", -math.inf), ("gradient", math.inf)])
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_bad_step_is_skipped_counted_and_said(tmp_path, capsys, rewards, stage, value, where):
    patch = poison(value, {1, 2, 5}, where)
    assert run_stage(stage, tmp_path / "run", *(rewards if stage == "grpo" else []), **STEPS) == 0
    patch.undo()
    rows = metrics(tmp_path / "run")
    assert [row["skipped"] for row in rows] == [0, 1, 1, 0, 0, 1, 0, 0]
    assert [row["grad_norm"] is None for row in rows] == [bool(row["skipped"]) for row in rows]
    assert all(x.isfinite().all() for x in weights(tmp_path / "run").values())
    said = capsys.readouterr().err
    assert said.count("WARNING, step 2: the loss or gradient was NaN or infinite, and the step was skipped") == 1
    assert "lower optim.lr=0.001" in said and "WARNING, step 3" not in said  # of one kind, every ten steps


@pytest.mark.parametrize("stage", ["sft", slow("grpo")])
def test_several_in_a_row_stop_the_run_at_its_last_good_step(tmp_path, capsys, rewards, stage):
    run, extra = tmp_path / "run", rewards if stage == "grpo" else []
    assert run_stage(stage, tmp_path / "whole", *extra, **STEPS) == 0
    patch = poison(math.nan, {1, 4, 5, 6, 7})
    assert run_stage(stage, run, *extra, **STEPS) == 2
    said = one_line(capsys)
    assert f"run={run}: 3 steps in a row, the last of them step 7, had a loss or gradient of NaN or infinity" in said
    assert "(max_skipped=3); the weights of step 4 are kept" in said
    assert "a lower optim.lr (now 0.001)" in said
    assert saved_steps(run)[-1] == 4
    assert run_stage(stage, run, *extra, **STEPS) == 2  # and again: it stops at the same place, with the same words
    assert one_line(capsys) == said
    patch.undo()
    with pytest.MonkeyPatch.context() as context:  # what made them is fixed: it continues after step 4
        steps, module, name = [], *{"sft": (grpo.sft, "sft_step"), "grpo": (grpo.trainer, "update")}[stage]
        original = getattr(module, name)
        context.setattr(module, name, lambda *a: steps.append(a[-1]) or original(*a))
        assert run_stage(stage, run, *extra, **STEPS) == 0
    assert steps == [4, 5, 6, 7]
    assert [row["skipped"] for row in metrics(run)] == [0, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_run_that_never_moved_anything_saves_no_checkpoint(tmp_path, rewards, stage):
    patch = poison(math.inf, {0, 1, 2})
    assert run_stage(stage, tmp_path / "run", *(rewards if stage == "grpo" else []), **STEPS) == 2
    patch.undo()
    assert len(metrics(tmp_path / "run")) == 3
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("stop", [5, slow(6)])
def test_a_stop_among_bad_steps_changes_nothing(tmp_path, rewards, stop):
    """No checkpoint is made of a skipped step, so the count of those in a row is not lost with the process."""
    patch = poison(math.nan, {4, 5, 6})
    settings = {**STEPS, "max_skipped": 4}
    assert run_stage("grpo", tmp_path / "whole", *rewards, **settings) == 0
    original = grpo.trainer.collect
    with pytest.MonkeyPatch.context() as context:

        def collect(*arguments):
            if arguments[4] == stop:
                raise KeyboardInterrupt
            return original(*arguments)

        context.setattr(grpo.trainer, "collect", collect)
        assert run_stage("grpo", tmp_path / "run", *rewards, **settings) == 130
    assert saved_steps(tmp_path / "run")[-1] == 4
    assert run_stage("grpo", tmp_path / "run", *rewards, **settings) == 0
    patch.undo()
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    ours, theirs = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_a_step_with_one_of_two_updates_skipped_has_moved_something(tmp_path, rewards, monkeypatch):
    calls, original = [], Optimizer.step

    def every_second(optimizer, number, loss):
        calls.append(number)
        return original(optimizer, number, math.nan if number % 2 else loss)

    monkeypatch.setattr(Optimizer, "step", every_second)
    settings = {**STEPS, "grpo__updates_per_batch": 2, "max_skipped": 1}
    assert run_stage("grpo", tmp_path / "run", *rewards, **settings) == 0
    assert calls == list(range(16))
    assert {row["skipped"] for row in metrics(tmp_path / "run")} == {1}


def test_a_learning_rate_out_of_this_world_ends_in_one_line(tmp_path, capsys, rewards):
    """Nothing injected: the weights explode, and the run says so."""
    assert run_stage("grpo", tmp_path / "run", *rewards, **STEPS, optim__lr=1e38) == 2
    assert "optim.lr" in one_line(capsys)
