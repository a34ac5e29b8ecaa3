"""Where a model comes from: its files, its tokenizer, and every id that ends a completion."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from data.embedded import tiny_model
from grpo.model import hub
from grpo.model.checks import ModelError
from grpo.model.config import ModelConfig


def resolve_path(path: str) -> Path:
    """The model's folder: a run folder stands for the `model/` in it."""
    folder = Path(path)
    return folder / "model" if (folder / "model").is_dir() and (folder / "manifest.json").exists() else folder


def load_base(
    config: ModelConfig, source: str, seed: int, mapped: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The full-precision model and tokenizer behind a source name.

    mapped: leave the weights in their files, in the type that these have; they are fp32 otherwise.
    """
    if source in ("tiny", "tiny-init"):
        if source == "tiny-init":
            return tiny_model.build_model(seed), tiny_model.build_tokenizer()
        source = str(tiny_model.BASE_FOLDER)
    path, extra = resolve_path(source), {}
    if source.endswith(".gguf"):
        if not path.is_file():
            raise ModelError(f"{source}: no such file")
        path, extra = path.parent, {"gguf_file": path.name}
    elif not path.is_dir() and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise ModelError("no such folder; give a hub id, a model or run folder, or a .gguf file")
    elif (path / "manifest.json").exists() and not (path / "config.json").exists():
        raise ModelError("this run has no model yet; finish it by the command that began it")
    name = str(path) if path.is_dir() else source
    if path.is_dir():
        _check_names(path)
    else:
        hub.check(name, config.revision)
    extra |= {"revision": config.revision, "trust_remote_code": False}  # never code out of a model's folder
    tokenizer = AutoTokenizer.from_pretrained(name, **extra)
    if not source.endswith(".gguf"):
        extra["use_safetensors"] = True  # a .bin file is a pickle
    extra |= {"output_loading_info": True}
    model, found = AutoModelForCausalLM.from_pretrained(name, dtype="auto" if mapped else torch.float32, **extra)
    if mapped and stored_dtype(name, config.revision) != model.dtype:  # some of them would be rounded
        model, found = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, **extra)
    if found["missing_keys"]:  # transformers would make them up at random, and only warn
        raise ModelError(f"its files lack {len(found['missing_keys'])} weights, {min(found['missing_keys'])} for one")
    if source.endswith(".gguf"):  # the weights were dequantised on the way in: they are plain fp32 now
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.is_quantized, model.hf_quantizer = False, None
    return model, tokenizer


def stored_dtype(name: str, revision: str | None) -> torch.dtype:
    """The type of all tensors in a model's files, a folder's or downloaded ones; fp32 where they have several."""
    found = set()
    for file in Path(cached_file(name, "config.json", revision=revision)).parent.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            found |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    halves = {"BF16": torch.bfloat16, "F16": torch.float16}
    return halves.get(found.pop(), torch.float32) if len(found) == 1 else torch.float32


def _check_names(folder: Path) -> None:
    """Refuse an index of weights that leads out of its folder."""
    for index in folder.glob("*.index.json"):
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        if outside := [name for name in names if Path(name).name != name]:
            raise ModelError(f"{index.name} names {outside[0]!r}, which is no file of the folder")


def find_eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that may end a completion: of the tokenizer, the model's and the generation configuration."""
    found: set[int] = set()
    for ids in (
        tokenizer.eos_token_id,
        getattr(model.config, "eos_token_id", None),
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
    ):
        found.update(ids if isinstance(ids, (list, tuple)) else [] if ids is None else [ids])
    return sorted(found)
