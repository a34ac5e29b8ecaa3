"""The policy: a causal language model, its tokenizer, every end-of-sequence id, and the frozen reference.

A model is a hub id, a folder in Hugging Face format, a LoRA adapter folder in PEFT format, a `.gguf` file, or
`tiny`, the embedded base model of the demo (`tiny-init`: the same, untrained).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from data.embedded import tiny_model
from grpo import distributed
from grpo.model import checks, compute, lora, sharding
from grpo.model.checks import ModelError
from grpo.model.shared_prefix import Memory, SharedPrefix
from grpo.types import Rollouts


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
    """What the backward pass computes again to save memory: none, or full (all but the layers' inputs)."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:0, ..."""
    lora: lora.LoraConfig = field(default_factory=lora.LoraConfig)
    """LoRA settings; rank 0 trains all parameters."""


class Policy(nn.Module):
    """A loaded model. It stays in eval mode: dropout would make the policy differ from its own samples."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        eos_ids: list[int],
        source: str,
        dtype: torch.dtype = torch.float32,
        passes: SharedPrefix | None = None,
    ):
        """eos_ids: every id that ends a completion; instruct models have several. source: where the base weights came
        from. dtype: what the layers compute in. passes: the way through the model."""
        super().__init__()
        self.model, self.tokenizer, self.eos_ids, self.source, self.dtype = model, tokenizer, eos_ids, source, dtype
        self.logit_scale, self.logit_cap = checks.logit_changes(model.config)
        self._reference: tuple[Policy, ...] = ()  # in a tuple: its parameters are none of ours
        self.masters: dict[str, Tensor] = {}  # trained fp32 weights of which the model has rounded ones
        self.passes = passes or SharedPrefix()
        self.passes.prepare(model)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def max_positions(self) -> int | None:
        """Longest sequence that the model was built for, in tokens (None: not stated)."""
        return checks.longest_sequence(self.model.config)

    @property
    def head(self) -> nn.Module:
        """The linear layer from hidden states to logits."""
        return self.model.get_output_embeddings()

    def forward(self, ids: Tensor, memory: Memory) -> Tensor:
        """Hidden states [M, D] of tokens [M]; `memory` knows their positions, and which tokens may see which."""
        return self.passes.hidden_states(self.model, ids, memory).clone()  # `fully_shard` warns of a view

    def completion_states(self, rollouts: Rollouts) -> Tensor:
        """Hidden states of the positions that predict the sampled tokens, with gradient: [M, D], M = mask.sum()."""
        return self.passes.completion_states(self, rollouts, self.device)

    def start_decoding(self, prompts: list[list[int]], group_size: int, room: int) -> Memory:
        """Compute the prompts, [P] lists of tokens, without their last ones, for `room` tokens of `group_size` rows.

        What comes back is the memory of P * group_size rows: `policy(token, memory)` gives the hidden states of the
        next token of each, `memory.next()` follows it, and `memory.keep(rows)` lets the other rows leave.
        """
        if not all(prompts):
            raise ValueError("a prompt holds no token: it needs at least one to continue from")
        return self.passes.start_decoding(self, prompts, group_size, room, self.device)

    @torch.no_grad()
    def logits(self, hidden: Tensor, part: slice = slice(None), out: Tensor | None = None) -> Tensor:
        """The head, without gradient, or a part of its vocabulary, written to `out` where given: [M, D] -> [M, V].

        Always in fp32: bf16 logits cost 0.02 nats a token.
        """
        z = torch.mm(hidden.float(), self.head.weight[part].t(), out=out)
        if self.head.bias is not None:
            z += self.head.bias[part]
        if self.logit_scale != 1:
            z *= self.logit_scale
        return z if self.logit_cap is None else z.div_(self.logit_cap).tanh_().mul_(self.logit_cap)

    def through_cap(self, gradient: Tensor, z: Tensor) -> Tensor:
        """From the gradient of logits z to that of the head's output, in place: [M, V]."""
        gradient = gradient if self.logit_scale == 1 else gradient.mul_(self.logit_scale)
        return gradient if self.logit_cap is None else gradient.mul_(1 - (z / self.logit_cap).square())

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training moves, by name: all of them, or the adapter's."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def freeze_reference(self) -> None:
        """Remember the present policy as the KL's reference. LoRA keeps a copy of its adapter alone."""
        if lora.adapters(self.model):
            lora.freeze_reference(self.model)
        else:
            frozen = copy.deepcopy(self.model).requires_grad_(False)
            self._reference = (Policy(frozen, self.tokenizer, self.eos_ids, self.source, self.dtype, self.passes),)

    @contextmanager
    def reference(self) -> Iterator[Policy]:
        """The frozen reference: a second model, or under LoRA this one with the reference's adapter."""
        if self._reference:
            yield self._reference[0]
            sharding.reshard(self._reference[0])
        else:
            with lora.reference_weights(self.model):
                yield self

    def check_tokens(self, sequences: Iterable[list[int]]) -> None:
        """Raise ModelError where the tokenizer made a token that the model has no embedding of."""
        worst, rows = max(map(max, sequences)), self.model.get_input_embeddings().weight.shape[0]
        if worst >= rows:
            token = self.tokenizer.convert_ids_to_tokens(worst)
            raise ModelError(
                f"the tokenizer makes token {worst}, {token!r}, but the model has embeddings of {rows} tokens: the two "
                "do not belong together, or tokens were added and the embeddings not resized"
            )

    # ---- several processes: see `sharding.py` -----------------------------------------------------------------

    def start_training(self, parallel: str) -> None:
        """Keep a shard of the fp32 weights here (fsdp), or all of them in `masters` and rounded ones in the layers.

        Called after `freeze_reference`, before the optimiser is made. Raises ModelError for shards of an adapter.
        """
        sharded = sharding.is_sharded(parallel)
        if sharded and lora.adapters(self.model):
            raise ModelError("parallel=fsdp trains all parameters; set parallel=ddp for model.lora.rank > 0")
        for some in (self, *self._reference):
            if sharded:
                sharding.shard(some, some.model, self.dtype)
            else:
                some.masters = compute.cast(some.model, self.dtype)

    @contextmanager
    def unsharded(self) -> Iterator[None]:
        """Inside, each process has all weights: sampling needs them once a token."""
        with sharding.unsharded(self, lambda: self.passes.one_token(self, self.device)):
            yield

    # ---- fp32 weights -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def take(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Compute with these fp32 weights, rounded to the type of the layers; `save` writes them as they are."""
        parameters = self.trainable()
        for name, weight in weights:
            parameters[name].copy_(weight)
            if parameters[name].dtype != weight.dtype and distributed.rank() == 0:  # the first process saves
                self.masters[name] = weight.cpu()

    def save(self, folder: Path) -> None:
        """Write a folder that `AutoModelForCausalLM.from_pretrained` (or PEFT, for an adapter) loads, in fp32."""
        folder.mkdir(parents=True, exist_ok=True)
        if lora.adapters(self.model):
            lora.save_adapter(self.model, folder, self.source)
        else:
            self.model.save_pretrained(folder, state_dict=self.model.state_dict() | self.masters)
        self.tokenizer.save_pretrained(folder)


def load_policy(config: ModelConfig, seed: int = 0, training: bool = False) -> Policy:
    """Load model and tokenizer, add or merge LoRA, and check that our forward pass is the model's.

    training: the weights stay fp32 until `Policy.start_training`. Raises ModelError, in one line, for anything that
    cannot be loaded.
    """
    path = resolve_path(config.path)
    try:
        source, adapter = lora.read_source(path) if (path / "adapter_config.json").exists() else (config.path, None)
        model, tokenizer = _load_base(config, source, seed)
        model = model.to(device=config.device, dtype=torch.float32).eval()
        base = tiny_model.BASE_FOLDER if source == "tiny" else resolve_path(source)
        source = str(base.resolve() if base.exists() else base)  # PEFT, too, must find the base that an adapter names
        policy = Policy(model, tokenizer, _eos_ids(model, tokenizer), source, getattr(torch, config.dtype))
        if not policy.eos_ids:
            raise ModelError("no end-of-sequence token; set eos_token in its tokenizer_config.json")
        checks.check_model(model, policy, policy.logits)
        if adapter:
            lora.load_adapter(model, path, adapter)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, SafetensorError, ...
        damaged = "; a weights file is damaged or cut short, copy or download it again"
        advice = damaged if isinstance(error, SafetensorError) else ""
        raise ModelError(f"model.path={config.path}: cannot be loaded: {checks.first_line(error)}{advice}") from error
    if adapter:
        if not config.lora.rank:
            lora.merge(model)
        elif config.lora.rank != adapter["r"]:
            raise ModelError(
                f"model.path={config.path}: its adapter has rank {adapter['r']}, not {config.lora.rank}; set "
                f"model.lora.rank={adapter['r']} to go on with it, or 0 to merge it and train all parameters"
            )
        else:
            lora.check_same(config.lora, adapter)
    elif config.lora.rank:
        lora.add_adapter(model, config.lora, seed)
    if not config.lora.rank:
        compute.train_text(model)
    if not training:
        compute.cast(model, policy.dtype)
    compute.compute_in(model, policy.dtype)
    if config.recompute == "full":
        compute.recompute_layers(model)
    return policy


def resolve_path(path: str) -> Path:
    """The model's folder: a run folder stands for the `model/` in it."""
    folder = Path(path)
    return folder / "model" if (folder / "model").is_dir() and (folder / "manifest.json").exists() else folder


def _load_base(config: ModelConfig, source: str, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The full-precision model and tokenizer behind a source name."""
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
