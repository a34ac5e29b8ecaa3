"""What goes wrong around a run (disk, folder, reward, tokenizer, prompts): one line says what to do about it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers_runs import PARITY, lines, metrics, one_line, weights, write_module
from helpers_runs import grpo as run_stage
from safetensors import SafetensorError

import grpo.runs
import grpo.runs.keeper
import grpo.sft
from data.embedded.tiny_model import build_model, build_tokenizer
from grpo.runs.files import RunError, read_mapping


@pytest.fixture
def rewards(tmp_path, monkeypatch) -> list[str]:
    return [f"rewards.{write_module(tmp_path, monkeypatch, PARITY)}:parity.weight=1"]


def assert_same(run: Path, whole: Path) -> None:
    ours, theirs = weights(run), weights(whole)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs) and metrics(run) == metrics(whole)


# ---- disk and folder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [lambda: OSError(errno.ENOSPC, "No space left on device"), lambda: SafetensorError("No space left on device")],
    ids=["OSError", "SafetensorError"],
)
@pytest.mark.parametrize("where", ["grpo.runs.checkpoint.write", "grpo.model.policy.Policy.save"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(tmp_path, capsys, error, where):
    assert run_stage("sft", tmp_path / "whole") == 0
    run, calls = tmp_path / "run", []

    def full(*_):
        calls.append(0)
        if where.endswith("save") or len(calls) > 2:
            raise error()
        return original(*_)

    with pytest.MonkeyPatch.context() as patch:
        module, name = (grpo.runs.checkpoint, "write") if "checkpoint" in where else (grpo.model.policy.Policy, "save")
        original = getattr(module, name)
        patch.setattr(module, name, full)
        capsys.readouterr()
        assert run_stage("sft", run) == 2
    said = one_line(capsys)
    assert "No space left on device" in said and "free or fix it, then run the same command to continue" in said
    assert not (run / "checkpoints" / "partial").exists() and not (run / "model").exists()
    assert run_stage("sft", run) == 0
    assert_same(run, tmp_path / "whole")


def test_a_full_disk_under_the_metrics_is_one_line(tmp_path, capsys):
    assert run_stage("sft", tmp_path / "whole") == 0
    with pytest.MonkeyPatch.context() as patch:

        def step(log, number, _):
            log.metrics.write('{"step": 3, "lo')
            log.metrics.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

        original = grpo.runs.log.RunLog.step
        patch.setattr(grpo.runs.log.RunLog, "step", lambda *a: step(*a) if a[1] == 3 else original(*a))
        assert run_stage("sft", tmp_path / "run") == 2
    assert "No space left on device" in one_line(capsys)
    assert run_stage("sft", tmp_path / "run") == 0  # the half line is gone
    assert_same(tmp_path / "run", tmp_path / "whole")


def at_step(step: int, action) -> pytest.MonkeyPatch:
    """Do something before a step, counted from 0."""
    patch, original = pytest.MonkeyPatch(), grpo.sft.sft_step

    def acting(*arguments):
        if arguments[-1] == step:
            action()
        return original(*arguments)

    patch.setattr(grpo.sft, "sft_step", acting)
    return patch


@pytest.mark.parametrize("every", [1, 100])
@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_run_folder_that_vanishes_is_named_and_not_made_anew(tmp_path, capsys, how, every):
    run = tmp_path / "run"

    def vanish() -> None:
        if how == "deleted":
            shutil.rmtree(run)
        else:
            run.rename(tmp_path / "elsewhere")
        if how == "replaced":
            run.mkdir()
            (run / "lock").touch()

    patch = at_step(2, vanish)
    assert run_stage("sft", run, log__save_every=every) == 2
    patch.undo()
    said = one_line(capsys)
    assert f"run={run}: the folder was deleted or moved away while the run wrote to it; put it back" in said
    assert not run.exists() or [p.name for p in run.iterdir()] == ["lock"]
    if how == "moved":
        (tmp_path / "elsewhere").rename(run)
        assert run_stage("sft", run, log__save_every=every) == 0


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_is_read_only_is_named(tmp_path, capsys, monkeypatch, code):
    """Injected, as root may write anywhere."""

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert run_stage("sft", tmp_path / "run") == 2
    assert f"run={tmp_path / 'run'}: cannot be written: {os.strerror(code)}; name another folder" in one_line(capsys)


# ---- inputs that change under a run --------------------------------------------------------------------------


def stopped(run: Path, stage: str = "sft", *arguments: str, **settings) -> None:
    patch = at_step(2, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run_stage(stage, run, *arguments, **settings) == 130
    patch.undo()


def test_a_resume_on_other_data_is_refused(tmp_path, capsys):
    data = tmp_path / "mine.jsonl"
    rows = [{"question": f"{i} + 1?", "answer": str(i + 1), "solution": f"{i} + 1 = {i + 1}"} for i in range(6)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"data__source": data}
    stopped(tmp_path / "run", **settings)
    before = data.read_text()
    data.write_text(before.replace("5 + 1", "5  + 1"))
    capsys.readouterr()
    assert run_stage("sft", tmp_path / "run", **settings) == 2
    said = one_line(capsys)
    assert "the training data is not what this run began with (data_hash" in said
    assert "restore it, or name another folder with run=DIR" in said
    data.write_text(before)
    assert run_stage("sft", tmp_path / "run", **settings) == 0


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_resume_with_other_prompts_is_refused(tmp_path, capsys, rewards, stage):
    """As they are on another day, where the chat template prints today's."""
    save_tiny(tmp_path / "model", seed=0)
    template, run = tmp_path / "model" / "chat_template.jinja", tmp_path / "run"
    template.write_text("{% for m in messages %}{{ m['content'] }} 3{% endfor %}")
    extra = rewards if stage == "grpo" else []
    settings = {"model__path": tmp_path / "model", "prompt__style": "chat", "prompt__system": "''"}
    with pytest.MonkeyPatch.context() as patch:
        module, name = {"sft": (grpo.sft, "sft_step"), "grpo": (grpo.trainer, "update")}[stage]
        original = getattr(module, name)
        patch.setattr(module, name, lambda *a: original(*a) if a[-1] < 2 else (_ for _ in ()).throw(KeyboardInterrupt))
        assert run_stage(stage, run, *extra, **settings) == 130
    template.write_text(template.read_text().replace("3", "4"))
    capsys.readouterr()
    assert run_stage(stage, run, *extra, **settings) == 2
    said = one_line(capsys)
    assert "the text of the prompts (if it holds the day, set prompt.date) is not what this run began with" in said
    template.write_text(template.read_text().replace("4", "3"))
    assert run_stage(stage, run, *extra, **settings) == 0


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_resume_from_another_model_is_refused(tmp_path, capsys, rewards, stage):
    """The weights are the checkpoint's, but the KL's reference and a LoRA's base are not."""
    save_tiny(tmp_path / "model", seed=0)
    extra, run = rewards if stage == "grpo" else [], tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        module, name = {"sft": (grpo.sft, "sft_step"), "grpo": (grpo.trainer, "update")}[stage]
        original = getattr(module, name)
        patch.setattr(module, name, lambda *a: original(*a) if a[-1] < 2 else (_ for _ in ()).throw(KeyboardInterrupt))
        assert run_stage(stage, run, *extra, model__path=tmp_path / "model") == 130
    save_tiny(tmp_path / "model", seed=1)
    capsys.readouterr()
    assert run_stage(stage, run, *extra, model__path=tmp_path / "model") == 2
    assert "is not what this run began with (model_hash" in one_line(capsys)
    save_tiny(tmp_path / "model", seed=0)
    assert run_stage(stage, run, *extra, model__path=tmp_path / "model") == 0


