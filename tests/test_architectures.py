"""Every architecture, on a tiny random model: sampling, log-probs and gradients are those of transformers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers_models import plain, random_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from data.embedded.tiny_model import build_tokenizer
from grpo.experience import Batch
from grpo.logprobs import completion_logps
from grpo.loss import PRESETS
from grpo.model import lora
from grpo.model.attention import Layout
from grpo.model.lora import LoraConfig
from grpo.model.optim import OptimConfig, Optimizer
from grpo.model.policy import ModelConfig, Policy, load_policy
from grpo.runs.config import Config, GRPOConfig
from grpo.sampling import sample_groups
from grpo.trainer import update
from grpo.types import Rollouts, SamplingConfig

HEAD_DIM = {"head_dim": 8}
ALTERNATE = {"num_hidden_layers": 3, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
WINDOW = {"sliding_window": 4}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
ARCHITECTURES = {
    "llama": {},
    "mistral": WINDOW,
    "qwen2": ALTERNATE | WINDOW | {"use_sliding_window": True},
    "qwen3": ALTERNATE | WINDOW | HEAD_DIM | {"use_sliding_window": True},
    "gemma": HEAD_DIM | {"num_key_value_heads": 1},
    "gemma2": ALTERNATE | WINDOW | HEAD_DIM | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3_text": ALTERNATE | WINDOW | HEAD_DIM,
    "phi": {"partial_rotary_factor": 0.5},
    "phi3": WINDOW,
    "olmo2": {},
    "olmo3": ALTERNATE | WINDOW,
    "smollm3": {"no_rope_layers": [1, 0]},
    "granite": {"logits_scaling": 4.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5},
    "cohere": {"logit_scale": 2.0},
    "gpt_neox": {},
    "gpt2": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.3},
    "starcoder2": WINDOW,
    "mixtral": WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": HEAD_DIM | EXPERTS | {"num_experts": 4},
    "glm4": HEAD_DIM,
    "ernie4_5": HEAD_DIM,
    "exaone4": ALTERNATE | WINDOW,
}
PROMPTS = [[5, 7, 3, 9, 12, 40, 33], [9], [4, 4, 8, 50, 15, 6, 11, 61, 23, 17, 42, 30], [20, 31, 3]]
NAMES = ["a", "b", "c", "d"]
EOS = (1, 2, 13, 27, 35)
LIMIT = 10


@pytest.fixture(scope="module")
def load(tmp_path_factory) -> Callable[..., Policy]:
    """load(kind, **options of ModelConfig): the model of that kind, through a folder, as any model is loaded."""

    @functools.cache
    def folder(kind: str) -> Path:
        path = tmp_path_factory.mktemp(kind)
        random_model(kind, **ARCHITECTURES[kind]).save_pretrained(path)
        build_tokenizer().save_pretrained(path)
        return path

    def build(kind: str, training: bool = False, **options) -> Policy:
        policy = load_policy(ModelConfig(str(folder(kind)), **options), training=training)
        policy.eos_ids = list(EOS)
        return policy

    return build


def sample(policy: Policy, temperature: float = 0.0, limit: int = LIMIT) -> Rollouts:
    return sample_groups(policy, PROMPTS, NAMES, 2, SamplingConfig(temperature, limit), seed=0)


def plain_logps(policy: Policy, rollouts: Rollouts, temperature: float) -> Tensor:
    """Each prompt + completion by itself through transformers' own forward pass: [N, T], 0 where the mask is false."""
    rows = []
    with plain(policy.model) as model:
        for row, completion in enumerate(rollouts.token_lists()):
            prompt = rollouts.prompts[int(rollouts.prompt_index[row])]
            logits = model(torch.tensor([prompt + completion]), use_cache=False).logits[0, len(prompt) - 1 : -1]
            logps = (logits / temperature).log_softmax(dim=-1)[range(len(completion)), completion]
            rows.append(torch.nn.functional.pad(logps, (0, rollouts.mask.shape[1] - len(completion))))
    return torch.stack(rows)


def gradients(policy: Policy, logps: Tensor) -> dict[str, Tensor]:
    """Gradient of a fixed random combination of log-probs by every parameter that trains."""
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(0))
    policy.model.zero_grad()
    (logps * weights).sum().backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in policy.trainable().items()}


