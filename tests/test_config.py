"""From YAML and `key=value` to a Config and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from helpers_runs import PARITY, command, write_module

from grpo import cli
from grpo.loss import PRESETS
from grpo.runs.config import Config, RewardConfig, to_yaml
from grpo.runs.hints import known_keys
from grpo.runs.settings import load_config

REPO = Path(__file__).parents[1]
CONFIGS = [f for f in sorted((REPO / "experiments").rglob("*.yaml")) if "stages" not in yaml.safe_load(f.read_text())]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: str(f.relative_to(REPO)))
def test_every_experiment_loads_and_its_resolved_form_reads_back_equal(file, tmp_path):
    config = load_config(str(file))
    (tmp_path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert load_config(str(tmp_path / "config.yaml")) == config


def test_every_stage_of_every_experiment_goes_on_from_the_stage_before():
    folders = {f.parent for f in CONFIGS if (f.parent / "eval.yaml").exists()}
    assert {folder.name for folder in folders} == {"demo", "svamp", "gsm8k", "paper"}
    for folder in folders:
        names = ["base", "sft", "grpo_only", "grpo"] + ["reject", "final"] * (folder / "final.yaml").exists()
        stages = {name: load_config(str(folder / f"{name}.yaml")) for name in names}
        base, sft, only, *later = stages.values()
        assert base.model.path == sft.model.path == only.model.path
        assert [stage.model.path for stage in later] == [stage.run for stage in [sft, *later][:-1]]
        runs = {config.run for config in stages.values()}
        assert len(runs) == len(stages) and {Path(run).parent for run in runs} == {Path(f"runs/{folder.name}")}
        # stage 4 shows what the others have evaluated
        last = load_config(str(folder / "eval.yaml"))
        assert last.eval.folder == f"runs/{folder.name}" and Path(last.run).parent == Path(last.eval.folder)
        for config in stages.values():
            assert dataclasses.replace(config.eval, folder=last.eval.folder) == last.eval
            assert (config.prompt, config.rewards["accuracy"].args) == (last.prompt, last.rewards["accuracy"].args)


def test_ablations_change_only_keys_that_exist():
    for file in sorted((REPO / "experiments").rglob("*.yaml")):
        plan = yaml.safe_load(file.read_text())
        for variant in plan.get("variants", {}).values():
            per_stage = variant if isinstance(variant, dict) else dict.fromkeys(plan["stages"], variant)
            for stage, settings in per_stage.items():
                settings = [] if settings == "skip" else settings
                file = plan["stages"][stage]
                load_config(str(REPO / (file["file"] if isinstance(file, dict) else file)), settings)


def test_files_override_their_includes_and_the_command_line_overrides_both(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.yaml").write_text("seed: 1\ngrpo: {steps: 5, group_size: 4}\nrun: a\n")
    (tmp_path / "b.yaml").write_text("include: sub/a.yaml\ngrpo: {steps: 6}\nrun: b\n")
    config = load_config(str(tmp_path / "b.yaml"), ["run=c", "grpo.max_refills=7"])
    assert (config.seed, config.run) == (1, "c")
    assert (config.grpo.steps, config.grpo.group_size, config.grpo.max_refills) == (6, 4, 7)


def test_a_later_file_of_a_list_is_over_those_before_it(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 1\nrun: a\nloss: {beta: 0.3}\n")
    (tmp_path / "b.yaml").write_text("run: b\nloss: {preset: dapo}\n")
    (tmp_path / "c.yaml").write_text("include: [a.yaml, b.yaml]\ngrpo: {steps: 7}\n")
    config = load_config(str(tmp_path / "c.yaml"))
    assert (config.seed, config.run, config.grpo.steps, config.loss) == (1, "b", 7, PRESETS["dapo"])


def test_a_preset_is_where_the_loss_starts_and_further_keys_go_on_from_there(tmp_path):
    assert load_config(None, ["loss.preset=dapo"]).loss == PRESETS["dapo"]
    changed = load_config(None, ["loss.eps_high=0.3", "loss.preset=dapo"]).loss
    assert changed == dataclasses.replace(PRESETS["dapo"], eps_high=0.3)
    (tmp_path / "c.yaml").write_text("loss: {preset: dr_grpo, beta: 0.1}\n")
    assert load_config(str(tmp_path / "c.yaml")).loss == dataclasses.replace(PRESETS["dr_grpo"], beta=0.1)
    (tmp_path / "d.yaml").write_text("include: c.yaml\nloss: {eps_low: 0.1}\n")
    assert load_config(str(tmp_path / "d.yaml"), ["loss.kl=k2"]).loss == dataclasses.replace(
        PRESETS["dr_grpo"], beta=0.1, eps_low=0.1, kl="k2"
    )


@pytest.mark.parametrize(
    ("file", "preset"),
    [*((file, "dapo") for file in CONFIGS), *((REPO / "experiments/demo/grpo.yaml", preset) for preset in PRESETS)],
    ids=lambda one: str(one).removeprefix(f"{REPO}/"),
)
def test_a_preset_replaces_the_loss_of_the_layers_below_it(file, preset, tmp_path):
    """`loss.preset=dapo` on the demo is DAPO, whatever beta its file has."""
    assert load_config(str(file), [f"loss.preset={preset}"]).loss == PRESETS[preset]
    for settings in (["loss.beta=0.3", f"loss.preset={preset}"], [f"loss.preset={preset}", "loss.beta=0.3"]):
        assert load_config(str(file), settings).loss == dataclasses.replace(PRESETS[preset], beta=0.3)
    (tmp_path / "on_top.yaml").write_text(f"include: {file}\nloss: {{beta: 0.3, preset: {preset}}}\n")
    assert load_config(str(tmp_path / "on_top.yaml")).loss == dataclasses.replace(PRESETS[preset], beta=0.3)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_and_every_key_survive_the_way_into_a_file_and_back(tmp_path, preset):
    config = load_config(
        None, [f"loss.preset={preset}", "loss.entropy_bonus=0.5", "eval.pass_at=[2]", "optim.betas=[0.5, 0.6]"]
    )
    written = dataclasses.asdict(config)
    for key in set(known_keys()) - {"loss.preset"}:
        value = written
        for name in key.split("."):
            value = value[name]
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert load_config(str(tmp_path / "c.yaml")) == config


def test_rewards_are_a_mapping_in_the_order_written_with_free_arguments(tmp_path, monkeypatch):
    name = write_module(
        tmp_path, monkeypatch, PARITY + "def scaled(completions, factor=1, table=None, **columns): ...\n"
    )
    text = f"""
