"""Run folders: what is in one, who may write there, and what is left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from helpers_runs import PARITY, SMALL, grpo, lines, manifest, metrics, one_line, write_module
from transformers import AutoModelForCausalLM, AutoTokenizer

from data import Problem
from grpo import sft
from grpo.loss import LossConfig
from grpo.model.policy import ModelConfig, load_policy
from grpo.runs import folder
from grpo.runs.config import Config
from grpo.runs.folder import data_hash, fingerprint, open_run
from grpo.runs.settings import load_config


def files(folder: Path) -> dict[str, bytes]:
    """Every file with its content."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_a_finished_run_holds_what_the_module_promises(tmp_path):
    run = tmp_path / "deep" / "run"
    assert grpo("sft", run, eval__at_end="true") == 0
    there = {p.name for p in run.iterdir()}
    assert there >= {"config.yaml", "manifest.json", "metrics.jsonl", "completions.jsonl", "eval.json", "model"}
    assert not there & {"checkpoints", "model.partial"} and not list(run.rglob("*.partial"))
    assert load_config(str(run / "config.yaml")).run == str(run)
    assert [row["step"] for row in lines(run / "metrics.jsonl")] == [1, 2, 3, 4]
    facts = manifest(run)
    assert facts["stage"] == "sft" and facts["seed"] == 0 and facts["parent"] == {"model": "tiny-init"}
    assert facts["finished"] >= facts["started"] and facts["versions"]["torch"] == torch.__version__
    assert len(facts["data_hash"]) == 64
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    assert model(**tokenizer("Ana has 3 apples.", return_tensors="pt")).logits.isfinite().all()


def test_a_manifest_names_the_run_that_its_model_came_from(tmp_path):
    assert grpo("sft", tmp_path / "a", seed=5) == 0
    for path in (tmp_path / "a", tmp_path / "a" / "model"):
        run = tmp_path / f"from-{path.name}"
        assert grpo("sft", run, model__path=path) == 0
        assert manifest(run)["parent"] == {"model": str(path), "stage": "sft", "seed": 5}


def test_the_data_hash_follows_the_problems(tmp_path):
    for name, start in (("a", 0), ("b", 0), ("c", 1)):
        assert grpo("sft", tmp_path / name, f"data.start={start}", sft__steps=1) == 0
    a, b, c = (manifest(tmp_path / name)["data_hash"] for name in "abc")
    assert a == b != c


def test_a_complete_run_is_left_alone_and_says_so(tmp_path, capsys):
    assert grpo("sft", tmp_path / "run") == 0
    before = files(tmp_path / "run")
    capsys.readouterr()
    assert grpo("sft", tmp_path / "run") == 0
    assert "this run is complete, nothing to do" in capsys.readouterr().err
    assert files(tmp_path / "run") == before


def test_other_settings_are_refused_with_the_differing_keys(tmp_path, capsys):
    assert grpo("sft", tmp_path / "run") == 0
    before = files(tmp_path / "run")
    capsys.readouterr()
    assert grpo("sft", tmp_path / "run", optim__lr=2e-3, sft__batch_size=2) == 2
    said = one_line(capsys)
    assert "optim.lr (0.001 there, 0.002 now)" in said and "sft.batch_size (3 there, 2 now)" in said
    assert "seed" not in said
    assert (
        grpo("sft", tmp_path / "run", "coldstart.reflect_share=0.1", seed=1, data__count=5, optim__eps=1, sft__steps=1)
        == 2
    )
    assert "and 1 more; name another folder with run=DIR, or delete this one" in one_line(capsys)
    assert grpo("grpo", tmp_path / "run", "rewards.format=") == 2
    assert "holds a sft run, not grpo" in one_line(capsys)
    assert files(tmp_path / "run") == before


def test_settings_that_change_nothing_may_differ(tmp_path):
    assert grpo("sft", tmp_path / "run") == 0
    assert grpo("sft", tmp_path / "run", "log.keep_checkpoints=1", eval__at_end="true", threads=1) == 0


def test_a_folder_with_other_files_is_refused_and_kept(tmp_path, capsys):
    for name in ("notes.txt", "config.yaml"):
        folder = tmp_path / f"my-{name}"
        folder.mkdir()
        (folder / name).write_text("mine")
        assert grpo("sft", folder) == 2
        assert "holds other files; name a new or empty one" in one_line(capsys)
        assert files(folder) == {name: b"mine"}
    (tmp_path / "file").write_text("mine")
    assert grpo("sft", tmp_path / "file") == 2
    assert "cannot be written: Not a directory" in one_line(capsys)


