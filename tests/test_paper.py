"""The paper's configurations: each loads with its settings and runs, for two steps, on data with the public columns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers_runs import lines
from transformers import Qwen2Config, Qwen2ForCausalLM

from data.embedded.tiny_model import build_tokenizer
from grpo.cli import main
from grpo.runs.settings import load_config

PAPER = Path(__file__).parents[1] / "experiments" / "paper"
FILES = sorted(path.stem for path in PAPER.glob("*.yaml") if path.stem != "common")
STAGES = {"base": "base", "eval": "eval", "sft": "sft", "sft_lora": "sft", "grpo": "grpo", "grpo_only": "grpo"}
SIZES = {"1.5B": [], "7B": ["parallel=fsdp"]}
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ 'assistant:' if add_generation_prompt }}"
)


def word(number: int) -> str:
    return "abcdefghij"[number]


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> Path:
    """A folder with a tiny random Qwen2, and the public data sets' columns."""
    folder = tmp_path_factory.mktemp("paper")
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "model")
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=4096, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder / "model")
    math = [
        {"problem": f"Mia has {word(i)} apples.", "level": "Level 1", "type": "Algebra", "solution": f"\\boxed{{{i}}}"}
        for i in range(6)
    ]
    traces = [
        {"problem": f"Tom has {word(i)} apples.", "solution": "s", "answer": str(i), "problem_type": "Algebra",
         "generations": ["<think>no", f"<think>\n{i} it is.\n</think>\n{i}"], "correctness_math_verify": [False, True]}
        for i in range(6)
    ]  # fmt: skip
    held_out = [{**row, "answer": str(i), "problem": f"Eva has {word(i)} pears."} for i, row in enumerate(math[:2])]
    for name, rows in {"math_lighteval_train": math, "openr1_math_train": traces, "math500_test": held_out}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FILES)
def test_two_steps_of_each_configuration(there, tmp_path, name, size):
    settings = {
        "run": tmp_path / "run", "model.path": there / "model", "model.device": "cpu", "data.root": there,
        "eval.data.root": there, "sampling.max_new_tokens": 6, "sft.steps": 2, "sft.batch_size": 2, "grpo.steps": 2,
        "grpo.prompts_per_step": 2, "sandbox.enabled": "false",
    }  # fmt: skip
    settings = [f"{key}={value}" for key, value in settings.items()] + SIZES[size]
    if name == "eval":
        settings.append("eval.folder=")
    if size == "7B" and name == "sft_lora":
        settings.append("parallel=ddp")
    assert main([STAGES[name], "--config", str(PAPER / f"{name}.yaml"), *settings]) == 0
    result = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert result["problems"] == 2 and result["samples"] == 1 and result["top_p"] == 0.95
    assert set(result["sampled"]["rewards"]) == {"accuracy", "format", "habits"}
    if STAGES[name] in ("sft", "grpo"):
        rows = lines(tmp_path / "run" / "metrics.jsonl")
        assert [row["step"] for row in rows] == [1, 2] and all(row["grad_norm"] >= 0 for row in rows)
    if STAGES[name] == "grpo":
        assert all("shaping_only" in row and row["groups"] == 2 for row in rows)
    assert (tmp_path / "run" / "model" / "adapter_config.json").exists() == (name == "sft_lora")


def test_the_settings_are_the_papers():
    """The table of its settings (docs/paper.md), read from the files."""
    full, lora, grpo = (load_config(str(PAPER / f"{name}.yaml")) for name in ("sft", "sft_lora", "grpo"))
    for config in (full, lora, grpo):
        assert {name: reward.weight for name, reward in config.rewards.items()} == {
            "accuracy": 1.0, "format": 1.0, "habits": 1.0,
        }  # fmt: skip
        assert (config.eval.temperature, config.eval.top_p, config.eval.samples) == (0.6, 0.95, 1)
        assert config.model.dtype == "bfloat16" and config.optim.schedule == "cosine"
    assert (full.optim.lr, full.optim.final_lr_share, full.sft.epochs) == (5e-5, 0.1, 1)
    assert (lora.optim.lr, lora.sft.epochs, lora.sft.max_tokens) == (5e-4, 2, 2048)
    assert (lora.model.lora.rank, lora.model.lora.alpha) == (16, 64)
    assert lora.model.lora.targets == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert (grpo.optim.lr, grpo.optim.warmup_steps, grpo.grpo.steps) == (3e-6, 6, 58)
    assert (grpo.grpo.prompts_per_step, grpo.grpo.group_size, grpo.grpo.updates_per_batch) == (128, 7, 1)
    assert (grpo.sampling.temperature, grpo.sampling.max_new_tokens, grpo.loss.beta) == (0.9, 1024, 0.04)
    assert grpo.data.max_prompt_tokens == 512 and not grpo.grpo.drop_zero_spread
