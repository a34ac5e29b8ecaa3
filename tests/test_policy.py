"""Loading and saving: every kind of source, every end token, and one line for what cannot be loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from helpers_models import plain
from helpers_runs import grpo as run_stage
from helpers_runs import manifest, one_line
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from data.embedded.tiny_model import build_tokenizer
from grpo import distributed
from grpo.model.attention import Layout
from grpo.model.lora import LoraConfig
from grpo.model.policy import ModelConfig, ModelError, load_policy

SIZES = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip


def logits(model, ids: tuple[int, ...] = (5, 9, 7, 3)) -> Tensor:
    """transformers' own, whichever model."""
    with torch.no_grad(), plain(model):
        return model(torch.tensor([ids])).logits


def save_llama(folder: Path, eos=1, **options) -> LlamaForCausalLM:
    """A random Llama with the embedded tokenizer."""
    tokenizer = build_tokenizer()
    torch.manual_seed(1)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), eos_token_id=eos, bos_token_id=None, **SIZES, **options)
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval()


def write_gguf(gguf, model: LlamaForCausalLM, file: Path) -> None:
    """The model as llama.cpp stores it: rotary halves interleaved in q and k, a byte-level tokenizer."""
    c, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_vocab_size(c.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<|a|>", "<|b|>", *(chr(256 + i) for i in range(c.vocab_size - 3)), chr(256) + chr(257)])
    writer.add_token_types([3, 3] + [1] * (c.vocab_size - 2))
    writer.add_token_merges([f"{chr(256)} {chr(257)}"])
    writer.add_eos_token_id(1)
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for i in range(c.num_hidden_layers):
        top |= {f"model.layers.{i}.{ours}": f"blk.{i}.{theirs}" for ours, theirs in names.items()}
    for ours, theirs in top.items():
        x = state[f"{ours}.weight"]
        for kind, heads in (("q_proj", c.num_attention_heads), ("k_proj", c.num_key_value_heads)):
            if ours.endswith(kind):
                x = x.view(heads, 2, -1, x.shape[1]).transpose(1, 2).reshape(x.shape)
        writer.add_tensor(f"{theirs}.weight", x.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def refused(path: Path | str, **options) -> str:
    with pytest.raises(ModelError) as caught:
        load_policy(ModelConfig(str(path), **options))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"model.path={path}: ")
    return str(caught.value)


# ---- sources ------------------------------------------------------------------------------------------------


def test_the_untrained_model_is_a_function_of_the_seed():
    a, b, c = (load_policy(ModelConfig("tiny-init"), seed) for seed in (0, 0, 1))
    assert torch.equal(logits(a.model), logits(b.model)) and not torch.equal(logits(a.model), logits(c.model))


def test_the_embedded_model_loads():
    policy = load_policy(ModelConfig("tiny"))
    assert logits(policy.model).isfinite().all() and policy.tokenizer.eos_token_id in policy.eos_ids


def test_a_folder_loads_as_transformers_loads_it(tmp_path):
    model = save_llama(tmp_path / "m")
    policy = load_policy(ModelConfig(str(tmp_path / "m")))
    assert torch.equal(logits(policy.model), logits(model))
    assert not policy.model.training and all(p.requires_grad for p in policy.model.parameters())
    assert policy.trainable().keys() == dict(model.named_parameters()).keys()


def test_a_run_folder_stands_for_its_model(tmp_path):
    assert run_stage("sft", tmp_path / "run", sft__steps=1) == 0
    by_run, by_model = (load_policy(ModelConfig(str(tmp_path / p))) for p in ("run", "run/model"))
    assert torch.equal(logits(by_run.model), logits(by_model.model))
    assert by_run.source == by_model.source == str(tmp_path / "run" / "model")


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_saved_loads_with_plain_transformers_and_gives_the_same_logits(tmp_path, tied):
    save_llama(tmp_path / "m", tie_word_embeddings=tied)
    policy = load_policy(ModelConfig(str(tmp_path / "m")))
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(0.01 * torch.randn_like(p))
    policy.save(tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(again), logits(policy.model)) and not torch.equal(
        logits(again), logits(load_policy(ModelConfig(str(tmp_path / "m"))).model)
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("Ana has 3 eggs.")["input_ids"] == policy.tokenizer("Ana has 3 eggs.")["input_ids"]


def test_a_checkpoint_in_half_precision_gets_full_precision_weights(tmp_path):
    model = save_llama(tmp_path / "m").to(torch.bfloat16)
    model.save_pretrained(tmp_path / "m")
    policy = load_policy(ModelConfig(str(tmp_path / "m")))
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    assert torch.equal(policy.model.model.norm.weight, model.model.norm.weight.float())


def test_bf16_computes_in_bf16_with_an_fp32_head(tmp_path):
    save_llama(tmp_path / "m")
    full, half = (load_policy(ModelConfig(str(tmp_path / "m"), dtype=d)) for d in ("float32", "bfloat16"))
    fp32 = {n for n, p in half.model.named_parameters() if p.dtype == torch.float32}
    assert fp32 == {"model.embed_tokens.weight", "lm_head.weight"}
    assert half.model.model.norm.weight.dtype == torch.bfloat16
    layout = Layout.of_prompts(torch.tensor([4]), half.device)
    with torch.no_grad():
        states = [p(torch.tensor([5, 9, 7, 7]), layout) for p in (half, full)]
    assert [x.dtype for x in states] == [torch.bfloat16, torch.float32]
    ours, theirs = (p.logits(hidden) for p, hidden in zip((half, full), states, strict=True))
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, theirs, atol=0.02) and not torch.equal(ours, theirs)
    hidden = torch.randn(4, 16)
    expected = hidden @ half.model.lm_head.weight.float().T
    assert torch.allclose(half.logits(hidden), expected, atol=1e-6)


def test_a_gguf_file_loads_and_trains_and_is_saved_as_plain_weights(tmp_path):
    gguf = pytest.importorskip("gguf")
    model = save_llama(tmp_path / "m")
    write_gguf(gguf, model, tmp_path / "tiny.gguf")
    policy = load_policy(ModelConfig(str(tmp_path / "tiny.gguf")))
    assert torch.allclose(logits(policy.model), logits(model), atol=1e-5)
    policy.save(tmp_path / "out")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), logits(policy.model))
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_a_real_gguf_file_loads(tmp_path):
    pytest.importorskip("gguf")
    file = Path(os.environ.get("GRPO_GGUF") or "none")
    if not file.is_file():
        pytest.skip("no .gguf file; set GRPO_GGUF")
    policy = load_policy(ModelConfig(str(file)))
    text = policy.tokenizer("The capital of France is", return_tensors="pt")
    token = logits(policy.model, text["input_ids"][0].tolist())[0, -1].argmax()
    assert "Paris" in policy.tokenizer.decode(token)


