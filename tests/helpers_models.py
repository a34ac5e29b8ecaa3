"""transformers' own forward pass of a policy's model, to compare ours with, and tiny models of any architecture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

TINY = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3, "tie_word_embeddings": False,
    "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip


def random_model(kind: str, **options: object) -> PreTrainedModel:
    """A tiny model of a type of transformers' (`llama`), with these options of its configuration.

    Its weights are so large that the most likely token is far ahead, and no norm or bias is left at 1 or 0.
    """
    config = AutoConfig.for_model(kind, **TINY | options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for p in model.parameters():
                if p.dim() == 1:
                    p.add_(0.2 * torch.randn_like(p))
    return model


@contextmanager
def plain(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Inside, the model computes attention as transformers does, and can be called with ids alone."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield model
    finally:
        model.set_attn_implementation(before)