def test_an_empty_folder_and_one_of_a_start_cut_short_are_used(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").touch()
    (tmp_path / "run" / "manifest.json.partial").write_text('{"sta')
    assert grpo("sft", tmp_path / "run") == 0
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "manifest.json").write_text('{"stage": "sft"}')  # killed before config.yaml was written
    assert grpo("sft", tmp_path / "early") == 0
    assert manifest(tmp_path / "early")["finished"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert grpo("sft", tmp_path / "locked" / "run") == 2
    assert "cannot be written: Permission denied" in one_line(capsys)


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"stage": 1}', "\udcff"])
def test_a_damaged_manifest_is_one_line(tmp_path, capsys, damage):
    assert grpo("sft", tmp_path / "run", sft__steps=1) == 0
    (tmp_path / "run" / "manifest.json").write_text(damage, errors="surrogateescape")
    assert grpo("sft", tmp_path / "run", sft__steps=1) == 2
    said = one_line(capsys)
    assert "manifest.json: is damaged" in said or "run, not sft; name another folder" in said


def test_a_run_that_failed_before_its_first_step_may_start_anew_with_other_settings(tmp_path, capsys):
    run = tmp_path / "run"
    assert grpo("sft", run, model__path="./no/such/model") == 2
    assert "model.path=./no/such/model: cannot be loaded: no such folder" in one_line(capsys)
    assert grpo("sft", run, data__source="missing.jsonl") == 2
    assert "missing.jsonl: no such file" in one_line(capsys)
    assert grpo("sft", run) == 0
    assert manifest(run)["finished"] and manifest(run)["parent"] == {"model": "tiny-init"}
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["path"] == "tiny-init"


def test_two_processes_cannot_write_one_folder(tmp_path, capsys):
    """The second is this process; the first holds the folder open until it is told to go."""
    run, fork = tmp_path / "run", multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()

    def hold() -> None:
        opened = open_run(load_config(None, [f"{k}={v}" for k, v in {"run": run, **SMALL}.items()]), "sft")
        theirs.send(opened.complete)
        theirs.recv()

    other = fork.Process(target=hold, daemon=True)
    other.start()
    assert ours.recv() is False
    assert grpo("sft", run) == 2
    assert "another process is writing there" in one_line(capsys)
    ours.send("go")
    other.join()
    assert grpo("sft", run) == 0  # the lock went with the process


def test_evaluation_writes_its_result_once_and_shows_it_again(tmp_path, capsys):
    run = tmp_path / "run"
    assert grpo("eval", run) == 0
    table = capsys.readouterr().out
    result = json.loads((run / "eval.json").read_text())
    assert result["problems"] == 3 and result["samples"] == 2 and set(result["sampled"]["pass_at"]) == {"1", "2"}
    assert "tiny-init" in table
    before = files(run)
    assert grpo("eval", run) == 0
    after = files(run)
    assert before.pop("report.html") and after.pop("report.html")  # it says when it was written
    assert capsys.readouterr().out == table and after == before
    assert grpo("eval", run, eval__samples=4) == 2


def test_grpo_logs_each_reward_on_its_own(tmp_path, monkeypatch):
    name = write_module(
        tmp_path, monkeypatch, PARITY + "def none(completions, **columns): return [None] * len(completions)\n"
    )
    run = tmp_path / "run"
    rewards = (f"rewards.{name}:parity=", f"rewards.none.function={name}:none", "rewards.format.weight=0.5")
    assert grpo("grpo", run, *rewards) == 0
    first = lines(run / "metrics.jsonl")[0]
    assert first["reward_none"] is None and first["reward_format"] == 0.0
    assert first["reward"] == pytest.approx(first[f"reward_{name}:parity"])
    samples = lines(run / "completions.jsonl")
    assert sorted({row["step"] for row in samples}) == [1, 2, 3, 4] and len(samples) % 4 == 0
    assert set(samples[0]["rewards"]) == {f"{name}:parity", "none", "format"} and samples[0]["rewards"]["none"] is None


def test_a_complete_run_drops_what_a_kill_left_of_its_tidying(tmp_path):
    run = tmp_path / "run"
    assert grpo("sft", run) == 0
    (run / "checkpoints").mkdir()
    (run / "sampled.jsonl").touch()
    assert grpo("sft", run) == 0
    assert not (run / "checkpoints").exists() and not (run / "sampled.jsonl").exists()
    assert (run / "model").exists()


