"""Every architecture, on a tiny random model: sampling, log-probs and gradients are those of transformers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers_models import plain, random_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from data.embedded.tiny_model import build_tokenizer
from grpo.experience import Batch
from grpo.logprobs import completion_logps
from grpo.loss import PRESETS
from grpo.model import lora
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
FOUR = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    "head_dim": 4, "num_key_value_heads": 4, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
    "kv_lora_rank": 8, "q_lora_rank": 8,
}  # fmt: skip
SHARED = {
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
    "mixtral": WINDOW | FOUR,
    "qwen3_moe": HEAD_DIM | EXPERTS | {"num_experts": 4},
    "glm4": HEAD_DIM,
    "ernie4_5": HEAD_DIM,
    "exaone4": ALTERNATE | WINDOW,
    "apertus": {},
    "cohere2": WINDOW,
    "deepseek_v3": LATENT
    | EXPERTS
    | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    "glm4_moe": HEAD_DIM | EXPERTS | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1},
    "hunyuan_v1_dense": HEAD_DIM | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "hyperclovax": {"logits_scaling": 2.0},
    "minicpm3": LATENT,
    "minimax_m2": HEAD_DIM | FOUR | {"rotary_dim": 4},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "seed_oss": HEAD_DIM,
}
"""Prompts are shared: every layer is plain attention."""
DELTA = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
SOME = HEAD_DIM | EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 24}
CONV = {"layer_types": ["conv", "full_attention"]}
STATE = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 4}
WHOLE = {
    "qwen3_5_text": DELTA | HEAD_DIM,
    "qwen3_5_moe_text": DELTA | SOME,
    "qwen3_next": DELTA | SOME,
    "lfm2": CONV | {"block_multiple_of": 8},
    "lfm2_moe": CONV | EXPERTS | {"num_experts": 4, "num_dense_layers": 1},
    "lfm3": CONV,
    "olmo_hybrid": DELTA,
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 4},
    "falcon_h1": STATE | {"mamba_n_heads": 4, "mamba_d_ssm": 32, "mamba_n_groups": 1, "lm_head_multiplier": 0.5},
    "granitemoehybrid": STATE | {
        "layer_types": ["mamba", "attention"], "num_local_experts": 0, "shared_intermediate_size": 48,
        "logits_scaling": 4.0,
    },
    "nemotron_h": HEAD_DIM | {
        "layer_types": ["mamba", "attention"], "mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8,
        "n_groups": 2, "chunk_size": 4, "time_step_min": 1e-9,
    },
    "bamba": STATE | {"attn_layer_indices": [1]},
    "jamba": {
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
        "num_experts": 2, "num_experts_per_tok": 1, "mamba_d_state": 8, "mamba_dt_rank": 4,
    },
    "gpt_oss": HEAD_DIM | FOUR | WINDOW | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "llama4_text": HEAD_DIM | {
        "attention_chunk_size": 8, "num_local_experts": 2, "intermediate_size_mlp": 48, "num_hidden_layers": 4,
    },
    "bloom": {"n_head": 4, "n_layer": 2},
    "falcon": {},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "gpt_neo": {
        "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 4,
    },
    "gptj": {"rotary_dim": 4, "n_embd": 32, "n_head": 4, "n_layer": 2},
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4},
    "stablelm": {},
    "diffllama": {},
    "doge": {},
    "nemotron": {},
}  # fmt: skip
"""transformers' own forward pass and cache."""
ARCHITECTURES = SHARED | WHOLE
FEW = ("gemma2", "qwen3_moe", "qwen3_5_text", "gpt_oss")  # for every day; the others are slow together
KINDS = [kind if kind in FEW else pytest.param(kind, marks=pytest.mark.slow) for kind in ARCHITECTURES]
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
        assert policy.passes.prompts_shared == (kind in SHARED)
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


def count_layers(model: nn.Module) -> dict[int, int]:
    """How often each layer is computed from now on, by its number."""
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    calls = dict.fromkeys(range(len(layers)), 0)
    for number, layer in enumerate(layers):
        norm = next(m for m in layer.children() if "norm" in type(m).__name__.lower())
        norm.register_forward_pre_hook(lambda *_, number=number: calls.update({number: calls[number] + 1}))
    assert calls
    return calls


def same_gradients(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    largest = max(g.abs().max() for g in expected.values())
    for name, g in expected.items():
        atol = 1e-3 * max(g.abs().max(), 1e-4 * largest)
        assert (ours[name] - g).abs().max() <= atol, name


# ---- equal to transformers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_decoding_is_that_of_generate(kind, load):
    policy = load(kind)
    rollouts = sample(policy)
    with plain(policy.model) as model:
        options = {"do_sample": False, "max_new_tokens": LIMIT, "eos_token_id": list(EOS), "pad_token_id": 0}
        expected = [model.generate(torch.tensor([p]), **options)[0, len(p) :].tolist() for p in PROMPTS]
    assert rollouts.token_lists() == [tokens for tokens in expected for _ in range(2)]
    assert len({tuple(tokens) for tokens in expected}) > 1


@pytest.mark.parametrize("prompts", [[[9]], [[9], [5, 7]], [[9], [5]], [[5, 7], [4, 8]]], ids=str)
@pytest.mark.parametrize("kind", [pytest.param("qwen3_5_text", marks=pytest.mark.slow), "mamba2"])
def test_prompts_of_one_or_two_tokens(kind, prompts, load):
    """Nothing, or a single token, is computed before decoding begins; layers with a state ignore a mask of that."""
    policy = load(kind)
    names = NAMES[: len(prompts)]
    rollouts = sample_groups(policy, prompts, names, 2, SamplingConfig(1.0, LIMIT), seed=0)
    with torch.no_grad():
        expected = plain_logps(policy, rollouts, 1.0)
        torch.testing.assert_close(completion_logps(policy, rollouts, 1.0)[0], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(rollouts.sampler_logps, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_log_probs_are_those_of_the_plain_forward_pass(kind, temperature, load):
    policy = load(kind)
    rollouts = sample(policy, temperature)
    with torch.no_grad():
        expected = plain_logps(policy, rollouts, temperature)
        ours, _ = completion_logps(policy, rollouts, temperature)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(rollouts.sampler_logps, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("way", ["full", "recompute", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_plain_forward_pass(kind, way, load):
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
    calls = count_layers(policy.model)
    same_gradients(gradients(policy, completion_logps(policy, rollouts, 0.7)[0]), expected)
    assert set(calls.values()) == {2 if way == "recompute" else 1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_in_bfloat16_is_saved_and_loaded(kind, load, tmp_path):
    if kind == "xglm":  # it adds fp32 positions to its embeddings
        with pytest.raises(ValueError, match=r"XGLMForCausalLM cannot compute in bfloat16 .*; set model.dtype=float32"):
            load(kind, dtype="bfloat16")
        return
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