rewards:
  format: {{weight: 0.2}}
  accuracy:
  {name}:parity: {{weight: 0.5}}
  mine: {{function: "{name}:scaled", args: {{factor: 2, table: {{a: [1, {{b: null}}], c: {{}}}}}}}}
"""
    (tmp_path / "c.yaml").write_text(text)
    rewards = load_config(str(tmp_path / "c.yaml")).rewards
    assert list(rewards) == ["format", "accuracy", f"{name}:parity", "mine"]
    assert rewards["accuracy"] == RewardConfig()
    assert rewards["mine"].args == {"factor": 2, "table": {"a": [1, {"b": None}], "c": {}}}
    (tmp_path / "d.yaml").write_text(to_yaml(load_config(str(tmp_path / "c.yaml"))))
    assert load_config(str(tmp_path / "d.yaml")).rewards == rewards


def test_an_import_path_with_dots_is_one_key(tmp_path, monkeypatch):
    (tmp_path / "userpackage").mkdir()
    (tmp_path / "userpackage" / "__init__.py").write_text("")
    (tmp_path / "userpackage" / "scores.py").write_text(PARITY)
    monkeypatch.syspath_prepend(str(tmp_path))
    key = "userpackage.scores:parity"
    (tmp_path / "c.yaml").write_text(f"rewards: {{{key}: {{weight: 0.5}}}}\n")
    assert load_config(str(tmp_path / "c.yaml")).rewards == {key: RewardConfig(weight=0.5)}
    over = load_config(str(tmp_path / "c.yaml"), [f"rewards.{key}.weight=0.25", f"rewards.{key}.args={{}}"])
    assert over.rewards == {key: RewardConfig(weight=0.25)}
    assert load_config(None, [f"rewards.{key}="]).rewards == {key: RewardConfig()}


def test_a_whole_group_can_be_replaced_on_the_command_line(tmp_path):
    (tmp_path / "c.yaml").write_text("rewards: {accuracy: {weight: 2}, format: }\n")
    assert load_config(str(tmp_path / "c.yaml"), ["rewards={}"]).rewards == {}
    (tmp_path / "d.yaml").write_text("rewards: {}\n")
    assert list(load_config(str(tmp_path / "d.yaml"), ["rewards.format.weight=1"]).rewards) == ["format"]


def test_numbers_are_read_as_people_write_them():
    config = load_config(None, ["optim.lr=1e-4", "optim.eps=1.0e-6", "loss.delta=2", "model.revision=null"])
    assert (config.optim.lr, config.optim.eps, config.loss.delta, config.model.revision) == (1e-4, 1e-6, 2.0, None)


def test_every_key_can_be_set_and_every_field_is_documented(tmp_path):
    flat = load_config(None)
    for key in known_keys():
        value = flat
        if key in ("loss.preset", "rewards"):
            continue
        for name in key.split("."):
            value = getattr(value, name)
        text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
        assert load_config(None, [f"{key}={text}"]) == flat, key


def test_the_config_command_prints_what_reads_back_equal(tmp_path, capsys):
    assert cli.main(command("config", "somewhere", "rewards.accuracy.weight=0.5")) == 0
    (tmp_path / "c.yaml").write_text(capsys.readouterr().out)
    config = load_config(str(tmp_path / "c.yaml"))
    assert config.run == "somewhere" and config.rewards["accuracy"].weight == 0.5
    assert isinstance(config, Config)
    assert not Path("somewhere").exists()


def test_dapos_preset_drops_groups_by_correctness_unless_told_otherwise(tmp_path):
    rewards = ["rewards.accuracy.weight=1", "rewards.format.weight=0.2", "loss.preset=dapo"]
    config = load_config(None, rewards)
    assert config.grpo.drop_by == ("accuracy",)
    assert load_config(None, [*rewards, "grpo.drop_by=[format]"]).grpo.drop_by == ("format",)
    assert load_config(None, [*rewards, "grpo.drop_by=[]"]).grpo.drop_by == ()
    assert load_config(None, [*rewards[:2], "loss.preset=grpo"]).grpo.drop_by == ()
    assert load_config(None, rewards[1:]).grpo.drop_by == ()  # nothing here says what is correct
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert load_config(str(tmp_path / "c.yaml")) == config


def test_an_empty_text_may_be_written_as_nothing():
    assert load_config(None, ["eval.folder=", 'prompt.system=""']).eval.folder == ""


@pytest.mark.parametrize("folder", ["demo", "gsm8k", "svamp", "paper"])
def test_the_stages_of_an_experiment_have_the_same_rewards(folder):
    """So that their evaluations, which stand side by side, are of the same rewards."""
    stages = ("base", "sft", "grpo", "eval")
    found = [load_config(str(REPO / "experiments" / folder / f"{stage}.yaml")).rewards for stage in stages]
    assert all(one == found[0] for one in found), found
