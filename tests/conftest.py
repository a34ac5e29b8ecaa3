"""Small random models that every test can afford, and one way to make ragged batches."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from grpo import distributed
from grpo.model.policy import Policy
from grpo.types import Rollouts

VOCAB = 23
SMALL = {
    "llama": {
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True,
    },
    "qwen2": {
        "model_type": "qwen2", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": {
        "model_type": "gpt_neox", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "gemma": {
        "model_type": "gemma", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": False,
    },
    "mistral-window": {
        "model_type": "mistral", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 5,
    },
    "mistral": {
        "model_type": "mistral", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": None,
    },
    "llama-biased": {
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True,
    },
}  # fmt: skip

settings.register_profile("all", deadline=None, derandomize=True, max_examples=60, database=None)
settings.register_profile("quick", settings.get_profile("all"), max_examples=15)


def pytest_configure(config: pytest.Config) -> None:
    """`make test` tries fewer examples of each property than `make test-all`."""
    settings.load_profile("quick" if "not slow" in config.option.markexpr else "all")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Models this small are slower on several threads, and reductions on one are reproducible."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def auto_is_the_cpu(monkeypatch) -> None:
    """Also where there is a GPU: `test_gpu.py` names it."""
    monkeypatch.setattr(distributed, "has_gpu", lambda: False)


@pytest.fixture(scope="session")
def make_policy() -> Callable[..., Policy]:
    """make_policy(kind="llama", eos_ids=(1,), seed=0): a random model of a given architecture, in fp32.

    The weights are ten times larger than usual: an untrained model's next token is close to uniform, and then
    temperature, positions and context would hardly show.
    """

    def make(kind: str = "llama", eos_ids: tuple[int, ...] = (1,), seed: int = 0) -> Policy:
        options = {"max_position_embeddings": 64} if kind != "gpt2" else {}
        tokens = {"bos_token_id": None, "eos_token_id": list(eos_ids), "pad_token_id": eos_ids[0]}
        config = AutoConfig.for_model(
            **SMALL[kind], **options, **tokens, vocab_size=VOCAB, initializer_range=0.2, attn_implementation="sdpa"
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config).eval()
        return Policy(model, tokenizer=None, eos_ids=list(eos_ids), source=kind)

    return make


@pytest.fixture(scope="session")
def make_rollouts() -> Callable[..., Rollouts]:
    """make_rollouts(prompt_lengths, lengths, group_size=1, seed=0): random tokens, ragged on both sides."""

    def make(prompt_lengths: list[int], lengths: list[int], group_size: int = 1, seed: int = 0) -> Rollouts:
        generator = torch.Generator().manual_seed(seed)
        n, width = len(lengths), max(1, *lengths)
        mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]  # [N, T]
        ids = torch.randint(2, VOCAB, (n, width), generator=generator)
        return Rollouts(
            prompts=[torch.randint(2, VOCAB, (k,), generator=generator).tolist() for k in prompt_lengths],
            prompt_index=torch.arange(n) // group_size,
            completion_ids=ids * mask,
            mask=mask,
            sampler_logps=-torch.rand(n, width, generator=generator) * mask,
            truncated=torch.zeros(n, dtype=torch.bool),
        )

    return make


@pytest.fixture(scope="session")
def make_loss_batch() -> Callable[..., list[Tensor]]:
    """make_loss_batch(seed=0, lengths, ...): the tensors of `policy_loss`, ratios on both sides of any clip range."""

    def make(
        seed: int = 0,
        lengths: tuple[int, ...] = (3, 6, 1, 4),
        width: int = 6,
        spread: float = 0.6,
        per_token: bool = False,
    ) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shape = (len(lengths), width)
        old = -3 * torch.rand(shape, generator=generator)
        logps = (old + spread * torch.randn(shape, generator=generator)).requires_grad_()
        ref = old + spread * torch.randn(shape, generator=generator)
        advantages = torch.randn(shape if per_token else shape[:1], generator=generator)
        return [logps, old, ref, advantages, torch.arange(width)[None] < torch.tensor(lengths)[:, None]]

    return make


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct, from $GRPO_SMOLLM2 or `smollm2` beside the repository."""
    folder = Path(os.environ.get("GRPO_SMOLLM2") or Path(__file__).parents[2] / "smollm2")
    if not (folder / "model.safetensors").is_file():
        pytest.skip("no SmolLM2 folder; set GRPO_SMOLLM2")
    return folder
