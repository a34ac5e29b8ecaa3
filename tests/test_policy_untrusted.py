"""Model folders from anywhere: no pickle, no path out of the folder; a checkpoint as a folder for anyone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers_runs import command, one_line
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from data.tiny_model import BASE_FOLDER
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
    assert "no run with checkpoints" in one_line(capsys)
    assert not (tmp_path / "new").exists()
