"""Model folders from anywhere: no pickle, no path out of the folder; a checkpoint as a folder for anyone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from helpers_runs import command, one_line, write_module
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from data.embedded.tiny_model import BASE_FOLDER
from grpo import cli
from grpo.model.policy import ModelConfig, ModelError, load_policy


@pytest.fixture
def folder(tmp_path) -> Path:
    shutil.copytree(BASE_FOLDER, tmp_path / "model")
    return tmp_path / "model"


def test_weights_in_a_pickle_are_not_read(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors") as caught:
        load_policy(ModelConfig(path=str(folder)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors", "sub/outside.safetensors"])
def test_an_index_that_leads_out_of_the_folder_is_refused(folder, name):
    outside = folder / name
    if not name.startswith("/"):
        outside.parent.mkdir(exist_ok=True)
        shutil.move(folder / "model.safetensors", outside)
    names = load_file(BASE_FOLDER / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, name)}))
    with pytest.raises(ModelError, match="no file of the folder"):
        load_policy(ModelConfig(path=str(folder)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_becomes_a_model_folder(tmp_path, monkeypatch, capsys, dtype):
    run = tmp_path / "run"
    monkeypatch.setattr("grpo.runs.folder._tidy", lambda folder: None)  # keeps the checkpoints
    assert cli.main(command("sft", run, model__dtype=dtype)) == 0
    assert cli.main(["export", str(run), str(tmp_path / "out")]) == 0
    expected = AutoModelForCausalLM.from_pretrained(run / "model").state_dict()
    for name, tensor in AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict().items():
        assert tensor.equal(expected[name])
    capsys.readouterr()
    assert cli.main(["export", str(run), str(tmp_path / "out")]) == 2
    assert "exists already; name a new folder" in one_line(capsys)
    assert cli.main(["export", str(tmp_path), str(tmp_path / "new")]) == 2
    assert "cannot be loaded" in one_line(capsys)
    assert not (tmp_path / "new").exists()


def test_an_adapter_is_merged_into_one_folder(tmp_path, capsys):
    assert cli.main(command("sft", tmp_path / "run", model__lora__rank=2)) == 0
    capsys.readouterr()
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "merged")]) == 0
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    expected = load_policy(ModelConfig(str(tmp_path / "run"))).model.state_dict()
    base = load_policy(ModelConfig("tiny-init")).model.state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in merged.items())
    assert any(not tensor.equal(base[name]) for name, tensor in merged.items())


def test_exporting_a_foreign_run_imports_none_of_the_modules_that_it_names(tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr("grpo.runs.folder._tidy", lambda folder: None)  # keeps the checkpoints
    assert cli.main(command("sft", run)) == 0
    module = write_module(tmp_path, monkeypatch, f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["rewards"] = {f"{module}:reward": {"weight": 1.0}}
    config["loss"]["surrogate"] = f"{module}:surrogate"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert cli.main(["export", str(run), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "model.safetensors").exists() and not (tmp_path / "ran").exists()
