"""Models that our forward pass would not compute rightly are refused when they are loaded, in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers_models import plain, random_model
from test_architectures import WHOLE
from transformers import AutoModelForCausalLM, Gemma3Config, PreTrainedModel

from data.embedded.tiny_model import build_tokenizer
from grpo.logprobs import completion_logps
from grpo.model import lora
from grpo.model.checks import ModelError, choose_passes
from grpo.model.compute import recompute_layers
from grpo.model.lora import LoraConfig
from grpo.model.policy import ModelConfig, Policy, load_policy
from grpo.sampling import sample_groups
from grpo.types import SamplingConfig

LATENT = {
    "head_dim": 4, "num_key_value_heads": 4, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
    "kv_lora_rank": 8, "q_lora_rank": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
ALIBI = {"alibi": True}
SECOND = {  # why prompts are not shared, by kind
    "lfm2": "Lfm2ForCausalLM has layers of the kind conv",
    "llama4_text": "Llama4ForCausalLM has layers of the kind chunked_attention",
    "gpt_oss": "cannot run without padding (GptOssAttention asks for attention with sinks)",
    "doge": "cannot run without padding (DogeAttention asks for attention with a mask of its own)",
    "stablelm": "cannot run without padding (StableLmAttention is not handed the keyword arguments of",
    "bloom": "BloomForCausalLM does not call attention through transformers' AttentionInterface",
    "falcon": "FalconForCausalLM does not call attention through transformers' AttentionInterface",
    "diffllama": "DiffLlamaForCausalLM calls attention 2 times in layer 0",
}
TOKEN_BY_TOKEN = "has other logits token by token than of whole rows"
PADDED = "computes a row otherwise where longer ones are padded beside it"
REFUSED = {
    "mamba": ({"state_size": 8}, TOKEN_BY_TOKEN),
    "falcon_mamba": ({"state_size": 8}, TOKEN_BY_TOKEN),
    "rwkv": ({"attention_hidden_size": 32}, TOKEN_BY_TOKEN),
    "deepseek_v32": (LATENT | {"index_topk": 4, "index_n_heads": 2, "index_head_dim": 8}, PADDED),
    "minimax": (
        {"num_local_experts": 4, "layer_types": ["linear_attention", "full_attention"]},
        "does not decode with transformers' DynamicCache (MiniMax uses cache of its own",
    ),
    "bert": ({}, PADDED),  # it sees later tokens, too
    "roberta": ({}, PADDED),
}


def save(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def accept(model: PreTrainedModel) -> Policy:
    before = model.config._attn_implementation
    implementation = "sdpa" if before == "shared_prefix" else before  # as it was when the model was made
    policy = Policy(model, None, [1], "here")
    choose_passes(policy, implementation)
    assert "\n" not in policy.passes.note
    return policy


def refused(model: PreTrainedModel) -> str:
    """What is said of a model that is not loaded: one line."""
    with pytest.raises(ModelError) as caught:
        accept(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- layers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SECOND)
def test_layers_of_another_kind_take_the_second_way(kind):
    model = random_model(kind, **(ALIBI if kind == "falcon" else WHOLE[kind]))
    passes = accept(model).passes
    assert SECOND[kind] in passes.note and "; so transformers' own forward pass and cache are used: in" in passes.note
    assert not passes.prompts_shared and model.config._attn_implementation in ("sdpa", "eager")


@pytest.mark.parametrize("kind", REFUSED)
def test_what_neither_way_computes_is_refused(kind):
    options, reason = REFUSED[kind]
    said = refused(random_model(kind, **options))
    assert reason in said and "; what works: causal models that compute padded rows as each by itself" in said


def test_a_model_without_a_linear_head_is_refused():
    model = random_model("llama")
    model.lm_head = torch.nn.Identity()
    assert "LlamaForCausalLM has no linear layer that makes logits of hidden states" in refused(model)


def test_a_row_must_not_see_the_rows_beside_it():
    model = random_model("bloom", **WHOLE["bloom"])
    model.transformer.h[0].register_forward_hook(lambda m, i, o: (o[0] + o[0].mean(dim=0), *o[1:]))
    assert "BloomForCausalLM computes a row otherwise where longer ones are padded beside it" in refused(model)


def test_loading_says_which_model_it_was(tmp_path):
    folder = save(random_model("rwkv", attention_hidden_size=32), tmp_path / "m")
    with pytest.raises(ModelError, match="token by token") as caught:
        load_policy(ModelConfig(str(folder)))
    assert str(caught.value).startswith(f"model.path={folder}: cannot be loaded: RwkvForCausalLM has other logits")


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2\nshapes"), KeyError("x"), AssertionError(), IndexError("")]
)
def test_whatever_the_models_own_code_raises_is_one_line(error):
    model = random_model("llama")

    def fail(*how):
        raise error

    model.model.layers[1].register_forward_pre_hook(fail)
    said = refused(model)
    assert "LlamaForCausalLM cannot run without a cache (" in said


def test_a_comparison_that_fails_leaves_nothing_behind():
    model = random_model("llama")
    head, eager = model.lm_head, []

    def fail(*how):
        if model.config._attn_implementation == "eager":
            eager.append(1)
            raise RuntimeError("no")

    model.model.layers[1].register_forward_pre_hook(fail)
    assert "cannot run without padding (no)" in accept(model).passes.note and eager
    assert model.config._attn_implementation == "sdpa" and not head._forward_pre_hooks


def test_damaged_weights_are_named_as_what_they_are():
    model = random_model("llama")
    model.model.norm.weight.data[3] = torch.nan
    assert "its logits are NaN or infinite; its weights are damaged, or it has diverged" in refused(model)


def test_layers_that_cannot_be_recomputed_are_refused():
    model = random_model("ctrl", n_embd=32, n_layer=2, n_head=4, dff=48)
    with pytest.raises(ValueError, match=r"model\.recompute=full: CTRLLMHeadModel has no layers for it"):
        recompute_layers(model)


# ---- sliding windows -----------------------------------------------------------------------------------------


def test_a_window_that_a_layer_does_not_ask_for_is_left_to_transformers():
    """It would not show in the comparison, where the sequences are shorter."""
    windows = {"sliding_window": 32, "use_sliding_window": True}
    model = random_model("qwen3", layer_types=["sliding_attention"] * 2, **windows)
    accept(model)
    model.model.layers[1].self_attn.sliding_window = None
    said = "layer 1 of Qwen3ForCausalLM asks for a sliding window of None, its configuration says 32; so"
    assert accept(model).passes.note.startswith(said)
    model = random_model("qwen3", layer_types=["full_attention"] * 2, **windows)
    accept(model)
    model.model.layers[0].self_attn.sliding_window = 16
    said = "layer 0 of Qwen3ForCausalLM asks for a sliding window of 16, its configuration says None; so"
    assert accept(model).passes.note.startswith(said)


def test_a_window_that_is_switched_off_is_none():
    off = {"sliding_window": 32, "use_sliding_window": False}
    assert accept(random_model("qwen2", **off)).passes.prompts_shared
    moe = random_model("qwen2_moe", shared_expert_intermediate_size=24, **off, **EXPERTS)
    assert accept(moe).passes.prompts_shared


# ---- logits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, options",
    [
        ("cohere", {"logit_scale": 0.25}),
        ("granite", {"logits_scaling": 8.0}),
        ("gemma2", {"final_logit_softcapping": 3.0, "head_dim": 8}),
        ("gemma2", {"final_logit_softcapping": None, "head_dim": 8}),
        ("phi", {}),  # a bias
    ],
    ids=str,
)
def test_what_a_model_does_to_its_logits_is_done(kind, options):
    model = random_model(kind, **options)
    policy = accept(model)
    hidden = 10 * torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), plain(model):
        handle = model.base_model.register_forward_hook(lambda m, i, o: setattr(o, "last_hidden_state", hidden[None]))
        theirs = model(torch.tensor([[1, 2, 3, 4, 5]])).logits[0]
        handle.remove()
    torch.testing.assert_close(policy.logits(hidden), theirs, rtol=1e-5, atol=1e-5)


def test_a_soft_cap_of_an_unknown_name_is_refused_although_small_logits_hide_it():
    model = random_model("llama", initializer_range=0.02)
    accept(model)
    model.register_forward_hook(lambda m, i, o: setattr(o, "logits", 30 * (o.logits / 30).tanh()))
    assert "LlamaForCausalLM changes its logits after the head by more than a factor and a soft cap" in refused(model)


def test_scaled_logits_of_an_unknown_name_are_refused():
    model = random_model("llama")
    model.register_forward_hook(lambda m, i, o: setattr(o, "logits", 2 * o.logits))
    assert "where longer ones are padded beside it, or changes its logits" in refused(model)


# ---- sizes and configurations --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 5])
def test_a_vocabulary_may_be_smaller_than_any_text(size):
    policy = accept(random_model("llama", vocab_size=size))
    rollouts = sample_groups(policy, [[0, 1], [1]], ["a", "b"], 2, SamplingConfig(max_new_tokens=4), seed=0)
    logps = completion_logps(policy, rollouts, 1.0)[0].detach()
    torch.testing.assert_close(logps, rollouts.sampler_logps, atol=1e-5, rtol=0)


FACTORS = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}


@pytest.mark.parametrize(
    "kind, rope, longest",
    [
        ("phi3", {"rope_type": "longrope", **FACTORS}, 24),
        ("llama", {"rope_type": "dynamic", "factor": 4.0}, 64),
        ("llama", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, 64),
        ("llama", {"rope_type": "default"}, 64),
    ],
    ids=["longrope", "dynamic", "yarn", "default"],
)
def test_no_sequence_is_so_long_that_its_rotary_embedding_changes(kind, rope, longest, tmp_path):
    """Up to there tokens have the same keys alone, in a batch, and in training; one token further they have not."""
    options = {"original_max_position_embeddings": 24} if kind == "phi3" else {}
    rope_parameters = {"rope_theta": 1e4, "partial_rotary_factor": 1.0, **rope}
    model = random_model(kind, rope_parameters=rope_parameters, **options)
    policy = load_policy(ModelConfig(str(save(model, tmp_path / "m"))))
    assert policy.max_positions == longest
    prompt = [3 + i % 50 for i in range(8)]
    for length, same in ((longest, True), (longest + 4, rope["rope_type"] in ("yarn", "default"))):
        limit = SamplingConfig(max_new_tokens=length - len(prompt))
        policy.eos_ids = []
        rollouts = sample_groups(policy, [prompt], ["a"], 2, limit, seed=0)
        gap = (completion_logps(policy, rollouts, 1.0)[0].detach() - rollouts.sampler_logps).abs().max()
        assert (gap < 1e-4) == same


def gemma3_of_images_and_text() -> PreTrainedModel:
    text = {
        "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 8,
        "num_key_value_heads": 2, "intermediate_size": 48, "sliding_window": 4, "max_position_embeddings": 48,
        "initializer_range": 0.3, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = Gemma3Config(
        text_config=text, vision_config=vision, image_token_id=62, mm_tokens_per_image=4, eos_token_id=1
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def test_a_model_of_images_and_text_trains_on_text(tmp_path):
    policy = load_policy(ModelConfig(str(save(gemma3_of_images_and_text(), tmp_path / "m"))))
    assert type(policy.model).__name__ == "Gemma3ForConditionalGeneration" and policy.max_positions == 48
    prompts = [[5, 7, 3, 9, 12, 40], [9]]
    rollouts = sample_groups(policy, prompts, ["a", "b"], 2, SamplingConfig(0, 6), seed=0)
    with plain(policy.model) as model:
        options = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": policy.eos_ids, "pad_token_id": 0}
        expected = [model.generate(torch.tensor([p]), **options)[0, len(p) :].tolist() for p in prompts]
    assert rollouts.token_lists() == [tokens for tokens in expected for _ in range(2)]
    completion_logps(policy, rollouts, 1.0)[0].sum().backward()
    trained = {name for name, p in policy.model.named_parameters() if p.grad is not None}
    assert trained == policy.trainable().keys()
    assert not any("vision" in name or "projector" in name for name in trained) and len(trained) > 30
    policy.save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "gemma3"
    assert load_policy(ModelConfig(str(tmp_path / "out"))).trainable().keys() == trained
    adapted = lora.adapters(load_policy(ModelConfig(str(tmp_path / "m"), lora=LoraConfig(rank=2))).model)
    assert len(adapted) == 3 * 7 and not any("vision" in name or "projector" in name for name in adapted)
