"""PEFT's file format: ours loads there, theirs loads here, and what we do not compute is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from helpers_models import plain
from helpers_runs import grpo as run_stage
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from grpo.model.lora import LoraConfig
from grpo.model.policy import ModelConfig, ModelError, load_policy

RANK = 4


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad(), plain(model):
        return model(torch.tensor([[5, 9, 7, 3]])).logits


@torch.no_grad()
def stir(model: nn.Module) -> None:
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.add_(0.1 * torch.randn(p.shape))


@pytest.fixture
def base(tmp_path) -> Path:
    load_policy(ModelConfig("tiny-init")).save(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(tmp_path, base) -> Path:
    """An adapter of ours, on a folder."""
    policy = load_policy(ModelConfig(str(base), lora=LoraConfig(rank=RANK, alpha=6)))
    stir(policy.model)
    policy.save(tmp_path / "ours")
    return tmp_path / "ours"


@pytest.mark.parametrize("targets", [(), ("q_proj", "up_proj"), ("layers.1.mlp.up_proj",)])
def test_our_adapter_gives_the_same_logits_in_peft(tmp_path, base, targets):
    peft = pytest.importorskip("peft")
    policy = load_policy(ModelConfig(str(base), lora=LoraConfig(rank=RANK, alpha=6, targets=targets)))
    stir(policy.model)
    policy.save(tmp_path / "ours")
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "ours")  # finds the base by itself
    assert torch.allclose(logits(theirs), logits(policy.model), atol=1e-5)
    assert not torch.allclose(logits(theirs), logits(load_policy(ModelConfig(str(base))).model), atol=1e-3)


def test_peft_finds_the_base_of_an_adapter_trained_from_a_run(tmp_path):
    peft = pytest.importorskip("peft")
    assert run_stage("sft", tmp_path / "full", sft__steps=1) == 0
    assert run_stage("sft", tmp_path / "lora", model__path=tmp_path / "full", model__lora__rank=RANK) == 0
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "lora" / "model")
    ours = load_policy(ModelConfig(str(tmp_path / "lora"), lora=LoraConfig(rank=RANK)))
    assert torch.allclose(logits(theirs), logits(ours.model), atol=1e-5)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("rank", [0, RANK])
def test_an_adapter_of_peft_gives_the_same_logits_here(tmp_path, base, rank, rslora):
    peft = pytest.importorskip("peft")
    model = load_policy(ModelConfig(str(base))).model
    config = peft.LoraConfig(
        r=RANK, lora_alpha=10, target_modules=["q_proj", "down_proj"], use_rslora=rslora, task_type="CAUSAL_LM"
    )
    theirs = peft.get_peft_model(model, config)
    stir(theirs)
    theirs.peft_config["default"].base_model_name_or_path = str(base)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_policy(ModelConfig(str(tmp_path / "theirs"), lora=LoraConfig(rank=rank)))
    assert torch.allclose(logits(ours.model), logits(theirs), atol=1e-5)
    assert bool(rank) == any(".lora_" in name for name in ours.trainable())
    ours.save(tmp_path / "again")
    again = load_policy(ModelConfig(str(tmp_path / "again"), lora=LoraConfig(rank=rank)))
    assert torch.allclose(logits(again.model), logits(theirs), atol=1e-5)


def test_saved_and_loaded_is_the_same_adapter(adapter):
    first, second = (load_policy(ModelConfig(str(adapter), lora=LoraConfig(rank=RANK))) for _ in range(2))
    assert torch.equal(logits(first.model), logits(second.model))
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["r"] == RANK and math.isclose(config["lora_alpha"], 6)
    assert (adapter / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "only plain LoRA is supported, not use_dora"),
        ({"modules_to_save": ["lm_head"]}, "not modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 1}}, "not rank_pattern, alpha_pattern"),
        ({"bias": "all"}, "not peft_type LORA, bias all"),
        ({"peft_type": "IA3"}, "not peft_type IA3"),
        ({"r": None}, "r is missing"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path is missing"),
        ({"base_model_name_or_path": "/no/such/base"}, "no such folder"),
        ({"r": 8}, "does not fit the model and its adapter_config.json"),
    ],
)
def test_configurations_that_are_not_computed_here_are_refused(adapter, change, said):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    refused(adapter, said)


def drop_b(t):
    del t["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"]


def add_dora(t):
    t["base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector"] = torch.ones(3)


def other_shape(t):
    t["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"] = torch.ones(RANK, 3)


def on_the_head(t):
    t["base_model.model.lm_head.lora_A.weight"] = torch.ones(RANK, 64)
    t["base_model.model.lm_head.lora_B.weight"] = torch.ones(9, RANK)


@pytest.mark.parametrize("change", [drop_b, add_dora, other_shape, on_the_head, dict.clear])
def test_tensors_that_do_not_fit_are_refused(adapter, change):
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    refused(adapter, "adapter_model.safetensors: ")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_damaged_files_are_one_line(adapter, name, content):
    if content is None:
        content = (adapter / name).read_bytes()[:50]
    (adapter / name).write_bytes(content)
    refused(adapter, "cannot be loaded")


def refused(adapter: Path, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_policy(ModelConfig(str(adapter), lora=LoraConfig(rank=RANK)))
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["tiny", "base"])
def test_peft_finds_the_base_of_an_adapter_from_another_folder(tmp_path, base, monkeypatch, model):
    peft = pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)  # `base` is a path from here
    policy = load_policy(ModelConfig(model, lora=LoraConfig(rank=RANK)))
    stir(policy.model)
    policy.save(tmp_path / "ours")
    monkeypatch.chdir("/")
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert torch.allclose(logits(theirs), logits(policy.model), atol=1e-5)
    again = load_policy(ModelConfig(str(tmp_path / "ours")))
    assert torch.allclose(logits(again.model), logits(policy.model), atol=1e-4)
