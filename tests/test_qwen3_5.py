"""Qwen3.5 as it is published (a model of images and text, its chat template), tiny, through all commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers_runs import grpo, weights
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from data.embedded.tiny_model import build_tokenizer
from grpo import cli

# Of the published template all that a conversation without tools and images meets.
TEMPLATE = """\
{%- if not messages %}{{- raise_exception('No messages provided.') }}{%- endif %}
{%- set ns = namespace(last_query=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{%- set ns.last_query = loop.index0 %}{%- endif %}
{%- endfor %}
{%- if ns.last_query < 0 %}{{- raise_exception('No user query found in messages.') }}{%- endif %}
{%- for message in messages %}
    {%- set content = message.content|trim %}
    {%- if message.role == 'system' %}
        {%- if not loop.first %}{{- raise_exception('System message must be at the beginning.') }}{%- endif %}
        {{- '<|im_start|>system\\n' + content + '<|im_end|>\\n' }}
    {%- elif message.role == 'user' %}
        {{- '<|im_start|>user\\n' + content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query %}
            {{- '<|im_start|>assistant\\n<think>\\n' + reasoning|trim + '\\n</think>\\n\\n' + content }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- else %}
        {{- '<think>\\n' }}
    {%- endif %}
{%- endif %}
"""
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 8,
    "num_key_value_heads": 2, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "tie_word_embeddings": True, "max_position_embeddings": 512,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
}  # fmt: skip
VISION = {
    "hidden_size": 16, "num_heads": 2, "depth": 1, "intermediate_size": 16, "out_hidden_size": 32, "patch_size": 4,
}  # fmt: skip
CHAT = {"prompt__style": "chat", "sampling__max_new_tokens": 8, "optim__lr": 1e-2, "sft__steps": 2, "grpo__steps": 2}
NOTE = "NOTE: Qwen3_5ForCausalLM has layers of the kind linear_attention; so transformers' own forward pass and cache"


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A folder like that of a published Qwen3.5."""
    folder = tmp_path_factory.mktemp("qwen3_5")
    tokenizer = build_tokenizer()
    ends = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": ends})
    tokenizer.eos_token, tokenizer.chat_template = "<|im_end|>", TEMPLATE
    tokenizer.save_pretrained(folder)
    text = TEXT | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    options = {"image_token_id": len(tokenizer) - 2, "video_token_id": len(tokenizer) - 1, "tie_word_embeddings": True}
    config = AutoConfig.for_model("qwen3_5", text_config=text, vision_config=VISION, **options)
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Qwen3_5ForConditionalGeneration"]
    return folder


@pytest.mark.parametrize("rank", [0, 2])
def test_all_stages_train_it_and_what_they_save_is_a_model_of_transformers(published, rank, tmp_path, capsys):
    settings = CHAT | {"model__lora__rank": rank, "rewards__format__weight": 1, "rewards__length__weight": 1}
    assert grpo("sft", tmp_path / "sft", model__path=published, **settings) == 0
    said = capsys.readouterr().err
    assert said.count("sft: cpu, float32, 0.0") == 1 and "; 6 examples, 3 a step" in said and NOTE in said
    assert grpo("grpo", tmp_path / "grpo", model__path=tmp_path / "sft", loss__beta=0.1, **settings) == 0
    said = capsys.readouterr().err
    assert "; 6 problems, 2 prompts x 4 completions x 8 tokens a step" in said and NOTE in said
    assert grpo("eval", tmp_path / "eval", model__path=tmp_path / "grpo", **CHAT) == 0
    assert "; 3 problems x (2 sampled + 1 greedy) completions x 8 tokens" in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path / "grpo"), str(tmp_path / "out")]) == 0

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    before = AutoModelForCausalLM.from_pretrained(published)
    assert type(model) is type(before) and tokenizer.chat_template == TEMPLATE
    moved = [name for name, p in model.state_dict().items() if not torch.equal(p, before.state_dict()[name])]
    assert any("linear_attn" in name for name in moved) and any("self_attn" in name for name in moved)
    if rank:
        assert any(name.endswith("linear_attn.in_proj_qkv.lora_A.weight") for name in weights(tmp_path / "grpo"))
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "1 + 1 ="}], add_generation_prompt=True)
    ids = torch.tensor([prompt["input_ids"]])
    assert model.generate(ids, max_new_tokens=4, do_sample=False).shape[1] > ids.shape[1]
