"""The policy: a causal language model, its tokenizer, every end-of-sequence id, and the frozen reference.

A model is a hub id, a folder in Hugging Face format, a LoRA adapter folder in PEFT format, a `.gguf` file, or
`tiny`, the embedded base model of the demo (`tiny-init`: the same, untrained).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, Cache, PreTrainedModel, PreTrainedTokenizerBase

from grpo import lora
from grpo.anymodel import recompute_layers
from grpo.attention import Layout, attend
from grpo.decoder import Decoder, is_written_out
from grpo.linear import packed_linears
from grpo.memory import give_back
from grpo.products import pack_for_good, packed, use_onednn


class ModelError(ValueError):
    """A model or tokenizer that cannot be used, in one line: what, where, what to do."""


@dataclass(frozen=True)
class ModelConfig:
    """Which policy to load and how to train it."""

    path: str = "tiny"
    """Hub id, Hugging Face folder, PEFT adapter folder, run folder, `.gguf` file, `tiny` or `tiny-init`."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    dtype: str = "float32"
    """Compute dtype, float32 or bfloat16. The weights that the optimiser moves are fp32 in both cases."""
    recompute: str = "none"
    """What the backward pass computes again to save memory: none, or full (all but the layers' inputs, for a second
    forward pass, and no memory that is free is held on to)."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:0, ..."""
    cuda_graphs: bool = False
    """Record a step of decoding and replay it (Llama, Mistral and Qwen2 on a GPU). Untested: no GPU was at hand."""
    lora: lora.LoraConfig = field(default_factory=lora.LoraConfig)
    """LoRA settings; rank 0 trains all parameters."""


@dataclass
class Policy:
    """A loaded model. The model stays in eval mode: dropout would make the policy differ from its own samples."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    eos_ids: list[int]
    """Every id that ends a completion; instruct models have several."""
    source: str
    """Where the base weights came from, for the manifest and the adapter's configuration."""
    dtype: torch.dtype = torch.float32
    """What the layers compute in."""
    recompute: str = "none"
    """What the backward pass computes again, as in `ModelConfig`."""
    cuda_graphs: bool = False
    """Whether decoding records its steps."""
    _reference: Policy | None = None

    def __post_init__(self) -> None:
        self.decoder = Decoder(self.model, self.recompute) if is_written_out(self.model) else None
        """The model written out, where it is of the family that `grpo.decoder` computes."""

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def max_positions(self) -> int | None:
        """Longest sequence that the model was built for, in tokens (null: not stated)."""
        return getattr(self.model.config, "max_position_embeddings", None)

    @property
    def head(self) -> nn.Module:
        """The linear layer from hidden states to logits."""
        return self.model.get_output_embeddings()

    def hidden_states(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None) -> Tensor:
        """The model without its head: ids [B, S], mask [B, cached + S], positions [B, S] -> [B, S, D]."""
        output = self.model.base_model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """The head, without gradient, always in fp32: bf16 logits cost 0.02 nats a token. [..., D] -> [..., V]."""
        with torch.no_grad():
            return self.head(hidden.float())

    @contextmanager
    def packed(self) -> Iterator[None]:
        """Inside, weights are packed for the processor where it gains by that; nothing may be trained."""
        if self.decoder is None:
            with packed(self.model):
                yield
        else:
            with packed_linears(self.decoder.products), packed(self.head):
                yield

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training moves, by name: all of them, or the adapter's."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def freeze_reference(self) -> None:
        """Remember the present policy as the KL's reference. LoRA keeps a copy of its adapter alone."""
        if lora.adapters(self.model):
            lora.freeze_reference(self.model)
        else:
            frozen = copy.deepcopy(self.model).requires_grad_(False)
            _cast(frozen, self.dtype)
            self._reference = Policy(frozen, self.tokenizer, self.eos_ids, self.source, self.dtype)
            for product in self._reference.decoder.products if self.decoder else []:
                product.pack_for_good()
            pack_for_good(frozen)
            give_back()

    @contextmanager
    def reference(self) -> Iterator[Policy]:
        """The frozen reference: a second model, or under LoRA this one with the reference's adapter."""
        if self._reference is not None:
            yield self._reference
        else:
            with lora.reference_weights(self.model):
                yield self

    def save(self, folder: Path) -> None:
        """Write a folder that `AutoModelForCausalLM.from_pretrained` (or PEFT, for an adapter) loads."""
        folder.mkdir(parents=True, exist_ok=True)
        if lora.adapters(self.model):
            lora.save_adapter(self.model, folder, self.source)
        else:
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load_policy(config: ModelConfig, seed: int = 0, sharded: bool = False) -> Policy:
    """Load model and tokenizer, add or merge LoRA, and check that our head is the model's.

    sharded: the parameters stay fp32, for `distributed.shard`. Raises ModelError, in one line, for anything that
    cannot be loaded.
    """
    path = resolve_path(config.path)
    try:
        source, adapter = lora.read_source(path) if (path / "adapter_config.json").exists() else (config.path, None)
        model, tokenizer = _load_base(config, source, seed)
        model = model.to(device=config.device, dtype=torch.float32).eval()
        source = str(resolve_path(source))  # PEFT, too, must find the base that an adapter names
        policy = Policy(model, tokenizer, _eos_ids(model, tokenizer), source, recompute=config.recompute)
        if not policy.eos_ids:
            raise ModelError("no end-of-sequence token; set eos_token in its tokenizer_config.json")
        _check_head(policy)
        if adapter:
            lora.load_adapter(model, path, adapter)
    except SafetensorError as error:
        raise ModelError(
            f"model.path={config.path}: a weights file is damaged or cut short ({error}); copy or download it again"
        ) from error
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, SafetensorError, ...
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"model.path={config.path}: cannot be loaded: {reason}") from error
    if adapter:
        if not config.lora.rank:
            lora.merge(model)
        elif config.lora.rank != adapter["r"]:
            raise ModelError(
                f"model.path={config.path}: its adapter has rank {adapter['r']}, not {config.lora.rank}; set "
                f"model.lora.rank={adapter['r']} to go on with it, or 0 to merge it and train all parameters"
            )
    elif config.lora.rank:
        lora.add_adapter(model, config.lora, seed)
    if not config.lora.rank:
        model.requires_grad_(True)
    elif sharded:
        raise ModelError("parallel=fsdp trains all parameters; set parallel=ddp for model.lora.rank > 0")
    policy.dtype = getattr(torch, config.dtype)
    if not sharded:
        _cast(model, policy.dtype)
    _compute_in(model, policy.dtype)
    use_onednn(model)
    policy.cuda_graphs = config.cuda_graphs
    if config.cuda_graphs and not policy.decoder:
        raise ModelError(f"model.cuda_graphs: not possible for {type(model).__name__}; set it to false")
    if config.recompute == "full" and not policy.decoder:
        recompute_layers(model)
    give_back()
    return policy


