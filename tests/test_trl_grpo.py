"""The stage `trl` of an ablation: TRL's GRPOTrainer with a configuration of ours, evaluated as a run of ours."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import trl_grpo
from experiments.lab.plan import nodes_of, read_plan
from experiments.lab.runner import complete
from grpo.results.curve import read_curve
from grpo.runs.settings import load_config

NOT_DROPPED = ["grpo.drop_zero_spread=false", "grpo.drop_by=[]"]
SMALL = [
    "model.path=tiny", "grpo.steps=1", "grpo.prompts_per_step=4", "grpo.group_size=4", "sampling.max_new_tokens=48",
    "data.count=20", "eval.data.count=2", "eval.samples=1", "eval.pass_at=[1]", "eval.every=1", *NOT_DROPPED,
]  # fmt: skip


@pytest.mark.slow
def test_a_run_of_trl_is_evaluated_like_one_of_ours(tmp_path, monkeypatch):
    pytest.importorskip("trl")
    monkeypatch.setattr(trl_grpo, "evaluate", lambda command: subprocess.run(command).returncode)
    run, training = tmp_path / "trl", tmp_path / "trl-training"
    words = ["--config", "experiments/demo/grpo.yaml", f"run={run}/", *SMALL]
    assert trl_grpo.main(words) == 0
    assert complete(run) and [row["step"] for row in read_curve(training)] == [0, 1]
    facts = json.loads((training / "training.json").read_text())
    assert facts["seconds"] > 0 and facts["trl"] == importlib.metadata.version("trl")
    step = json.loads((tmp_path / "trl-training" / "metrics.jsonl").read_text())
    assert step["step"] == 1 and step["grad_norm"] > 0 and step["learning_rate"] == pytest.approx(3e-4 / 5)
    assert 0 <= step["reward_accuracy"] <= 1 and step["length"] > 0 and step["seconds"] > 0
    (tmp_path / "trl-training" / "metrics.jsonl").unlink()
    assert trl_grpo.main(words) == 0 and not (tmp_path / "trl-training" / "metrics.jsonl").exists(), "trained again"


def test_what_trl_does_in_another_way_is_refused(capsys):
    for setting, said in (
        ("grpo.drop_zero_spread=true", "TRL drops no groups"),
        ("loss.aggregation=token_mean", "only the preset grpo"),
        ("loss.kl_ratio=true", "only the preset grpo"),
        ("grpo.mini_batches=4", "only one update a batch"),
        ("optim.schedule=cosine", "only a constant learning rate"),
        ("optim.weight_decay=0.1", "TRL decays vectors too"),
        ("grpo.mask_truncated=true", "TRL divides by all completions"),
        ("sampling.stop=[x]", "sampling.stop is not compared"),
        ("model.lora.rank=4", "only full-parameter training"),
        ("model.device=auto", "only model.device=cpu"),
        ("prompt.style=chat", "only prompt.style=plain"),
    ):
        words = ["--config", "experiments/demo/grpo.yaml", "model.path=tiny", *NOT_DROPPED, setting]
        assert trl_grpo.main(words) == 2
        assert said in capsys.readouterr().err


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "trl-training").mkdir()
    (tmp_path / "trl-training" / "mine.txt").write_text("mine")
    words = ["--config", "experiments/demo/grpo.yaml", f"run={tmp_path / 'trl'}", *SMALL]
    assert trl_grpo.main(words) == 2
    assert "no training of this command" in capsys.readouterr().err and (tmp_path / "trl-training/mine.txt").is_file()


def test_a_model_that_is_not_there_is_one_line(tmp_path, capsys):
    pytest.importorskip("trl")
    words = ["--config", "experiments/demo/grpo.yaml", f"run={tmp_path / 'trl'}", *SMALL, "model.path=no/such"]
    assert trl_grpo.main(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("trl_grpo: ") and "no/such" in said[0]


@pytest.mark.parametrize(("batch", "micro"), [((32, 8), 128), ((24, 8), 96), ((13, 10), 65), ((4, 4), 16)])
def test_a_step_of_trl_has_all_completions(tmp_path, batch, micro):
    pytest.importorskip("trl")
    prompts, size = batch
    config = load_config("experiments/demo/grpo.yaml", [*NOT_DROPPED, f"grpo.group_size={size}"])
    config = replace(config, grpo=replace(config.grpo, prompts_per_step=prompts))
    options = trl_grpo.options(config, tmp_path, [1.0])
    assert options.per_device_train_batch_size == micro
    assert options.generation_batch_size == micro * options.gradient_accumulation_steps == prompts * size


def test_the_options_say_what_the_configuration_says(tmp_path):
    pytest.importorskip("trl")
    config = load_config("experiments/demo/grpo.yaml", NOT_DROPPED)
    trl_grpo.checked(config)
    options = trl_grpo.options(config, tmp_path, [1.0, 0.2, 0.2])
    assert options.per_device_train_batch_size * options.gradient_accumulation_steps == 32 * 8
    assert (options.beta, options.epsilon, options.num_generations) == (0.01, 0.2, 8)
    assert (options.loss_type, options.scale_rewards, options.use_bias_correction_kl) == ("grpo", "group", False)
    assert (options.temperature, options.max_completion_length) == (1.0, 128)
    other = replace(config, sampling=replace(config.sampling, temperature=0.5))
    assert trl_grpo.options(other, tmp_path, [1.0]).temperature == 0.5


def test_the_ablation_runs_it_by_its_command(tmp_path, monkeypatch):
    plan = read_plan(Path("experiments/ablations/trl.yaml"))
    nodes = nodes_of(plan, tmp_path, [0])["TRL", 0]
    assert [node.stage.name for node in nodes] == ["sft", "trl"]
    assert nodes[1].command[1:3] == ("-m", "experiments.trl_grpo") and nodes[1].steps == 25
    assert nodes[1].training == tmp_path / "seed0" / f"{nodes[1].folder.name}-training"
    monkeypatch.setattr("experiments.lab.plan.trl_code", lambda: ["another version"])
    again = nodes_of(plan, tmp_path, [0])["TRL", 0]
    assert again[0].folder == nodes[0].folder and again[1].folder != nodes[1].folder
