"""Weights and gradients of several processes: a shard of each weight here (fsdp), or all of them (ddp).

A model that will be sharded is never held as a whole. transformers maps its files into memory, in their own type, which
takes no memory but the system's cache, shared by all processes. From there

    comparing    with the model's own forward pass: a layer is copied in when it is computed (`layer_by_layer`)
    sharding     a layer is copied in, and this process's shard of it kept (`shard`)
    training     a layer is gathered when it is computed
    sampling     so it is there, or all weights are gathered once for all tokens: a setting (`ready_to_sample`)
    saving       all gather a tensor, and the first process puts it into a file that is mapped, too

With one process every function here does nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo.distributed import all_reduce, rank, world_size


def is_sharded(parallel: str) -> bool:
    return parallel == "fsdp" and world_size() > 1


@contextmanager
def layer_by_layer(model: PreTrainedModel, device: torch.device) -> Iterator[None]:
    """Inside, a mapped model computes in fp32 on the device, where only one of its layers is at a time."""
    layers = _parts(model)
    inside = {p for layer in layers for p in layer.parameters()}
    mapped = {p: p.data for p in model.parameters()}

    def let_go(module: nn.Module, *_: object) -> None:
        for p in module.parameters():
            p.data = mapped[p]

    def come(module: nn.Module, *_: object) -> None:
        copy_in(module.parameters(), device)

    hooks = [layer.register_forward_pre_hook(come) for layer in layers]
    hooks += [layer.register_forward_hook(let_go) for layer in layers]
    copy_in(mapped.keys() - inside, device)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for p, data in mapped.items():
            p.data = data


def copy_in(parameters: Iterable[nn.Parameter], device: torch.device) -> None:
    """Let parameters be fp32 on the device, out of the file that they are mapped from."""
    for p in parameters:
        p.data = p.data.to(device=device, dtype=torch.float32)


def shard(policy: nn.Module, model: PreTrainedModel, dtype: torch.dtype, device: torch.device) -> None:
    """Keep a shard of each parameter here, in fp32; gathered, all but embedding and head are of type `dtype`.

    policy: the root, whose `forward` calls `model`'s layers. Each layer is gathered when it is called, in the forward
    and in the backward pass, and its gradient is reduced to shards at once. Embedding and head are gathered by the
    root's `forward`, and stay until its backward pass has ended.
    """
    mesh = init_device_mesh(device.type, (world_size(),))
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for part in _parts(model):
        copy_in(part.parameters(), device)
        fully_shard(part, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
    copy_in((p for p in model.parameters() if not is_shard(p)), device)
    fully_shard(policy, mesh=mesh, reshard_after_forward=False)  # the head is called after `forward`
    for unit in _units(policy):
        unit.set_gradient_divide_factor(1.0)  # a sum, no mean
        unit.set_force_sum_reduction_for_comms(True)


@contextmanager
def ready_to_sample(policy: nn.Module, touch: Callable[[], Tensor], by_layer: bool) -> Iterator[None]:
    """Inside, each process calls the policy as often as it has to sample; all enter together, and leave together.

    touch: calls every layer once. by_layer: gather a layer when it is called; otherwise gather all of them now, and
    keep them. Embedding and head are gathered in both cases.
    """
    layers = [unit for unit in _units(policy) if unit is not policy]
    if not layers:
        yield
        return
    for layer in layers:
        layer.set_reshard_after_forward(by_layer, recurse=False)
    with torch.no_grad():
        touch()
    with _in_step(policy, touch) if by_layer else nullcontext():
        yield
    for layer in layers:
        layer.set_reshard_after_forward(True, recurse=False)
    reshard(policy)


@contextmanager
def _in_step(policy: nn.Module, touch: Callable[[], Tensor]) -> Iterator[None]:
    """Inside, all processes call the policy equally often, since all of them gather a layer, or none does.

    Before each call they agree that one of them has work; who has done its work helps to gather until nobody has. So it
    does, too, after a ValueError, of which the others will be told; any other error ends the process, and so the run.
    """

    def somebody_works(here: bool) -> bool:
        return bool(all_reduce(torch.tensor(float(here))))

    def before_a_call(*_: object) -> None:
        somebody_works(True)

    def help_others() -> None:
        hook.remove()
        while somebody_works(False):
            with torch.no_grad():
                touch()

    hook = policy.register_forward_pre_hook(before_a_call)
    try:
        yield
    except ValueError:
        help_others()
        raise
    help_others()


def reshard(policy: nn.Module) -> None:
    """Let go of what is gathered: without a backward pass embedding and head would stay."""
    for unit in _units(policy):
        unit.reshard()


def reduce_gradients(parameters: dict[str, nn.Parameter]) -> None:
    """After all micro-batches of an update: the sum of all processes' gradients. `fully_shard` has done it already."""
    if world_size() == 1 or any(is_shard(p) for p in parameters.values()):
        return
    for p in parameters.values():
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    for work in [dist.all_reduce(p.grad, async_op=True) for p in parameters.values()]:
        work.wait()


def is_shard(value: Tensor) -> bool:
    return isinstance(value, DTensor)


def full_tensor(value: Tensor) -> Tensor:
    """A parameter, or something of its shape, out of all processes' shards."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def gather_into(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """The full fp32 tensor of each sharded parameter, by name, in the first process; all gather, one after the other.

    folder: a new one, whose files, one a tensor, these are mapped from.
    """
    full = {}
    for number, p in enumerate(p for p in model.parameters() if is_shard(p)):  # tied ones once
        value = full_tensor(p.detach())
        if rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            room = torch.from_file(str(folder / str(number)), shared=True, size=math.prod(p.shape))
            full[p] = room.view(p.shape).copy_(value)
    return {name: full[p] for name, p in model.named_parameters(remove_duplicate=False) if p in full}


def shard_like(value: Tensor, model: Tensor) -> Tensor:
    """A full tensor as `model` is: this process's shard of it, where that is one."""
    if not is_shard(model) or is_shard(value):
        return value
    return distribute_tensor(value.to(model.device), model.device_mesh, model.placements)


def _parts(model: PreTrainedModel) -> list[nn.Module]:
    """What is gathered by itself: the layers, and norms and the like outside of them; no embedding, no head."""
    seen = {p for module in (model.get_input_embeddings(), model.get_output_embeddings()) for p in module.parameters()}
    parts = []
    for module in model.modules():
        is_part = isinstance(module, GradientCheckpointingLayer) or not any(True for _ in module.children())
        if is_part and not seen.issuperset(module.parameters()):
            parts.append(module)
            seen.update(module.parameters())
    return parts


def _units(policy: nn.Module) -> list[FSDPModule]:
    return [m for m in policy.modules() if isinstance(m, FSDPModule)]
