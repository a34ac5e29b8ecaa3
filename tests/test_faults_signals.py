"""SIGTERM and SIGINT: the step is finished and saved, one line says how to continue, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers_runs import PARITY, manifest, metrics, one_line, saved_steps, weights, write_module
from helpers_runs import grpo as run_stage
from helpers_slow import quick

import grpo.experience
import grpo.sft
import grpo.trainer
from grpo.runs.journal import Journal, Judged
from grpo.runs.signals import Stopped, StopRequest

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.fixture(params=quick(CODES, signal.SIGTERM), ids=lambda s: s.name)
def number(request) -> int:
    return request.param


@pytest.fixture
def rewards(tmp_path, monkeypatch) -> list[str]:
    return [f"rewards.{write_module(tmp_path, monkeypatch, PARITY)}:parity.weight=1"]


def signal_in(module, function: str, call: int, *numbers: int) -> pytest.MonkeyPatch:
    """Send this process signals while `function` is called for the `call`-th time, counted from 0."""
    patch, original, calls = pytest.MonkeyPatch(), getattr(module, function), []

    def signalled(*arguments, **options):
        calls.append(0)
        if len(calls) == call + 1:
            for number in numbers:
                os.kill(os.getpid(), number)
        return original(*arguments, **options)

    patch.setattr(module, function, signalled)
    return patch


def assert_same(run: Path, whole: Path) -> None:
    ours, theirs = weights(run), weights(whole)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs) and metrics(run) == metrics(whole)
    assert (run / "completions.jsonl").read_bytes() == (whole / "completions.jsonl").read_bytes()


@pytest.mark.parametrize(("stage", "number"), [("sft", signal.SIGINT), ("grpo", signal.SIGTERM)])
def test_the_step_is_finished_and_saved(tmp_path, capfd, rewards, stage, number):
    extra = rewards if stage == "grpo" else []
    assert run_stage(stage, tmp_path / "whole", *extra) == 0
    run, module = tmp_path / "run", {"sft": grpo.sft, "grpo": grpo.trainer}[stage]
    patch = signal_in(module, {"sft": "sft_step", "grpo": "collect"}[stage], 1, number)
    handlers = [signal.getsignal(n) for n in CODES]
    capfd.readouterr()
    assert run_stage(stage, run, *extra, log__save_every=100) == CODES[number]
    patch.undo()
    assert [signal.getsignal(n) for n in CODES] == handlers
    said = capfd.readouterr().err.replace("\r", "\n")
    assert "grpo: stops as soon as this step is saved; once more to stop at once\n" in said
    assert said.rstrip().endswith(
        f"grpo: stopped after {run}: step 2 of 4, all of it saved; run the same command to continue"
    )
    assert "Traceback" not in said
    assert saved_steps(run) == [2]
    assert run_stage(stage, run, *extra, log__save_every=100) == 0
    assert_same(run, tmp_path / "whole")


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_second_signal_stops_at_once_and_loses_nothing(tmp_path, capsys, rewards, stage, number):
    extra = rewards if stage == "grpo" else []
    assert run_stage(stage, tmp_path / "whole", *extra) == 0
    module = {"sft": grpo.sft, "grpo": grpo.trainer}[stage]
    patch = signal_in(module, {"sft": "sft_step", "grpo": "update"}[stage], 2, number, number)
    capsys.readouterr()
    assert run_stage(stage, tmp_path / "run", *extra, log__save_every=2) == CODES[number]
    patch.undo()
    assert "stopped at once; run the same command to continue from the last checkpoint" in one_line(capsys)
    assert len(metrics(tmp_path / "run")) == 2
    assert run_stage(stage, tmp_path / "run", *extra, log__save_every=2) == 0
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_reward_cannot_swallow_the_second_signal(tmp_path, monkeypatch):
    """It runs inside `except Exception`, which must not take a stop for a failure of the reward."""
    source = "import os, signal\ndef f(completions, **c):\n    os.kill(os.getpid(), 15)\n    os.kill(os.getpid(), 15)\n"
    name = write_module(tmp_path, monkeypatch, source + "    return [0.0] * len(completions)\n")
    assert run_stage("grpo", tmp_path / "run", f"rewards.r.function={name}:f") == 143


def test_evaluation_goes_on_where_it_was(tmp_path, capsys, monkeypatch, number):
    """Two problems a round, three of six done: their completions are not sampled again."""
    settings = {"eval__data__count": 6, "sampling__max_rows": 4}
    assert run_stage("eval", tmp_path / "whole", **settings) == 0
    run = tmp_path / "run"
    patch = signal_in(grpo.experience, "sample_groups", 1, number)
    capsys.readouterr()
    assert run_stage("eval", run, **settings) == CODES[number]
    patch.undo()
    said = one_line(capsys)
    assert "sampled, 8 of 12 completions, all of it saved; run the same command to continue" in said
    assert not (run / "eval.json").exists() and "finished" not in manifest(run)
    assert run_stage("eval", run, eval__data__count=5, sampling__max_rows=4) == 2  # there is something to lose
    rounds, original = [], grpo.experience.sample_groups
    monkeypatch.setattr(grpo.experience, "sample_groups", lambda *a: rounds.append(a[2]) or original(*a))
    assert run_stage("eval", run, **settings) == 0
    assert [len(ids) for ids in rounds] == [2, 4, 2]  # the last of the sampled, two of the greedy
    assert (run / "eval.json").read_bytes() == (tmp_path / "whole" / "eval.json").read_bytes()
    assert (run / "eval.jsonl").read_bytes() == (tmp_path / "whole" / "eval.jsonl").read_bytes()


@pytest.mark.parametrize("damage", [b"", b'{"problem": 1', b"\x00\xff\n", b"[]\n", b'{"problem": "1"}\n'])
def test_a_judged_completion_that_is_cut_short_is_judged_again(tmp_path, damage):
    settings = {"eval__data__count": 6, "sampling__max_rows": 4}
    assert run_stage("eval", tmp_path / "whole", **settings) == 0
    run = tmp_path / "run"
    patch = signal_in(grpo.experience, "sample_groups", 1, signal.SIGTERM)
    assert run_stage("eval", run, **settings) == 143
    patch.undo()
    journal = run / "eval.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(
        b"".join(lines[:6]) + damage + b"".join(lines[6:])
    )  # the head and a round and more, then damage
    assert run_stage("eval", run, **settings) == 0
    assert (run / "eval.json").read_bytes() == (tmp_path / "whole" / "eval.json").read_bytes()


def test_a_journal_is_cut_back_to_its_last_whole_round(tmp_path):
    """On the disk too: what is added later must follow what was read."""
    run = SimpleNamespace(folder=tmp_path, stop=StopRequest())
    rows = [Judged(i // 2, f"text {i}", True, True, 0, None, 3, False) for i in range(10)]
    greedy = [replace(row, kind="greedy") for row in rows[::2]]

    def read() -> tuple[Journal, list[Judged], list[Judged]]:
        journal = Journal(run, "eval.jsonl", "w")
        return journal, journal.resume("sampled", 10, 4), journal.resume("greedy", 5, 4)

    journal, *nothing = read()
    assert nothing == [[], []]
    journal.add(rows[:4], "")
    journal.add(rows[4:8], "")
    assert read()[1:] == (rows[:8], [])
    whole = journal.path.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + b"garbage\n", whole.replace(b"text 7", b"text\n7"), whole[:-9]):
        journal.path.write_bytes(damaged)
        assert read()[1:] == (rows[:4], [])
        assert whole.startswith(journal.path.read_bytes()) and len(journal.path.read_bytes().splitlines()) == 5
    again, *_ = read()
    again.add(rows[4:8], "")
    again.add(rows[8:], "")
    assert read()[1:] == (rows, [])  # the last round is a short one
    again.add(greedy[:4], "")
    again.add(greedy[4:], "")
    assert read()[1:] == (rows, greedy)
    again.path.write_bytes(again.path.read_bytes()[:-1])
    assert read()[1:] == (rows, greedy[:4])
    assert Journal(run, "eval.jsonl", "other").rows == []


def test_what_other_weights_sampled_is_not_used(tmp_path):
    settings = {"eval__data__count": 4, "sampling__max_rows": 4}
    assert run_stage("eval", tmp_path / "whole", **settings) == 0
    run = tmp_path / "run"
    patch = signal_in(grpo.experience, "sample_groups", 0, signal.SIGTERM)
    assert run_stage("eval", run, **settings) == 143
    patch.undo()
    journal = run / "eval.jsonl"
    head, *rows = journal.read_text().splitlines()
    other = [json.dumps({**json.loads(row), "correct": True, "tokens": 999}) for row in rows]
    journal.write_text("\n".join([head.replace(json.loads(head)["origin"], "0" * 64), *other]) + "\n")
    assert run_stage("eval", run, **settings) == 0
    assert (run / "eval.json").read_bytes() == (tmp_path / "whole" / "eval.json").read_bytes()


def test_the_evaluation_at_the_end_goes_on_too(tmp_path, number):
    settings = {"eval__at_end": "true", "sampling__max_rows": 2, "sft__steps": 2}
    assert run_stage("sft", tmp_path / "whole", **settings) == 0
    run = tmp_path / "run"
    patch = signal_in(grpo.experience, "sample_groups", 1, number)
    assert run_stage("sft", run, **settings) == CODES[number]
    patch.undo()
    with pytest.MonkeyPatch.context() as context:
        context.setattr(grpo.sft, "sft_step", None)  # no step is taken again
        assert run_stage("sft", run, **settings) == 0
    assert_same(run, tmp_path / "whole")
    assert (run / "eval.json").read_bytes() == (tmp_path / "whole" / "eval.json").read_bytes()


def test_rejection_sampling_goes_on_where_it_was(tmp_path, tmp_path_factory, number):
    from helpers_runs import memorised

    _, settings = memorised(tmp_path_factory)
    settings |= {"reject__samples": 4, "sft__steps": 2, "sft__batch_size": 2, "sampling__max_rows": 4}
    assert run_stage("reject", tmp_path / "whole", **settings) == 0
    run = tmp_path / "run"
    patch = signal_in(grpo.experience, "sample_groups", 2, number)
    assert run_stage("reject", run, **settings) == CODES[number]
    patch.undo()
    assert not (run / "samples.jsonl").exists()
    assert len((run / "sampled.jsonl").read_text().splitlines()) == 1 + 12
    assert run_stage("reject", run, **settings) == 0
    for name in ("samples.jsonl", "rejection.json"):
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert_same(run, tmp_path / "whole")
    assert not (run / "sampled.jsonl").exists()


def test_a_request_in_another_thread_leaves_the_handlers_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def enter() -> None:
        with StopRequest() as request:
            seen.append((signal.getsignal(signal.SIGTERM), request.agree()))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


def test_nothing_asked_nothing_raised():
    request = StopRequest()
    request.check("step 1")
    with request:
        os.kill(os.getpid(), signal.SIGTERM)
    request.check("step 1")  # it came after the last agreement, and may not end a step that is not saved
    assert request.agree()
    with pytest.raises(Stopped, match="stopped after step 2"):
        request.check("step 2")