def resolve_path(path: str) -> Path:
    """The model's folder: a run folder stands for the `model/` in it."""
    folder = Path(path)
    return folder / "model" if (folder / "model").is_dir() and (folder / "manifest.json").exists() else folder


def _load_base(config: ModelConfig, source: str, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The full-precision model and tokenizer behind a source name."""
    if source in ("tiny", "tiny-init"):
        from data import tiny_model

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
    extra |= {"revision": config.revision, "trust_remote_code": False}  # never code out of a model's folder
    tokenizer = AutoTokenizer.from_pretrained(name, **extra)
    if not source.endswith(".gguf"):
        extra["use_safetensors"] = True  # a .bin file is a pickle
    model, found = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **extra)
    if found["missing_keys"]:  # transformers would make them up at random, and only warn
        raise ModelError(f"its files lack {len(found['missing_keys'])} weights, {min(found['missing_keys'])} for one")
    if source.endswith(".gguf"):  # the weights were dequantised on the way in: they are plain fp32 now
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.is_quantized, model.hf_quantizer = False, None
    return model, tokenizer


def _check_names(folder: Path) -> None:
    """Refuse an index of weights that leads out of its folder."""
    for index in folder.glob("*.index.json"):
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        if outside := [name for name in names if Path(name).name != name]:
            raise ModelError(f"{index.name} names {outside[0]!r}, which is no file of the folder")


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that may end a completion: of the tokenizer, the model's and the generation configuration."""
    found: set[int] = set()
    for ids in (
        tokenizer.eos_token_id,
        getattr(model.config, "eos_token_id", None),
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
    ):
        found.update(ids if isinstance(ids, (list, tuple)) else [] if ids is None else [ids])
    return sorted(found)


@torch.no_grad()
def _check_head(policy: Policy) -> None:
    """Refuse models that change their logits after the head (soft caps, scales): we skip that code."""
    ids = torch.tensor([[policy.eos_ids[0]] * 2], device=policy.device)
    positions = torch.arange(2, device=policy.device)[None]
    ours = policy.logits(policy.hidden_states(ids, torch.ones_like(ids), positions, None))
    theirs = policy.model(ids).logits.float()
    same = torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3)
    if policy.decoder:
        layout = Layout.of_prompts(torch.tensor([2]))
        written_out = policy.decoder(ids[0], positions[0], lambda _, q, k, v: attend(q, k, v, layout))
        if not torch.allclose(policy.logits(written_out), theirs[0], atol=1e-3, rtol=1e-3):
            policy.decoder = None  # a variant that `grpo.decoder` does not know
    if not same or getattr(policy.model.config, "final_logit_softcapping", None):  # a cap shows on large logits only
        raise ModelError(f"{type(policy.model).__name__} changes its logits after the head, which is not supported")


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Parameters to `dtype`, adapters (their own masters), embeddings and head excepted; buffers too stay in fp32."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    kept = {id(p) for module in (embedding, head) for p in module.parameters()}
    for name, p in model.named_parameters():
        if ".lora_" not in name and dtype != p.dtype:
            p.data = p.data.clone() if id(p) in kept else p.data.to(dtype)  # a clone, to let go of the file it is in


def _compute_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """From the embedding to the head, activations are of type `dtype`."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    embedding.register_forward_hook(lambda module, inputs, output: output.to(dtype))
    head.register_forward_pre_hook(lambda module, inputs: (inputs[0].float(),))
