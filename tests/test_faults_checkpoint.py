"""A damaged checkpoint is named and the one before it is used; a save that fails leaves those that are there."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers_runs import grpo as run_stage
from helpers_runs import metrics, one_line, weights
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import grpo.runs.checkpoint
import grpo.sft
from grpo.model.optim import OptimConfig, Optimizer
from grpo.runs.checkpoint import FILES, CheckpointError, load_checkpoint, read_manifest, read_state, save_checkpoint


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
    for step in range(steps):
        train(model, optimizer, step)
        save_checkpoint(folder, optimizer, {"step": step + 1, "position": 10 * step}, keep)
    return optimizer


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
    for step in range(4):
        train(again, first, step)
    assert same(first, other)  # the next step, too, is what it would have been


def test_a_parameter_that_no_step_has_moved_has_no_moments(tmp_path):
    _, optimizer = make()
    save_checkpoint(tmp_path, optimizer, {"step": 1}, 1)
    _, other = make(seed=1)
    assert load_checkpoint(tmp_path, other) == {"step": 1} and same(optimizer, other)


def test_no_file_holds_a_pickle(tmp_path):
    trained(tmp_path, 1)
    assert names(tmp_path / "step-00000001") == sorted([*FILES, "manifest.json"])
    for name in FILES:
        assert not (tmp_path / "step-00000001" / name).read_bytes().startswith((b"PK", b"\x80"))


# ---- damage -------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "byte": flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("file", [*FILES, "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_the_checkpoint_before_a_damaged_one_is_used(tmp_path, capsys, file, damage):
    trained(tmp_path)
    DAMAGE[damage](tmp_path / "step-00000003" / file)
    _, optimizer = make(seed=1)
    assert load_checkpoint(tmp_path, optimizer)["step"] == 2
    shutil.rmtree(tmp_path / "step-00000003")
    _, other = make(seed=2)
    load_checkpoint(tmp_path, other)
    assert same(optimizer, other)
    first, second = capsys.readouterr().err.splitlines()
    assert "damaged checkpoint" in first and "step-00000003: " in first
    assert file in first or "manifest.json" in (file, first.split(": ")[1].split()[0])
    assert ("bytes, not " in first) == (damage in ("cut", "empty", "folder") and file != "manifest.json")
    assert "goes on from" in second and "step-00000002" in second


def test_all_damaged_is_one_line_that_says_what_to_do(tmp_path):
    trained(tmp_path)
    for checkpoint in tmp_path.iterdir():
        flip(checkpoint / "weights.safetensors")
    _, optimizer = make()
    before = {n: m.clone() for n, m in optimizer.masters.items()}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path, optimizer)
    said = str(caught.value)
    assert "step-00000003: weights.safetensors is not as it was written" in said and f"delete {tmp_path}" in said
    assert "\n" not in said
    assert all(torch.equal(optimizer.masters[n], x) for n, x in before.items())


def test_a_checkpoint_of_another_model_is_refused_before_anything_is_changed(tmp_path):
    trained(tmp_path, 1)
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3))
    optimizer = Optimizer(dict(model.named_parameters()), OptimConfig(), 10)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(CheckpointError, match=r"1\.weight is missing or has another shape"):
        load_checkpoint(tmp_path, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_new_checkpoint_replaces_the_damaged_and_never_counts_those_as_kept(tmp_path):
    trained(tmp_path, 4, keep=1)
    shutil.copytree(tmp_path / "step-00000004", tmp_path / "step-00000003")
    for name in ("step-00000003", "step-00000004"):
        flip(tmp_path / name / "state.json")
    _, optimizer = make()
    save_checkpoint(tmp_path, optimizer, {"step": 3}, keep=1)
    assert names(tmp_path) == ["step-00000003"]
    assert load_checkpoint(tmp_path, optimizer) == {"step": 3}


def test_a_sound_checkpoint_of_the_same_step_is_left_where_it_is(tmp_path):
    """To replace it would mean a moment without any."""
    optimizer = trained(tmp_path, 1)
    before = (tmp_path / "step-00000001" / "manifest.json").stat()
    save_checkpoint(tmp_path, optimizer, {"step": 1}, keep=1)
    assert os.path.samestat(before, (tmp_path / "step-00000001" / "manifest.json").stat())


# ---- a save that fails --------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["save_file", "sha256", "sync", "os.replace"])
def test_a_disk_that_fills_while_saving_leaves_the_checkpoint_before(tmp_path, monkeypatch, function):
    trained(tmp_path, 2)
    before = names(tmp_path)
    _, optimizer = make()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"grpo.runs.checkpoint.{function}", full)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(tmp_path, optimizer, {"step": 3}, keep=2)
    assert names(tmp_path) == before
    assert load_checkpoint(tmp_path, optimizer)["step"] == 2
    save_checkpoint(tmp_path, optimizer, {"step": 3}, keep=2)
    assert names(tmp_path) == ["step-00000002", "step-00000003"]


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
    assert sorted(calls[:4]) == sorted([*FILES, "manifest.json"])
    assert calls[4:] == ["partial", "rename", tmp_path.name]


# ---- in a run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", [("step-00000003",), ("step-00000003", "step-00000002")])
def test_a_run_goes_on_from_the_checkpoint_before_or_says_what_to_do(tmp_path, capsys, damaged):
    assert run_stage("sft", tmp_path / "whole") == 0
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        original = grpo.sft.sft_step

        def step(*a):
            if a[-1] == 3:
                raise KeyboardInterrupt
            return original(*a)

        patch.setattr(grpo.sft, "sft_step", step)
        assert run_stage("sft", run) == 130
    for name in damaged:
        flip(run / "checkpoints" / name / "optimizer.safetensors")
    capsys.readouterr()
    if len(damaged) == 2:
        assert run_stage("sft", run) == 2
        assert "no checkpoint before it is sound: restore one from a backup, or delete" in one_line(capsys)
        shutil.rmtree(run / "checkpoints")
    assert run_stage("sft", run) == 0
    ours, theirs = weights(run), weights(tmp_path / "whole")
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs) and metrics(run) == metrics(tmp_path / "whole")


# ---- whatever a file may hold -------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*FILES, "files", "bytes", "sha256", "step", "../x", "/etc/passwd"]), inner)
    ),
    max_leaves=12,
)
CONTENT = st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode())


@given(CONTENT)
def test_any_manifest_is_sizes_and_checksums_of_the_three_files_or_one_line(content):
    try:
        assert set(read_manifest(content)) == set(FILES)
    except CheckpointError as error:
        assert str(error).startswith("manifest.json is damaged: ") and "\n" not in str(error)


@given(CONTENT)
def test_any_state_is_whole_numbers_or_one_line(content):
    try:
        state = read_state(content)
        assert all(type(v) is int and v >= 0 for v in state.values()) and "step" in state
    except CheckpointError as error:
        assert str(error).startswith("state.json is damaged: ") and "\n" not in str(error)


@pytest.mark.parametrize("name", ["../weights.safetensors", "/etc/passwd", "weights.safetensors/../x", "..", ""])
def test_a_manifest_names_no_file_but_its_own(name):
    files = {n: {"bytes": 1, "sha256": "0"} for n in FILES}
    with pytest.raises(CheckpointError, match="and nothing else"):
        read_manifest(json.dumps({"files": {**files, name: {"bytes": 1, "sha256": "0"}}}).encode())
    with pytest.raises(CheckpointError, match="and nothing else"):
        read_manifest(json.dumps({"files": {name: {"bytes": 1, "sha256": "0"}}}).encode())


def test_deep_nesting_is_one_line():
    for read in (read_manifest, read_state):
        with pytest.raises(CheckpointError):
            read(b"[" * 100_000)
