"""The policy: a causal language model, its tokenizer, every end-of-sequence id, and the frozen reference.

A model is a hub id, a folder in Hugging Face format, a LoRA adapter folder in PEFT format, a `.gguf` file, or
`tiny`, the embedded base model of the demo (`tiny-init`: the same, untrained).
"""

from __future__ import annotations

import copy
import functools
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.embedded import tiny_model
from grpo import distributed
from grpo.model import checks, compute, lora, sharding
from grpo.model.checks import ModelError
from grpo.model.config import ModelConfig
from grpo.model.head import Head
from grpo.model.permissions import apply_umask
from grpo.model.shared_prefix import SharedPrefix
from grpo.model.source import find_eos_ids, load_base, resolve_path
from grpo.model.whole_rows import WholeRows
from grpo.types import Rollouts


class Policy(nn.Module):
    """A loaded model. It stays in eval mode: dropout would make the policy differ from its own samples."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        eos_ids: list[int],
        source: str,
        dtype: torch.dtype = torch.float32,
        passes: SharedPrefix | WholeRows | None = None,
    ):
        """eos_ids: every id that ends a completion; instruct models have several. source: where the base weights came
        from. dtype: what the layers compute in. passes: the way through the model."""
        super().__init__()
        self.model, self.tokenizer, self.eos_ids, self.source, self.dtype = model, tokenizer, eos_ids, source, dtype
        self.logit_scale, self.logit_cap = checks.logit_changes(model.config)
        self._reference: tuple[Policy, ...] = ()  # in a tuple: its parameters are none of ours
        self.graphs = True  # sampling may try CUDA graphs: see `graphs.py`
        self.masters: dict[str, Tensor] = {}  # trained fp32 weights of which the model has rounded ones
        self.mapped: torch.device | None = None  # where the shards will be of weights that are still in their files
        self.by_layer = False  # shards are gathered a layer at a time in sampling, too
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

    def forward(self, ids: Tensor, memory: Any) -> Tensor:
        """Hidden states [M, D] of tokens [M]; `memory` knows their positions, and which tokens may see which."""
        return self.passes.hidden_states(self.model, ids, memory).clone()  # `fully_shard` warns of a view

    def completion_states(self, rollouts: Rollouts) -> Tensor:
        """Hidden states of the positions that predict the sampled tokens, with gradient: [M, D], M = mask.sum()."""
        return self.passes.completion_states(self, rollouts, self.device)

    def start_decoding(self, prompts: list[list[int]], group_size: int, room: int) -> Any:
        """Compute the prompts, [P] lists of tokens, without their last ones, for `room` tokens of `group_size` rows.

        What comes back is the memory of P * group_size rows: `policy(token, memory)` gives the hidden states of the
        next token of each, `memory.next()` follows it, and `memory.keep(rows)` lets the other rows leave.
        """
        if not all(prompts):
            raise ValueError("a prompt holds no token: it needs at least one to continue from")
        return self.passes.start_decoding(self, prompts, group_size, room, self.device)

    def current_head(self) -> Head:
        """From hidden states to logits, while no weight moves."""
        return Head(self.head, self.logit_scale, self.logit_cap, self.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Without gradient, as one fp32 product whatever the type of the layers: [M, D] -> [M, V]."""
        return Head(self.head, self.logit_scale, self.logit_cap, torch.float32).logits(hidden)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training moves, by name: all of them, or the adapter's."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def values(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of each parameter, in the type that it is computed with; in fp32 before `start_training`.

        All processes call it: shards are gathered, one parameter after the other.
        """
        fp32 = {p for m in (self.model.get_input_embeddings(), self.head) for p in m.parameters()}
        for name, p in self.model.named_parameters():
            value = sharding.full_tensor(p.detach())
            if self.mapped:
                value = value.float()
            elif sharding.is_shard(p) and p not in fp32:
                value = value.to(self.dtype)
            yield name, value

    def freeze_reference(self) -> None:
        """Remember the present policy as the KL's reference. LoRA keeps a copy of its adapter alone."""
        if lora.adapters(self.model):
            lora.freeze_reference(self.model)
        else:
            same = {id(p): nn.Parameter(p.data) for p in self.model.parameters()} if self.mapped else {}
            frozen = copy.deepcopy(self.model, same).requires_grad_(False)
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

    def stay_mapped(self, device: torch.device) -> None:
        """The weights are in their files, and their shards will be on this device; what is no weight is there now."""
        self.mapped = device
        for module in self.model.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                module.register_buffer(name, buffer.to(device), name not in module._non_persistent_buffers_set)

    def describe(self) -> str:
        """Device, type and size, for a person: `cpu, float32, 135M parameters, 0.5M of them train`."""
        sizes = [p.numel() for p in self.model.parameters()], [p.numel() for p in self.trainable().values()]
        total, trained = (f"{sum(some) / 1e6:.3g}M" for some in sizes)
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)
        some = f", {trained} of them train" if trained != total else ""
        return f"{name}, {str(self.dtype).removeprefix('torch.')}, {total} parameters{some}"

    def check_tokens(self, sequences: Iterable[list[int]]) -> None:
        """Raise ModelError where the tokenizer made a token that the model has no embedding of."""
        worst, rows = max(map(max, sequences), default=0), self.model.get_input_embeddings().weight.shape[0]
        if worst >= rows:
            token = self.tokenizer.convert_ids_to_tokens(worst)
            raise ModelError(
                f"the tokenizer makes token {worst}, {token!r}, but the model has embeddings of {rows} tokens: the two "
                "do not belong together, or tokens were added and the embeddings not resized"
            )

    # ---- several processes: see `sharding.py` -----------------------------------------------------------------

    def start_training(self, parallel: str, by_layer: bool = False) -> None:
        """Keep a shard of the fp32 weights here (fsdp), or all of them in `masters` and rounded ones in the layers.

        by_layer: also sampling gathers shards a layer at a time. Called after `freeze_reference`, before the
        optimiser is made. Raises ModelError for shards of an adapter.
        """
        sharded = sharding.is_sharded(parallel)
        if sharded and lora.adapters(self.model):
            raise ModelError("parallel=fsdp trains all parameters; set parallel=ddp for model.lora.rank > 0")
        device = self.mapped or self.device
        for some in (self, *self._reference):
            if sharded:
                some.shard(device, by_layer)
            else:
                some.masters = compute.cast(some.model, self.dtype)
            some.check_dtype()

    def shard(self, device: torch.device, by_layer: bool) -> None:
        """Keep a shard of the fp32 weights on this device; the layers compute in `dtype`."""
        sharding.shard(self, self.model, self.dtype, device)
        self.mapped, self.by_layer = None, by_layer
        self.graphs = False  # gathering is not for a graph

    @torch.no_grad()
    def check_dtype(self) -> None:
        """Raise ModelError where the model's code mixes types that do not go together: found before the first step."""
        try:
            self.passes.one_token(self, self.device)
            sharding.reshard(self)
        except RuntimeError as error:
            if distributed.is_of_another(error):
                raise
            name, dtype = type(self.model).__name__, str(self.dtype).removeprefix("torch.")
            said = f"{name} cannot compute in {dtype} ({checks.first_line(error)}); set model.dtype=float32"
            raise ModelError(said) from error

    @contextmanager
    def ready_to_sample(self) -> Iterator[None]:
        """Inside, each process samples its share, which may be empty; all processes enter it together."""
        touch = functools.partial(self.passes.one_token, self, self.device)
        with sharding.ready_to_sample(self, touch, self.by_layer):
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
        """Write a folder that `AutoModelForCausalLM.from_pretrained` (or PEFT, for an adapter) loads, in fp32.

        All processes call it, and the first one writes.
        """
        if distributed.rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
        sharding.reshard(self)  # `state_dict` does so too: what is gathered now would be shards there
        gathered = sharding.gather_into(folder / "gathered", self.model)
        if distributed.rank():
            return
        if lora.adapters(self.model):
            lora.save_adapter(self.model, folder, self.source)
        else:
            self.model.save_pretrained(folder, state_dict=self.model.state_dict() | self.masters | gathered)
        shutil.rmtree(folder / "gathered", ignore_errors=True)
        self.tokenizer.save_pretrained(folder)
        apply_umask(*folder.glob("*.safetensors"))