def same_gradients(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    largest = max(g.abs().max() for g in expected.values())
    for name, g in expected.items():
        atol = 1e-3 * max(g.abs().max(), 1e-4 * largest)
        assert (ours[name] - g).abs().max() <= atol, name


# ---- equal to transformers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_greedy_decoding_is_that_of_generate(kind, load):
    policy = load(kind)
    rollouts = sample(policy)
    with plain(policy.model) as model:
        options = {"do_sample": False, "max_new_tokens": LIMIT, "eos_token_id": list(EOS), "pad_token_id": 0}
        expected = [model.generate(torch.tensor([p]), **options)[0, len(p) :].tolist() for p in PROMPTS]
    assert rollouts.token_lists() == [tokens for tokens in expected for _ in range(2)]
    assert len({tuple(tokens) for tokens in expected}) > 1


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_log_probs_are_those_of_the_plain_forward_pass(kind, temperature, load):
    policy = load(kind)
    rollouts = sample(policy, temperature)
    with torch.no_grad():
        expected = plain_logps(policy, rollouts, temperature)
        ours, _ = completion_logps(policy, rollouts, temperature)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(rollouts.sampler_logps, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("way", ["full", "recompute", "lora"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_gradients_are_those_of_the_plain_forward_pass(kind, way, load, monkeypatch):
    if way == "lora" and kind == "gpt2":
        with pytest.raises(ValueError, match=r"GPT2LMHeadModel has no nn.Linear layer to adapt; set model.lora.rank=0"):
            load(kind, lora=LoraConfig(rank=2))
        return
    options = {"lora": LoraConfig(rank=2)} if way == "lora" else {}
    policy, same = load(kind, recompute="full" if way == "recompute" else "none", **options), load(kind, **options)
    for number, layers in enumerate(zip(*(lora.adapters(p.model).values() for p in (policy, same)), strict=True)):
        for layer in layers:  # 0 as it is new, and then its A has no gradient
            layer.lora_B.data.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(number))
    names = {name for name, _ in policy.model.named_parameters() if way != "lora" or ".lora_" in name}
    assert policy.trainable().keys() == names

    rollouts = sample(policy, 1.0, limit=6)
    expected = gradients(same, plain_logps(same, rollouts, 0.7))
    calls, attend = [], Layout.attend
    monkeypatch.setattr(
        Layout, "attend", lambda layout, layer, *how: calls.append(layer) or attend(layout, layer, *how)
    )
    same_gradients(gradients(policy, completion_logps(policy, rollouts, 0.7)[0]), expected)
    layers = policy.model.config.num_hidden_layers
    assert len(calls) == (2 * layers if way == "recompute" else layers)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_step_in_bfloat16_is_saved_and_loaded(kind, load, tmp_path):
    policy = load(kind, dtype="bfloat16", training=True)
    config = Config(loss=PRESETS["grpo"], sampling=SamplingConfig(1.0, LIMIT), grpo=GRPOConfig(group_size=2))
    policy.freeze_reference()
    policy.start_training(config.parallel)
    optimizer = Optimizer(policy.trainable(), OptimConfig(lr=1e-2), 1, policy.masters)
    before = sample(policy, 1.0)
    rewards = torch.tensor([[1.0], [0.0]]).repeat(len(PROMPTS), 1)  # [N, 1]
    metrics = update(config, policy, optimizer, Batch(before, rewards, {}), torch.ones(1), step=0)
    assert metrics["grad_norm"] > 0 and not metrics["skipped"] and metrics["sampler_gap"] < 0.3
    policy.take(optimizer.full_masters())
    policy.save(tmp_path / "out")

    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert saved["lm_head.weight" if "lm_head.weight" in saved else "embed_out.weight"].dtype == torch.float32
    again = load_policy(ModelConfig(str(tmp_path / "out"), dtype="bfloat16"))
    with torch.no_grad():
        moved, old = (completion_logps(p, before, 1.0)[0] for p in (again, load(kind, dtype="bfloat16")))
        torch.testing.assert_close(moved, completion_logps(policy, before, 1.0)[0])
    assert (moved - old).abs().max() > 0.1
