"""LoRA: the equation, what trains, and what the reference is."""

from __future__ import annotations

import pytest
import torch
from helpers_models import plain
from helpers_runs import PARITY, lines, manifest, memorised, metrics, one_line, weights, write_module
from helpers_runs import grpo as run_stage
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from grpo.model import lora
from grpo.model.attention import Layout
from grpo.model.lora import LoraConfig, LoraLinear
from grpo.model.policy import ModelConfig, Policy, load_policy


def adapted(rank: int = 4, seed: int = 0, **options) -> Policy:
    return load_policy(ModelConfig("tiny-init", lora=LoraConfig(rank=rank, **options)), seed)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad(), plain(model):
        return model(torch.tensor([[5, 9, 7, 3]])).logits


@torch.no_grad()
def stir(policy: Policy, scale: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(1)
    for p in policy.trainable().values():
        p.add_(scale * torch.randn(p.shape, generator=generator))


@torch.no_grad()
def test_a_layer_computes_its_equation():
    base = nn.Linear(5, 3)
    layer = LoraLinear(base, rank=2, scaling=1.5)
    nn.init.normal_(layer.lora_A)
    nn.init.normal_(layer.lora_B)
    x = torch.randn(7, 5)
    for row in range(7):
        a = [sum(layer.lora_A[r, i] * x[row, i] for i in range(5)) for r in range(2)]
        for out in range(3):
            wx = sum(base.weight[out, i] * x[row, i] for i in range(5)) + base.bias[out]
            expected = wx + 1.5 * sum(layer.lora_B[out, r] * a[r] for r in range(2))
            assert layer(x)[row, out] == pytest.approx(expected.item(), abs=1e-5)


def test_a_fresh_adapter_changes_nothing_and_is_a_function_of_the_seed():
    base = load_policy(ModelConfig("tiny-init"))
    fresh, again = adapted(), adapted()
    assert torch.equal(logits(fresh.model), logits(base.model))
    for name, layer in lora.adapters(fresh.model).items():
        assert layer.lora_B.count_nonzero() == 0
        assert torch.equal(layer.lora_A, lora.adapters(again.model)[name].lora_A)
        bound = layer.lora_A.shape[1] ** -0.5
        assert 0.8 * bound < layer.lora_A.abs().max() <= bound


@pytest.mark.parametrize("alpha", [8.0, 32.0])
def test_merged_equals_adapted(alpha):
    policy = adapted(alpha=alpha)
    stir(policy)
    before, base = logits(policy.model), logits(load_policy(ModelConfig("tiny-init")).model)
    assert not torch.allclose(before, base, atol=1e-2)
    lora.merge(policy.model)
    assert not lora.adapters(policy.model)
    assert torch.allclose(logits(policy.model), before, atol=1e-5)


def test_all_linear_layers_but_the_head_are_adapted_or_those_that_are_named():
    names = {n.rpartition(".")[2] for n in lora.adapters(adapted().model)}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(lora.adapters(adapted(targets=("q_proj",)).model)) == 4
    assert set(lora.adapters(adapted(targets=("layers.0.mlp.up_proj", "v_proj")).model)) == {
        "model.layers.0.mlp.up_proj",
        *(f"model.layers.{i}.self_attn.v_proj" for i in range(4)),
    }


def test_all_linear_is_pefts_word_for_all():
    assert lora.adapters(adapted(targets=("all-linear",)).model).keys() == lora.adapters(adapted().model).keys()


def test_a_target_that_no_layer_has_is_named():
    with pytest.raises(ValueError, match="no linear layer is called qproj; there are down_proj, gate_proj"):
        adapted(targets=("q_proj", "qproj"))
    with pytest.raises(ValueError, match=r"no linear layer is called lm_head; .*; embedding and head are never"):
        adapted(targets=("lm_head",))


def test_an_adapter_goes_on_with_its_own_alpha_and_targets(tmp_path):
    adapted(alpha=8.0, targets=("q_proj",)).save(tmp_path / "a")
    rank = adapted().model.get_submodule("model.layers.0.self_attn.q_proj").lora_A.shape[0]
    for same in ({}, {"alpha": 8.0}, {"targets": ("self_attn.q_proj",)}, {"targets": ("all-linear",)}):
        load_policy(ModelConfig(str(tmp_path / "a"), lora=LoraConfig(rank=rank, **same)))
    for other in ({"alpha": 16.0}, {"targets": ("v_proj",)}):
        with pytest.raises(ValueError, match=r"continues with its own alpha \(8\) and targets \(q_proj\); leave"):
            load_policy(ModelConfig(str(tmp_path / "a"), lora=LoraConfig(rank=rank, **other)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_the_adapter_is_trainable_and_in_fp32(dtype):
    policy = load_policy(ModelConfig("tiny-init", dtype=dtype, lora=LoraConfig(rank=4)))
    assert policy.trainable() and all(".lora_" in name for name in policy.trainable())
    assert {p.dtype for p in policy.trainable().values()} == {torch.float32}
    others = [p for n, p in policy.model.named_parameters() if ".lora_" not in n]
    assert {p.dtype for n, p in policy.model.named_parameters() if ".base." in n} == {getattr(torch, dtype)}
    layout = Layout.of_prompts(torch.tensor([2]), policy.device)
    policy(torch.tensor([5, 9]), layout).float().sum().backward()
    assert all(p.grad is None for p in others)
    assert all(p.grad is not None for p in policy.trainable().values())


def test_the_reference_needs_no_second_model_and_cannot_be_forgotten():
    policy = adapted()
    with pytest.raises(RuntimeError, match="freeze_reference"), policy.reference():
        pass
    stir(policy)
    policy.freeze_reference()
    before, count = logits(policy.model), len(policy.trainable())
    stir(policy)
    with policy.reference() as reference:
        assert reference is policy and torch.equal(logits(policy.model), before)
    assert not torch.allclose(logits(policy.model), before, atol=1e-3)
    assert len(policy.trainable()) == count  # the copy is none of the parameters


# ---- in runs ------------------------------------------------------------------------------------------------


@pytest.fixture
def reward(tmp_path, monkeypatch) -> str:
    return f"rewards.r.function={write_module(tmp_path, monkeypatch, PARITY)}:parity"


def test_after_a_lora_cold_start_the_reference_is_the_sft_policy_not_the_base(tmp_path, reward):
    settings = {"model__lora__rank": 4, "optim__lr": 1e-2}
    assert run_stage("sft", tmp_path / "sft", **settings) == 0
    run = tmp_path / "grpo"
    assert run_stage("grpo", run, reward, **{**settings, "model__path": tmp_path / "sft"}) == 0
    assert metrics(run)[0]["kl"] == 0 and metrics(run)[-1]["kl"] > 0
    sft = load_policy(ModelConfig(str(tmp_path / "sft"), lora=LoraConfig(rank=4)))
    sft.freeze_reference()
    base = load_policy(ModelConfig("tiny-init"))
    with sft.reference() as reference:
        assert not torch.allclose(logits(reference.model), logits(base.model), atol=1e-3)


def test_training_moves_the_adapter_and_nothing_else(tmp_path):
    assert run_stage("sft", tmp_path / "run", model__lora__rank=4) == 0
    tensors = weights(tmp_path / "run")
    assert tensors and all(".lora_A." in k or ".lora_B." in k for k in tensors)
    assert all(v.count_nonzero() for k, v in tensors.items() if ".lora_B." in k)
    assert not (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_another_rank_is_refused_and_rank_0_trains_the_merged_model(tmp_path, capsys):
    assert run_stage("sft", tmp_path / "a", model__lora__rank=4) == 0
    capsys.readouterr()
    assert run_stage("sft", tmp_path / "b", model__path=tmp_path / "a", model__lora__rank=8) == 2
    assert "its adapter has rank 4, not 8; set model.lora.rank=4 to continue with it, or 0 to merge" in one_line(capsys)
    assert run_stage("sft", tmp_path / "b", model__path=tmp_path / "a", optim__lr=1e-30) == 0
    adapter = load_policy(ModelConfig(str(tmp_path / "a"), lora=LoraConfig(rank=4)))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "b" / "model")
    assert torch.allclose(logits(merged), logits(adapter.model), atol=1e-5)


@pytest.mark.slow
def test_all_four_stages_on_an_adapter(tmp_path, tmp_path_factory, capsys):
    """The base is a run folder of full weights; its adapter goes from stage to stage and never becomes a model."""
    base, settings = memorised(tmp_path_factory)
    settings |= {"model__lora__rank": 4, "optim__lr": 1e-4, "sft__batch_size": 2, "eval__at_end": "true"}
    rewards = ("rewards.accuracy.weight=1", "rewards.format.weight=0.2")
    stages = {"1-sft": "sft", "2-grpo": "grpo", "3-reject": "reject", "4-final": "grpo"}
    parent = base
    for name, stage in stages.items():
        run = tmp_path / name
        extra = rewards if stage == "grpo" else ()
        assert run_stage(stage, run, *extra, **{**settings, "model__path": parent}) == 0, capsys.readouterr().err
        assert (run / "model" / "adapter_model.safetensors").exists() and (run / "eval.json").exists()
        assert manifest(run)["parent"]["model"] == str(parent)
        source, config = lora.read_source(run / "model")
        assert source == str(base / "model") and config["r"] == 4
        parent = run
    assert lines(tmp_path / "3-reject" / "samples.jsonl")
    steps = [metrics(tmp_path / name) for name in ("2-grpo", "4-final")]
    assert all(rows[0]["kl"] == 0 for rows in steps)
    before, after = weights(tmp_path / "3-reject"), weights(tmp_path / "4-final")
    assert before.keys() == after.keys() and any(not torch.equal(before[k], after[k]) for k in before)
