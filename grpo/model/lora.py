"""LoRA by hand (arXiv:2106.09685, eq. 3), in PEFT's file format.

    y = W x + (alpha / r) B A x        W frozen; A [r, in] random, B [out, r] zero, so that y = W x at the start

The reference policy of a LoRA run needs no second model: it is W with a frozen copy of the adapter that the run
began with. After SFT with LoRA this copy *is* the SFT policy; W alone would be the base model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from grpo.model.config import LoraConfig

PREFIX = "base_model.model."  # PEFT wraps the model twice and its keys say so


class LoraLinear(nn.Module):
    """A frozen linear layer plus a trained low-rank update. x [..., in] -> [..., out]."""

    def __init__(self, base: nn.Linear, rank: int, scaling: float):
        super().__init__()
        self.base, self.scaling = base.requires_grad_(False), scaling
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.zeros(rank, base.in_features, device=device))  # [r, in]
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, device=device))  # [out, r]
        self.frozen: tuple[Tensor, Tensor] | None = None  # the reference's A and B
        self.as_reference = False

    @property
    def weight(self) -> Tensor:
        raise ValueError("an adapted layer's weight is read by the model's code; leave it out of model.lora.targets")

    @property
    def out_features(self) -> int:
        return self.base.out_features

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        return y + self.update(x).to(y.dtype)

    def update(self, x: Tensor) -> Tensor:
        """(alpha / r) B A x, in the type of A"""
        a, b = self.frozen if self.as_reference else (self.lora_A, self.lora_B)
        return (x.to(a.dtype) @ a.T) @ b.T * self.scaling


def adapters(model: nn.Module) -> dict[str, LoraLinear]:
    """The adapted layers of a model, by module name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoraLinear)}


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that can be adapted, by name: those of the text model that are called, and not the head.

    Llama 4's router returns more than one tensor, and of Mamba's `dt_proj` only the weight is read.
    """
    text = {id(m) for m in model.get_decoder().modules()} - {id(model.get_output_embeddings())}
    linears = ((name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) and id(m) in text)
    return {name: m for name, m in linears if not f"{name} {type(m).__name__}".endswith(("Router", "dt_proj Linear"))}


def _wrap(model: nn.Module, names: list[str], rank: int, scaling: float) -> None:
    model.requires_grad_(False)
    for name in names:
        model.set_submodule(name, LoraLinear(model.get_submodule(name), rank, scaling))


def add_adapter(model: nn.Module, config: LoraConfig, seed: int) -> None:
    """Add a fresh adapter: A ~ kaiming-uniform(sqrt 5) as in PEFT, B = 0. Raises ValueError if nothing matches."""
    linears = _linears(model)
    if not linears:  # GPT-2's are of a kind of their own, Conv1D
        raise ValueError(f"model.lora: {type(model).__name__} has no nn.Linear layer to adapt; set model.lora.rank=0")
    targets = [t for t in config.targets if t != "all-linear"]  # PEFT's word
    found = {t: [name for name in linears if f".{name}".endswith(f".{t}")] for t in targets}
    if unknown := [t for t in targets if not found[t]]:
        there = ", ".join(sorted({name.rpartition(".")[2] for name in linears}))
        raise ValueError(
            f"model.lora.targets: no linear layer is called {', '.join(unknown)}; there are {there}; embedding and "
            "head are never adapted"
        )
    every = len(targets) < len(config.targets) or not targets
    names = [name for name in linears if every or any(name in some for some in found.values())]
    _wrap(model, names, config.rank, config.alpha / config.rank)
    generator = torch.Generator().manual_seed(seed)
    for layer in adapters(model).values():
        bound = 1 / math.sqrt(layer.lora_A.shape[1])
        layer.lora_A.data.copy_(torch.empty(layer.lora_A.shape).uniform_(-bound, bound, generator=generator))


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Fold the update into the weights, W + (alpha / r) B A, and drop the adapter."""
    for name, layer in adapters(model).items():
        update = layer.scaling * (layer.lora_B @ layer.lora_A)  # [out, in]
        layer.base.weight.add_(update.to(layer.base.weight.dtype))
        model.set_submodule(name, layer.base)