def test_the_data_hash_follows_all_that_a_reward_sees():
    problem = Problem("a/b/0", "q", "1", columns={"level": 2})
    others = [replace(problem, columns={"level": 3}), replace(problem, turns=[{"role": "user", "content": "x"}])]
    assert len({data_hash([problem]), *(data_hash([other]) for other in others)}) == 3
    assert data_hash([problem]) == data_hash([replace(problem)])


def test_the_fingerprint_sees_the_order_of_the_weights():
    policy = load_policy(ModelConfig(path="tiny-init"))
    seen = {fingerprint(policy)}
    with torch.no_grad():
        for name in ("model.layers.0.self_attn.q_proj.weight", "model.norm.weight"):
            p = policy.model.get_parameter(name)
            p[0] *= 2.0
            seen.add(fingerprint(policy))
            p[[0, 1]] = p[[1, 0]].clone()
            seen.add(fingerprint(policy))
    assert len(seen) == 5


# ---- longer runs, changed code -------------------------------------------------------------------------------


def stopped_after(step: int, run, *extra, **settings) -> None:
    with pytest.MonkeyPatch.context() as patch:
        original = sft.sft_step

        def interrupted(*arguments):
            if arguments[-1] == step:
                raise KeyboardInterrupt
            return original(*arguments)

        patch.setattr(sft, "sft_step", interrupted)
        assert grpo("sft", run, *extra, **settings) == 130


def test_an_unfinished_run_can_be_made_longer(tmp_path, capsys):
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert grpo("sft", whole, sft__steps=5, log__save_every=1) == 0
    stopped_after(2, run, sft__steps=3, log__save_every=1)
    assert grpo("sft", run, sft__steps=2, log__save_every=1) == 2  # not shorter
    assert "sft.steps (3 there, 2 now)" in capsys.readouterr().err
    assert grpo("sft", run, "optim.schedule=linear", sft__steps=5) == 2
    assert grpo("sft", run, sft__steps=5, log__save_every=1) == 0
    assert metrics(run) == metrics(whole)
    assert yaml.safe_load((run / "config.yaml").read_text())["sft"]["steps"] == 5
    capsys.readouterr()
    assert grpo("sft", run, sft__steps=6) == 2  # a finished one has dropped what it would continue from
    assert "only an unfinished run of optim.schedule=constant can be made longer" in one_line(capsys)


def test_changed_code_is_refused_or_accepted_and_recorded(tmp_path, capsys, monkeypatch):
    body = "def paid(completions, **_):\n    return [float(len(c) % 3) for c in completions]\n"
    (tmp_path / "my_paid.py").write_text(body)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    reward, run = "rewards.my_paid:paid.weight=1", tmp_path / "run"
    assert grpo("grpo", run, reward) == 0
    before = manifest(run)["code"]
    assert set(before) == {"grpo", "my_paid"} and all(len(digest) == 64 for digest in before.values())
    assert grpo("grpo", run, reward) == 0  # unchanged: nothing to do
    (tmp_path / "my_paid.py").write_text(body.replace("3", "4"))
    capsys.readouterr()
    assert grpo("grpo", run, reward) == 2
    said = one_line(capsys)
    assert "the code of my_paid has changed since the run began; accept_code=true continues with it" in said
    assert manifest(run)["code"] == before and "code_changes" not in manifest(run)
    assert grpo("grpo", run, reward, accept_code="true") == 0
    assert manifest(run)["code"] != before and manifest(run)["code_changes"][0]["before"] == before
    assert grpo("grpo", run, reward) == 0
    monkeypatch.setattr(folder, "code_hash", lambda config: {**manifest(run)["code"], "grpo": "0" * 64})
    assert grpo("grpo", run, reward) == 2
    assert "the code of grpo has changed" in capsys.readouterr().err


def test_the_modules_of_surrogate_and_weights_count_as_code(tmp_path, monkeypatch):
    own = write_module(tmp_path, monkeypatch, "def rare(tokens):\n    return tokens.logps.exp() < 0.9\n")
    for weight in (f"{own}:rare", {"name": f"{own}:rare", "args": {}}):
        config = Config(loss=LossConfig(weight=("tis", weight)))
        before = folder.code_hash(config)
        assert set(before) == {"grpo", own}
        (tmp_path / f"{own}.py").write_text(f"# {before[own]}\n")
        assert folder.code_hash(config)[own] != before[own]
