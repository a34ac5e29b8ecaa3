"""Weights and gradients of several processes: a shard of each weight here (fsdp), or all of them (ddp).

With one process every function here does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo.distributed import world_size


def is_sharded(parallel: str) -> bool:
    return parallel == "fsdp" and world_size() > 1


def shard(policy: nn.Module, model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Keep a shard of each parameter here, in fp32; gathered, all but embedding and head are of type `dtype`.

    policy: the root, whose `forward` calls `model`'s layers. Each layer is gathered when it is called, in the forward
    and in the backward pass, and its gradient is reduced to shards at once. Embedding and head are gathered by the
    root's `forward`, and stay until its backward pass has ended.
    """
    mesh = init_device_mesh(next(model.parameters()).device.type, (world_size(),))
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for part in _parts(model):
        fully_shard(part, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
    fully_shard(policy, mesh=mesh, reshard_after_forward=False)  # the head is called after `forward`
    for unit in _units(policy):
        unit.set_gradient_divide_factor(1.0)  # a sum, no mean
        unit.set_force_sum_reduction_for_comms(True)


@contextmanager
def unsharded(policy: nn.Module, touch: Callable[[], Tensor]) -> Iterator[None]:
    """Inside, each process keeps all weights: sampling needs them once a token. touch: calls every layer once."""
    units = [unit for unit in _units(policy) if unit is not policy]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
    if units:
        with torch.no_grad():
            touch()
    yield
    for unit in units:
        unit.set_reshard_after_forward(True, recurse=False)
    reshard(policy)


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
