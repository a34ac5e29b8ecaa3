"""The command line: exit codes, what is said where, and the four stages one after another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers_runs import command, grpo, lines, manifest, memorised, one_line
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo import cli

REPO = Path(__file__).parents[1]


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert all(f"\n    {name} " in said for name in ("sft", "grpo", "reject", "eval", "sample", "report", "config"))


@pytest.mark.parametrize("arguments", [[], ["train"], ["sft", "--conf"]])
def test_a_command_that_does_not_exist_ends_with_code_2(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2 and "Traceback" not in capsys.readouterr().err


def test_a_file_that_is_not_there_is_one_line(tmp_path, capsys):
    assert cli.main(["sft", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: cannot be read: No such file or directory" in one_line(capsys)


def test_settings_in_a_file_and_on_the_command_line(tmp_path):
    (tmp_path / "c.yaml").write_text("sft: {steps: 2}\n")
    arguments = [
        a for a in command("sft", tmp_path / "run", config=tmp_path / "c.yaml") if not a.startswith("sft.steps")
    ]
    assert cli.main(arguments) == 0
    assert len(lines(tmp_path / "run" / "metrics.jsonl")) == 2


def test_an_interrupt_ends_with_code_130_and_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("grpo.sft.sft_step", interrupt)
    assert grpo("sft", tmp_path / "run") == 130
    assert "interrupted; the same command continues from the last checkpoint" in one_line(capsys)


def test_a_disk_that_fails_is_one_line_and_the_run_goes_on_afterwards(tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("grpo.runs.keeper.save_checkpoint", fail)
        assert grpo("sft", tmp_path / "run") == 2
    said = one_line(capsys)
    assert "No space left on device; free or fix it, then run the same command to continue" in said
    with monkeypatch.context() as patch:
        patch.setattr("grpo.runs.folder.write_text", fail)
        assert grpo("sft", tmp_path / "other") == 2
    assert "No space left on device" in one_line(capsys)
    assert grpo("sft", tmp_path / "run") == 0


def test_sample_prints_completions_with_their_gold(tmp_path, capsys):
    assert grpo("sample", tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert said.count("--- demo/test/") == 6 and "gold " in said and " reflections" in said
    assert said.count(", sample 1 of 2: ") == said.count(", sample 2 of 2: ") == 3
    assert not (tmp_path / "run").exists()


def test_the_four_stages_follow_one_another(tmp_path, tmp_path_factory, capsys):
    base, settings = memorised(tmp_path_factory)
    settings |= {"optim__lr": 1e-4, "sft__batch_size": 2, "sft__steps": 2, "eval__at_end": "true"}
    rewards = ("rewards.accuracy.weight=1", "rewards.format.weight=0.2", "rewards.reflection.args.mode=gated")
    parent = base
    for name, stage in (("1-sft", "sft"), ("2-grpo", "grpo"), ("3-reject", "reject"), ("4-final", "grpo")):
        run = tmp_path / name
        extra = rewards if stage == "grpo" else ()
        assert grpo(stage, run, *extra, **{**settings, "model__path": parent}) == 0, capsys.readouterr().err
        said = capsys.readouterr()
        assert "accuracy, sampled" in said.out and f"{run}: complete; the model is in {run / 'model'}" in said.err
        assert manifest(run)["parent"]["model"] == str(parent)
        assert json.loads((run / "eval.json").read_text())["problems"] == 4
        model = AutoModelForCausalLM.from_pretrained(run / "model")
        ids = AutoTokenizer.from_pretrained(run / "model")("Ana has 3 apples.", return_tensors="pt")
        assert model(**ids).logits.isfinite().all()
        parent = run
    sampled = lines(tmp_path / "2-grpo" / "completions.jsonl")
    assert {"accuracy", "format", "reflection"} == set(sampled[0]["rewards"])


def test_the_same_command_gives_the_same_run(tmp_path):
    for name in "ab":
        torch.manual_seed(ord(name))
        assert grpo("grpo", tmp_path / name, "rewards.repetition=") == 0
    a, b = (lines(tmp_path / name / "completions.jsonl") for name in "ab")
    assert a == b
    assert grpo("grpo", tmp_path / "c", "rewards.repetition=", seed=1) == 0
    assert lines(tmp_path / "c" / "completions.jsonl") != a


@pytest.mark.slow
def test_the_module_runs_as_a_process(tmp_path):
    """Exit code, one line and no traceback, as a shell sees them; nothing on stdout."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "grpo", *command("sft", tmp_path / "run", "seeed=1")]
    out = subprocess.run(arguments, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert (out.returncode, out.stdout) == (2, "")
    assert out.stderr == "grpo: command line: unknown key 'seeed'; did you mean 'seed'?\n"
    assert list(tmp_path.iterdir()) == []


def test_stage_4_shows_every_model_of_the_folder_side_by_side(tmp_path, capsys):
    """What a run has evaluated itself in the same way is taken; other evaluations are made, in folders of their own."""
    settings = {"eval__at_end": "true", "rewards__format__weight": 1}
    assert grpo("base", tmp_path / "1-base", **settings) == 0
    out = capsys.readouterr().out
    rows = lines(tmp_path / "1-base" / "completions.jsonl")
    assert len(rows) == 3 and all(row["completion"] in out and row["rewards"] for row in rows)  # as many as there are
    assert grpo("sft", tmp_path / "2-sft", **settings) == 0
    assert grpo("grpo", tmp_path / "3-grpo", grpo__steps=1, grpo__drop_zero_spread="false", **settings) == 0
    (tmp_path / "4-unfinished").mkdir()
    (tmp_path / "4-unfinished" / "manifest.json").write_text('{"stage": "base"}')
    capsys.readouterr()
    assert grpo("eval", tmp_path / "eval", eval__folder=tmp_path, **settings) == 0
    table = capsys.readouterr().out
    assert table.splitlines()[0].split() == ["1-base", "2-sft", "3-grpo"]
    assert "standard error" in table and "Level" in table and not (tmp_path / "eval").exists()
    for key in ("code", "eval_hash"):  # of another code, or of other held-out problems: it is evaluated again
        path = tmp_path / "2-sft" / "manifest.json"
        before = path.read_text()
        path.write_text(json.dumps(json.loads(before) | {key: "another"}))
        assert grpo("eval", tmp_path / key, eval__folder=tmp_path, **settings) == 0
        assert [one.name for one in (tmp_path / key).iterdir()] == ["2-sft"]
        path.write_text(before)
        shutil.rmtree(tmp_path / key)
    assert grpo("eval", tmp_path / "eval", eval__folder=tmp_path, **settings | {"eval__data__count": 2}) == 0
    again = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "eval").glob("*/eval.json")}
    assert again.keys() == {"1-base", "2-sft", "3-grpo"} and all(one["problems"] == 2 for one in again.values())
    assert grpo("eval", tmp_path / "none", eval__folder=tmp_path / "nothing") == 2
    assert "no finished run is there; run a stage first" in one_line(capsys)