def load_policy(
    config: ModelConfig, seed: int = 0, training: bool = False, parallel: str = "ddp", by_layer: bool = True
) -> Policy:
    """Load model and tokenizer, add or merge LoRA, and check that our forward pass is the model's.

    training: the weights stay fp32 until `Policy.start_training`, or in their files where `parallel` will shard them.
    Otherwise they are ready to sample: rounded, or sharded, where an adapter is not; by_layer: as there.
    Raises ModelError, in one line, for anything that cannot be loaded.
    """
    path, device = resolve_path(config.path), distributed.find_device(config.device)
    try:
        source, adapter = lora.read_source(path) if (path / "adapter_config.json").exists() else (config.path, None)
        mapped = sharding.is_sharded(parallel) and not (adapter or config.lora.rank or ".gguf" in source)
        model, tokenizer = load_base(config, source, seed, mapped)
        model = model.eval() if mapped else model.to(device=device, dtype=torch.float32).eval()
        base = tiny_model.BASE_FOLDER if source == "tiny" else resolve_path(source)
        source = str(base.resolve() if base.exists() else base)  # PEFT, too, must find the base that an adapter names
        implementation = model.config._attn_implementation  # transformers' choice
        policy = Policy(model, tokenizer, find_eos_ids(model, tokenizer), source, getattr(torch, config.dtype))
        if not policy.eos_ids:
            raise ModelError("no end-of-sequence token; set eos_token in its tokenizer_config.json")
        if mapped:
            policy.stay_mapped(device)
        with sharding.layer_by_layer(model, device) if mapped else nullcontext():
            checks.choose_passes(policy, implementation)
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
                f"model.lora.rank={adapter['r']} to continue with it, or 0 to merge it and train all parameters"
            )
        else:
            lora.check_same(config.lora, adapter)
    elif config.lora.rank:
        lora.add_adapter(model, config.lora, seed)
    if not config.lora.rank:
        compute.train_text(model)
    compute.compute_in(model, policy.dtype)
    if not training:
        if sharding.is_sharded(parallel) and not lora.adapters(model):
            policy.shard(device, by_layer)
        else:
            compute.cast(model, policy.dtype)
        policy.check_dtype()
    if config.recompute == "full":
        compute.recompute_layers(model)
    return policy