def freeze_reference(model: nn.Module) -> None:
    """Keep a copy of the adapter as it is now: the KL's reference."""
    for layer in adapters(model).values():
        layer.frozen = (layer.lora_A.detach().clone(), layer.lora_B.detach().clone())


@contextmanager
def reference_weights(model: nn.Module) -> Iterator[None]:
    """Inside, the model computes with the frozen copy of its adapter."""
    layers = list(adapters(model).values())
    if not layers or any(layer.frozen is None for layer in layers):
        raise RuntimeError("no reference: call Policy.freeze_reference() before training begins")
    for layer in layers:
        layer.as_reference = True
    try:
        yield
    finally:
        for layer in layers:
            layer.as_reference = False


# ---- PEFT's files -------------------------------------------------------------------------------------------


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """A and B of every adapted layer, by PEFT's keys."""
    layers = adapters(model)
    return {f"{PREFIX}{name}.{ab}.weight": getattr(layers[name], ab) for name in layers for ab in ("lora_A", "lora_B")}


def save_adapter(model: nn.Module, folder: Path, base: str) -> None:
    """Write adapter_model.safetensors and adapter_config.json as PEFT does; `base` is named in the latter."""
    tensors = {key: p.detach().cpu().contiguous() for key, p in _parameters(model).items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    layers = adapters(model)
    some = next(iter(layers.values()))
    rank = some.lora_A.shape[0]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": some.scaling * rank,
        "lora_dropout": 0.0,
        "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


# settings of PEFT's that change what an adapter computes, or where
UNSUPPORTED = (
    "use_dora", "use_qalora", "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication", "lora_bias",
    "trainable_token_indices", "target_parameters", "alora_invocation_tokens", "megatron_config",
)  # fmt: skip


def read_source(folder: Path) -> tuple[str, dict]:
    """Base model name and configuration of a PEFT adapter folder; refuses what this file does not compute."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    missing = [k for k in ("peft_type", "base_model_name_or_path", "r", "lora_alpha") if not config.get(k)]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} is missing")
    unsupported = [k for k in UNSUPPORTED if config.get(k)]
    if config["peft_type"] != "LORA" or config.get("bias", "none") != "none" or unsupported:
        what = ", ".join(unsupported) or f"peft_type {config['peft_type']}, bias {config.get('bias')}"
        raise ValueError(f"{path}: only plain LoRA is supported, not {what}")
    return config["base_model_name_or_path"], config


def check_same(config: LoraConfig, adapter: dict) -> None:
    """An adapter that trains further keeps its alpha and targets. Raises ValueError where others are asked for."""
    names = config.targets, adapter.get("target_modules") or ()
    asked, there = ({name.rpartition(".")[2] for name in some} for some in names)
    if config.alpha not in (LoraConfig.alpha, adapter["lora_alpha"]) or (asked - {"all-linear"} and asked != there):
        raise ValueError(
            f"model.lora: an adapter continues with its own alpha ({adapter['lora_alpha']:g}) and targets "
            f"({', '.join(sorted(there))}); leave model.lora.alpha and model.lora.targets out"
        )


def load_adapter(model: nn.Module, folder: Path, config: dict) -> None:
    """Put a PEFT adapter on its base model. Raises ValueError if the files do not fit the model."""
    path = folder / "adapter_model.safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: {error}") from None
    names = dict.fromkeys(key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in tensors)
    if (missing := sorted(names.keys() - _linears(model).keys())) or not names:
        raise ValueError(f"{path}: adapts {missing[:3] or 'nothing'}, which is no linear layer of the model's body")
    rank = config["r"]
    _wrap(model, list(names), rank, config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank))
    ours = _parameters(model)
    for key in sorted(ours.keys() | tensors.keys()):
        if key not in ours or key not in tensors or ours[key].shape != tensors[key].shape:
            raise ValueError(f"{path}: does not fit the model and its adapter_config.json: {key}")
    for key, p in ours.items():
        p.data.copy_(tensors[key].float())