# ---- end tokens ---------------------------------------------------------------------------------------------


def test_every_end_token_is_found_wherever_it_is_named(tmp_path):
    save_llama(tmp_path / "m", eos=[1, 7])
    generation = {"eos_token_id": [1, 9], "pad_token_id": 1}
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps(generation))
    assert load_policy(ModelConfig(str(tmp_path / "m"))).eos_ids == [1, 7, 9]


def test_a_model_without_any_end_token_is_refused(tmp_path):
    save_llama(tmp_path / "m", eos=None)
    (tmp_path / "m" / "generation_config.json").unlink()
    settings = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    settings.pop("eos_token")
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "no end-of-sequence token; set eos_token in its tokenizer_config.json" in refused(tmp_path / "m")


# ---- the reference ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 2])
def test_the_reference_stays_where_it_was_frozen(rank):
    policy = load_policy(ModelConfig("tiny-init", lora=LoraConfig(rank=rank)))
    policy.freeze_reference()
    before = logits(policy.model)
    with torch.no_grad():
        for p in policy.trainable().values():
            p.add_(0.1 * torch.randn_like(p))
    with policy.reference() as reference:
        assert torch.equal(logits(reference.model), before)
        assert rank or not any(p.requires_grad for p in reference.model.parameters())
    assert not torch.allclose(logits(policy.model), before, atol=1e-3)