def save_tiny(folder: Path, seed: int = 0, **tokens: str | None) -> None:
    build_model(seed).save_pretrained(folder)
    tokenizer = build_tokenizer()
    for name, value in tokens.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(folder)


# ---- files of a run that are damaged ------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_damaged_file_of_a_run_is_one_line(tmp_path, capsys, content):
    with pytest.raises(RunError) as caught:
        (tmp_path / "x.json").write_bytes(content)
        read_mapping(tmp_path / "x.json")
    assert "x.json: is damaged: " in str(caught.value) and "\n" not in str(caught.value)
    assert run_stage("eval", tmp_path / "run") == 0
    (tmp_path / "run" / "eval.json").write_bytes(content)
    capsys.readouterr()
    assert run_stage("eval", tmp_path / "run") == 2
    assert "eval.json: is damaged: " in one_line(capsys)
    (tmp_path / "run" / "model").mkdir()
    (tmp_path / "run" / "manifest.json").write_bytes(content)
    assert run_stage("sft", tmp_path / "child", model__path=tmp_path / "run") == 2
    assert "manifest.json: is damaged: " in one_line(capsys)


@pytest.mark.parametrize("line", ["{", '{"id": [], "response": "x"}'])
def test_damaged_samples_are_named_with_their_line(tmp_path, tmp_path_factory, capsys, line):
    from helpers_runs import memorised

    _, settings = memorised(tmp_path_factory)
    settings |= {"reject__samples": 4, "sft__steps": 2, "sft__batch_size": 2}
    stopped(tmp_path / "run", "reject", **{**settings, "sft__steps": 4})
    samples = tmp_path / "run" / "samples.jsonl"
    first, *rest = samples.read_text().splitlines()
    samples.write_text("\n".join([first, line, *rest]) + "\n")
    capsys.readouterr()
    assert run_stage("reject", tmp_path / "run", **{**settings, "sft__steps": 4}) == 2
    assert "samples.jsonl:2: is damaged: " in (said := one_line(capsys)) and "delete the file to sample again" in said


def test_missing_lines_before_the_checkpoint_are_said_and_the_run_goes_on(tmp_path, capsys):
    stopped(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    capsys.readouterr()
    assert run_stage("sft", tmp_path / "run") == 0
    assert "bytes before the checkpoint are missing; the run continues without them" in capsys.readouterr().err
    assert [row["step"] for row in lines(tmp_path / "run" / "metrics.jsonl")] == [3, 4]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
    ],
)
def test_out_of_memory_is_one_line_with_the_settings_and_these_may_change(tmp_path, capsys, monkeypatch, error):
    run = tmp_path / "run"

    def full(*arguments, **named):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(grpo.sft, "completion_logps", full)
        assert run_stage("sft", run) == 2
    said = one_line(capsys)
    assert "out of memory (" in said and "model.recompute=full" in said and "tokens_per_micro_batch" in said
    assert run_stage("sft", run, "tokens_per_micro_batch=100", "sampling.max_rows=3", "model.recompute=full") == 0


def test_another_error_of_pytorch_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(grpo.sft, "completion_logps", lambda *_, **__: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        run_stage("sft", tmp_path / "run")
