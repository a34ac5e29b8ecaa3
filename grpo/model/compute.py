"""What trains, what the layers compute in (fp32 or bf16), and what the backward pass computes again to save memory."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_layers(model: nn.Module) -> None:
    """From now on, let every layer keep its input alone, and compute the rest again in the backward pass.

    Raises ValueError for a model whose layers are not marked for that.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(f"model.recompute=full: {type(model).__name__} has no layers for it; set model.recompute=none")
    for layer in layers:
        layer.forward = functools.partial(_recomputed, layer.forward)


def _recomputed(forward: Callable, *args: object, **kwargs: object) -> object:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def train_text(model: PreTrainedModel) -> None:
    """Let all weights train, but those of a model of images and text that only images pass."""
    several = model.config.get_text_config() is not model.config
    model.requires_grad_(not several)
    if several:
        for part in (model.get_decoder(), model.get_output_embeddings()):
            part.requires_grad_(True)


def cast(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """Parameters to `dtype`, adapters, embeddings and head excepted; buffers too stay in fp32.

    Returns what those that train were before, by name: the fp32 masters.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    kept, masters = {id(p) for module in (embedding, head) for p in module.parameters()}, {}
    for name, p in model.named_parameters():
        if ".lora_" not in name and dtype != p.dtype:
            if p.requires_grad and id(p) not in kept:
                masters[name] = p.data
            p.data = p.data.clone() if id(p) in kept else p.data.to(dtype)  # a clone, to let go of the file it is in
    return masters


def compute_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """From the embedding to the head, activations are of type `dtype`."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    embedding.register_forward_hook(lambda module, inputs, output: output.to(dtype))
    head.register_forward_pre_hook(lambda module, inputs: (inputs[0].float(),))
