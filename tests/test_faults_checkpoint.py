"""A damaged checkpoint is named and the one before it is used; a save that fails leaves those that are there."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers_runs import grpo as run_stage
from helpers_runs import metrics, one_line, weights
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import grpo.runs.checkpoint
import grpo.sft
from grpo.model.optim import OptimConfig, Optimizer
from grpo.runs.checkpoint import load_checkpoint, save_checkpoint
from grpo.runs.files import RunError


def make(seed: int = 0) -> tuple[nn.Module, Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(torch.bfloat16)
    return model, Optimizer(dict(model.named_parameters()), OptimConfig(lr=0.1), 10)


def train(model: nn.Module, optimizer: Optimizer, step: int) -> None:
    model(torch.full((1, 3), float(step), dtype=torch.bfloat16)).float().square().sum().backward()
    optimizer.step(step)


def trained(folder: Path, steps: int = 3, keep: int = 3) -> Optimizer:
    """A checkpoint after each of some steps."""
    model, optimizer = make()
    for done in range(steps):
        train(model, optimizer, done)
        save_checkpoint(folder, optimizer, {"step": done + 1, "position": 10 * done}, keep)
    return optimizer


def step(number: int) -> str:
    return f"step-{number:08d}.safetensors"


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def same(a: Optimizer, b: Optimizer) -> bool:
    pairs = [(a.masters[n], b.masters[n]) for n in a.masters]
    states = [(a.adamw.state[x], b.adamw.state[y]) for x, y in pairs]
    return all(torch.equal(x, y) for x, y in pairs) and all(
        s.keys() == t.keys() and all(torch.equal(s[k], t[k]) for k in s) for s, t in states
    )


def test_a_checkpoint_holds_masters_moments_and_state(tmp_path):
    optimizer = trained(tmp_path)
    model, other = make(seed=1)
    assert load_checkpoint(tmp_path, other) == {"step": 3, "position": 20}
    assert same(optimizer, other)
    for name, p in model.named_parameters():
        assert torch.equal(p, other.masters[name].to(torch.bfloat16))
    train(model, other, 3)
    again, first = make()
    for done in range(4):
        train(again, first, done)
    assert same(first, other)  # the next step, too, is what it would have been


def test_a_parameter_that_no_step_has_moved_has_no_moments(tmp_path):
    _, optimizer = make()
    save_checkpoint(tmp_path, optimizer, {"step": 1}, 1)
    _, other = make(seed=1)
    assert load_checkpoint(tmp_path, other) == {"step": 1} and same(optimizer, other)


def test_a_checkpoint_is_one_file_of_plain_tensors_and_no_pickle(tmp_path):
    optimizer = trained(tmp_path, 1)
    assert names(tmp_path) == [step(1)]
    tensors = load_file(tmp_path / step(1))
    assert {f"weight/{name}" for name in optimizer.masters} <= tensors.keys()
    assert all(torch.equal(tensors[f"weight/{name}"], m) for name, m in optimizer.masters.items())


# ---- damage -------------------------------------------------------------------------------------------------


def flip(path: Path, at: float = 0.9) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 1
    path.write_bytes(content)


def relabel(path: Path) -> None:
    """The same tensors under another number of steps."""
    with safe_open(path, "pt") as file:
        metadata = {**file.metadata(), "position": "7"}
    save_file(load_file(path), path, metadata)


def swap(path: Path) -> None:
    """Two tensors under each other's names."""
    tensors = load_file(path)
    a, b = "exp_avg/0.weight", "exp_avg_sq/0.weight"
    with safe_open(path, "pt") as file:
        save_file({**tensors, a: tensors[b], b: tensors[a]}, path, file.metadata())


DAMAGE = {
    "byte": flip,
    "byte of the header": lambda path: flip(path, 0.05),
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "empty": lambda path: path.write_bytes(b""),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "other state": relabel,
    "other tensors": swap,
    "no checksum": lambda path: save_file(load_file(path), path),
    "garbage": lambda path: path.write_bytes(b"\xff" * 100),
    "deeply nested": lambda path: path.write_bytes((90_000).to_bytes(8, "little") + b"[" * 90_000),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_checkpoint_before_a_damaged_one_is_used(tmp_path, capsys, damage):
    trained(tmp_path)
    DAMAGE[damage](tmp_path / step(3))
    _, optimizer = make(seed=1)
    assert load_checkpoint(tmp_path, optimizer) == {"step": 2, "position": 10}
    (tmp_path / step(3)).rmdir() if damage == "folder" else (tmp_path / step(3)).unlink()
    _, other = make(seed=2)
    load_checkpoint(tmp_path, other)
    assert same(optimizer, other)
    first, second = capsys.readouterr().err.splitlines()
    assert "damaged checkpoint" in first and f"{step(3)}: " in first
    assert "continues from" in second and step(2) in second


@pytest.mark.parametrize("at", [i / 40 for i in range(40)])
def test_a_flipped_bit_is_found_wherever_it_is(tmp_path, at):
    trained(tmp_path, 1)
    flip(tmp_path / step(1), at)
    _, optimizer = make(seed=1)
    before = {n: m.clone() for n, m in optimizer.masters.items()}
    with pytest.raises(RunError) as caught:
        load_checkpoint(tmp_path, optimizer)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(optimizer.masters[n], x) for n, x in before.items())


