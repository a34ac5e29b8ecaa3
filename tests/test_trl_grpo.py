"""The stage `trl` of an ablation: TRL's GRPOTrainer with a configuration of ours, evaluated as a run of ours."""

from __future__ import annotations

import json
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
def test_a_run_of_trl_is_evaluated_like_one_of_ours(tmp_path):
    pytest.importorskip("trl")
    run = tmp_path / "trl"
    words = ["--config", "experiments/demo/grpo.yaml", f"run={run}", *SMALL]
    assert trl_grpo.main(words) == 0
    assert complete(run) and [row["step"] for row in read_curve(run)] == [0, 1]
    step = json.loads((tmp_path / "trl-training" / "metrics.jsonl").read_text())
    assert step["step"] == 1 and step["grad_norm"] > 0 and step["learning_rate"] == pytest.approx(3e-4 / 5)
    assert 0 <= step["reward_accuracy"] <= 1 and step["length"] > 0 and step["seconds"] > 0
    (tmp_path / "trl-training" / "metrics.jsonl").unlink()
    assert trl_grpo.main(words) == 0 and not (tmp_path / "trl-training" / "metrics.jsonl").exists(), "trained again"


def test_what_trl_does_in_another_way_is_refused(capsys):
    for setting, said in (
        ("grpo.drop_zero_spread=true", "TRL drops no groups"),
        ("loss.aggregation=token_mean", "only the preset grpo"),
        ("grpo.mini_batches=4", "only one update a batch"),
    ):
        words = ["--config", "experiments/demo/grpo.yaml", "model.path=tiny", *NOT_DROPPED, setting]
        assert trl_grpo.main(words) == 2
        assert said in capsys.readouterr().err


def test_the_options_say_what_the_configuration_says(tmp_path):
    pytest.importorskip("trl")
    config = load_config("experiments/demo/grpo.yaml", NOT_DROPPED)
    trl_grpo.checked(config)
    options = trl_grpo.options(config, tmp_path, [1.0, 0.2, 0.2])
    assert options.per_device_train_batch_size * options.gradient_accumulation_steps == 32 * 8
    assert (options.beta, options.epsilon, options.num_generations) == (0.01, 0.2, 8)
    assert (options.temperature, options.max_completion_length) == (1.0, 128)
    other = replace(config, sampling=replace(config.sampling, temperature=0.5))
    assert trl_grpo.options(other, tmp_path, [1.0]).temperature == 0.5


def test_the_ablation_runs_it_by_its_command(tmp_path):
    plan = read_plan(Path("experiments/ablations/trl.yaml"))
    nodes = nodes_of(plan, tmp_path, [0])["TRL", 0]
    assert [node.stage.name for node in nodes] == ["sft", "trl"]
    assert nodes[1].command[1:3] == ("-m", "experiments.trl_grpo") and nodes[1].steps == 25