# ---- what cannot be loaded ----------------------------------------------------------------------------------


def test_a_path_that_is_not_there_is_refused_without_asking_the_network():
    for path in ("./none", "/no/such/folder", "runs/demo/1-sft-none"):
        assert "no such folder; give a hub id, a model or run folder, or a .gguf file" in refused(path)
    assert "no such file" in refused("none.gguf")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "cut short", "empty", "garbage"])
def test_a_damaged_folder_is_one_line(tmp_path, file, damage):
    save_llama(tmp_path / "m")
    path = tmp_path / "m" / file
    content = {"missing": b"", "cut short": path.read_bytes()[:200], "empty": b"", "garbage": b"\xff\x00garbage"}
    path.write_bytes(content[damage])
    if damage == "missing":
        path.unlink()
    said = refused(tmp_path / "m")
    assert "cannot be loaded: " in said or ("damaged or cut short" in said and "download it again" in said)


def test_a_folder_that_lacks_weights_is_refused_rather_than_filled_at_random(tmp_path):
    save_llama(tmp_path / "m", tie_word_embeddings=False)
    LlamaForSequenceClassification.from_pretrained(tmp_path / "m").save_pretrained(tmp_path / "m")
    settings = json.loads((tmp_path / "m" / "config.json").read_text())
    settings["architectures"] = ["LlamaForCausalLM"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(settings))
    assert "its files lack 1 weights, lm_head.weight" in refused(tmp_path / "m")


def test_an_empty_folder_and_an_unfinished_run_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "cannot be loaded" in refused(tmp_path / "empty")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    assert "this run has no model yet" in refused(tmp_path / "run")


def test_a_device_that_is_not_there_is_one_line():
    with pytest.raises(ValueError, match=r"^model.device=nonsense: this machine does not have it; there is cpu"):
        load_policy(ModelConfig("tiny-init", device="nonsense"))


def test_a_gpu_is_taken_if_there_is_one(monkeypatch):
    for there, expected in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(distributed, "has_gpu", lambda there=there: there)
        assert distributed.find_device("auto").type == expected
    assert ModelConfig().device == "auto"


def test_code_in_a_model_folder_is_not_run(tmp_path):
    save_llama(tmp_path / "m")
    settings = json.loads((tmp_path / "m" / "config.json").read_text())
    settings |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (tmp_path / "m" / "config.json").write_text(json.dumps(settings))
    (tmp_path / "m" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    refused(tmp_path / "m")
    assert not (tmp_path / "ran").exists()


def test_the_command_line_says_it_in_one_line(tmp_path, capsys):
    save_llama(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"\x00" * 100)
    assert run_stage("sft", tmp_path / "run", model__path=tmp_path / "m") == 2
    said = one_line(capsys)
    assert f"model.path={tmp_path / 'm'}: " in said and "a weights file is damaged or cut short" in said
    assert "finished" not in manifest(tmp_path / "run")


def test_a_token_without_an_embedding_is_named_before_the_first_step(tmp_path, capsys):
    load_policy(ModelConfig("tiny-init")).save(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(tmp_path / "m")
    for stage in ("sft", "grpo", "eval"):
        settings = {"model__path": tmp_path / "m", "prompt__template": '"<extra>{question}\\n"'}
        assert run_stage(stage, tmp_path / stage, **settings, rewards__format__weight=1) == 2
        assert "'<extra>', but the model has embeddings of" in capsys.readouterr().err.splitlines()[-1]
