"""bf16: the layers compute with rounded weights; what is trained, saved and handed on are the fp32 ones, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers_models import random_model
from helpers_runs import grpo as run_stage
from helpers_runs import weights
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from data.embedded.tiny_model import build_tokenizer
from grpo.commands import run as commands
from grpo.model.lora import LoraConfig
from grpo.model.optim import OptimConfig, Optimizer
from grpo.model.policy import ModelConfig, Policy, load_policy
from grpo.runs.folder import fingerprint
from grpo.sft import as_rollouts, sft_step

BATCH = [([5, 7, 3], [9, 12, 40, 1]), ([8, 2], [33, 1])]


@pytest.fixture
def folder(request, tmp_path) -> Path:
    """A random model whose weights have more bits than bf16 holds."""
    random_model("llama", tie_word_embeddings=request.param).save_pretrained(tmp_path / "model")
    build_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


both = pytest.mark.parametrize("folder", [False, True], indirect=True, ids=["untied", "tied"])


def start(folder: Path, parallel: str = "ddp", **options: object) -> tuple[Policy, Optimizer]:
    policy = load_policy(ModelConfig(str(folder), dtype="bfloat16", **options), training=True)
    policy.start_training(parallel)
    return policy, Optimizer(policy.trainable(), OptimConfig(lr=1e-3), 1, policy.masters)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@both
def test_training_begins_with_the_weights_of_the_file_not_with_rounded_ones(folder):
    policy, optimizer = start(folder)
    assert same(dict(optimizer.full_masters()), load_file(folder / "model.safetensors"))
    layers = {n: p for n, p in policy.model.named_parameters() if "embed" not in n and "head" not in n}
    assert layers and {p.dtype for p in layers.values()} == {torch.bfloat16}
    assert all(torch.equal(p, optimizer.masters[n].to(torch.bfloat16)) for n, p in layers.items())
    assert any(not torch.equal(p.float(), optimizer.masters[n]) for n, p in layers.items())


@both
def test_what_is_saved_are_the_masters_and_loading_gives_them_back(folder, tmp_path):
    policy, optimizer = start(folder)
    before = {name: x.clone() for name, x in optimizer.full_masters()}
    sft_step(policy, optimizer, as_rollouts(BATCH), 9999, 0)
    masters = dict(optimizer.full_masters())
    assert not any(torch.equal(masters[name], before[name]) for name in masters)
    policy.take(optimizer.full_masters())
    policy.save(tmp_path / "out")
    assert same(load_file(tmp_path / "out" / "model.safetensors"), masters)
    assert {x.dtype for x in AutoModelForCausalLM.from_pretrained(tmp_path / "out").parameters()} == {torch.float32}
    _, again = start(tmp_path / "out")
    assert same(dict(again.full_masters()), masters)
    rounded = load_policy(ModelConfig(str(tmp_path / "out"), dtype="bfloat16"))  # as for an evaluation
    assert same(dict(rounded.model.named_parameters()), dict(policy.model.named_parameters()))


@both
def test_an_adapter_is_saved_as_it_was_trained(folder, tmp_path):
    policy, optimizer = start(folder, lora=LoraConfig(rank=2))
    sft_step(policy, optimizer, as_rollouts(BATCH), 9999, 0)
    policy.take(optimizer.full_masters())
    policy.save(tmp_path / "out")
    _, again = start(tmp_path / "out", lora=LoraConfig(rank=2))
    assert same(dict(again.full_masters()), dict(optimizer.full_masters()))
    assert all(x.dtype == torch.float32 and x.count_nonzero() for _, x in again.full_masters())


@both
def test_the_reference_is_rounded_like_the_policy_and_keeps_no_masters(folder):
    policy = load_policy(ModelConfig(str(folder), dtype="bfloat16"), training=True)
    policy.freeze_reference()
    policy.start_training("ddp")
    with policy.reference() as reference:
        assert same(dict(reference.model.named_parameters()), dict(policy.model.named_parameters()))
        assert not reference.masters and not reference.trainable()


@both
def test_the_digest_of_the_model_is_that_of_the_file_whatever_it_computes_in(folder):
    digests = {
        fingerprint(load_policy(ModelConfig(str(folder), dtype=d), training=True)) for d in ("float32", "bfloat16")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("rank", [0, 2])
def test_a_run_evaluates_the_policy_that_it_trained_in_its_own_type(tmp_path, monkeypatch, rank):
    seen: list[Policy] = []
    monkeypatch.setattr(commands, "evaluate", lambda config, policy, *_: seen.append(policy) or {})
    options = {"model__dtype": "bfloat16", "model__lora__rank": rank, "eval__at_end": "true"}
    assert run_stage("sft", tmp_path / "run", **options) == 0
    (policy,), saved = seen, weights(tmp_path / "run")
    layer = policy.model.model.layers[0].mlp.up_proj
    assert (layer.base if rank else layer).weight.dtype == torch.bfloat16
    trained = policy.trainable()
    assert len(trained) == len(saved)
    for name, p in trained.items():
        key = f"base_model.model.{name}.weight" if rank else name
        assert saved[key].dtype == torch.float32 and torch.equal(p, saved[key].to(p.dtype))