def test_all_damaged_is_one_line_that_says_what_to_do(tmp_path):
    trained(tmp_path)
    for checkpoint in tmp_path.iterdir():
        flip(checkpoint)
    _, optimizer = make()
    before = {n: m.clone() for n, m in optimizer.masters.items()}
    with pytest.raises(RunError) as caught:
        load_checkpoint(tmp_path, optimizer)
    said = str(caught.value)
    assert f"{step(3)}: is not as it was written" in said and f"delete {tmp_path}" in said
    assert "\n" not in said
    assert all(torch.equal(optimizer.masters[n], x) for n, x in before.items())


def test_a_checkpoint_of_another_model_is_refused_before_anything_is_changed(tmp_path):
    trained(tmp_path, 1)
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3))
    optimizer = Optimizer(dict(model.named_parameters()), OptimConfig(), 10)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(RunError, match=r"1\.(weight|bias) is missing or has another shape"):
        load_checkpoint(tmp_path, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_new_checkpoint_replaces_the_damaged_and_never_counts_those_as_kept(tmp_path):
    trained(tmp_path, 4, keep=1)
    shutil.copy(tmp_path / step(4), tmp_path / step(3))
    for name in (step(3), step(4)):
        flip(tmp_path / name)
    _, optimizer = make()
    save_checkpoint(tmp_path, optimizer, {"step": 3}, keep=1)
    assert names(tmp_path) == [step(3)]
    assert load_checkpoint(tmp_path, optimizer) == {"step": 3}


# ---- a save that fails --------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["write", "digest", "sync", "os.replace"])
def test_a_disk_that_fills_while_saving_leaves_the_checkpoint_before(tmp_path, monkeypatch, function):
    trained(tmp_path, 2)
    before = names(tmp_path)
    _, optimizer = make()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"grpo.runs.checkpoint.{function}", full)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(tmp_path, optimizer, {"step": 3}, keep=2)
    assert names(tmp_path) == before
    assert load_checkpoint(tmp_path, optimizer)["step"] == 2
    save_checkpoint(tmp_path, optimizer, {"step": 3}, keep=2)
    assert names(tmp_path) == [step(2), step(3)]


def test_a_real_limit_on_file_size_is_an_os_error_too(tmp_path):
    """safetensors writes by itself, and its errors are no OSError."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            import resource

            _, optimizer = make()
            (tmp_path / "c").mkdir()
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
            try:
                save_checkpoint(tmp_path / "c", optimizer, {"step": 1}, keep=1)
            except OSError as error:
                code = 0 if "File too large" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert names(tmp_path / "c") == []


def test_a_run_folder_that_vanished_is_not_made_anew(tmp_path):
    _, optimizer = make()
    with pytest.raises(FileNotFoundError):
        save_checkpoint(tmp_path / "gone" / "checkpoints", optimizer, {"step": 1}, keep=1)
    assert names(tmp_path) == []


def test_everything_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    calls, sync, replace = [], grpo.runs.checkpoint.sync, os.replace
    monkeypatch.setattr(grpo.runs.checkpoint, "sync", lambda path: calls.append(path.name) or sync(path))
    monkeypatch.setattr(grpo.runs.checkpoint.os, "replace", lambda a, b: calls.append("rename") or replace(a, b))
    _, optimizer = make()
    save_checkpoint(tmp_path, optimizer, {"step": 1}, keep=1)
    assert calls == ["partial", "rename", tmp_path.name]


# ---- in a run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", [(3,), (3, 2)])
def test_a_run_goes_on_from_the_checkpoint_before_or_says_what_to_do(tmp_path, capsys, damaged):
    assert run_stage("sft", tmp_path / "whole") == 0
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        original = grpo.sft.sft_step

        def stopping(*a):
            if a[-1] == 3:
                raise KeyboardInterrupt
            return original(*a)

        patch.setattr(grpo.sft, "sft_step", stopping)
        assert run_stage("sft", run) == 130
    for number in damaged:
        flip(run / "checkpoints" / step(number))
    capsys.readouterr()
    if len(damaged) == 2:
        assert run_stage("sft", run) == 2
        assert "no checkpoint before it is sound: restore one from a backup, or delete" in one_line(capsys)
        shutil.rmtree(run / "checkpoints")
    assert run_stage("sft", run) == 0
    ours, theirs = weights(run), weights(tmp_path / "whole")
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs) and metrics(run) == metrics(tmp_path / "whole")
