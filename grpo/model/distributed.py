"""Several processes on one run, started by torchrun: who does what, and how they come to know the same.

    torchrun --nproc-per-node 8 -m grpo grpo --config FILE.yaml parallel=fsdp

    sampling, rewards    each process takes a slice of the prompts, then all gather all rollouts and rewards
    update               each takes every n-th micro-batch; losses and gradients are summed, never averaged:
                         the loss is normalised by counts of the whole batch before it is cut (see `loss.py`)
    weights              ddp: each process has all of them, and of the optimiser's state
                         fsdp: each has a shard of the fp32 weights, gradients and optimiser state, and gathers a
                         layer's weights while it computes that layer (PyTorch's `fully_shard`)
    writing              the first process, and no other

So the batch, the loss and the gradient do not depend on the number of processes, and a run goes on with any other.
With one process every function here does nothing.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)
"""How long a process waits for another: longer than any two differ in sampling and scoring their slices."""


class LostProcess(ValueError):
    """Another process has ended or does not answer."""


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes work on the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join the processes that torchrun started; alone, where it started none or one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # `cuda` is this one from now on
    # both kinds of tensor are reduced: metrics and log-probs on the processor, gradients where the model is
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo", timeout=TIMEOUT)
    try:
        yield
        dist.barrier()  # none ends while another still waits for it
    except RuntimeError as error:
        if not re.search("onnection|imed out|imeout|eset by peer|NCCL|gloo", str(error)):
            raise
        reason = str(error).strip().splitlines()[0][:120]
        raise LostProcess(
            f"another process of the run has ended or does not answer ({reason}); see what it said, then run the same "
            "command to go on from the last checkpoint, with as many processes as there are"
        ) from error
    dist.destroy_process_group()
    # gloo's threads may outlive the group and still hold a tensor, which they can only free while Python runs:
    # at its end it would stop them there, and C++ takes that for a crash
    time.sleep(0.2)


# ---- to know the same ---------------------------------------------------------------------------------------


def rank_slice(count: int) -> slice:
    """Which of `count` things in a row this process does: the n-th of as many equal parts as there are processes."""
    return slice(count * rank() // world_size(), count * (rank() + 1) // world_size())


def round_robin(items: list[T]) -> list[tuple[T, bool]]:
    """Every n-th item for this process, and whether it counts: all get equally many, so some repeat one in vain."""
    total = -(-len(items) // world_size()) * world_size()
    return [(items[i % len(items)], i < len(items)) for i in range(rank(), total, world_size())]


def all_gather(value: T) -> list[T]:
    """The value of every process, in their order."""
    values: list[Any] = [value]
    if world_size() > 1:
        values = [None] * world_size()
        dist.all_gather_object(values, value)
    return values


def gather_results(work: Callable[[], T]) -> list[T]:
    """Do the work in every process and gather what each returns; where one raises a ValueError, all raise the first."""
    try:
        outcome = work(), None
    except ValueError as error:
        outcome = None, error
    outcomes = all_gather(outcome)
    for _, failure in outcomes:
        if failure:
            raise failure
    return [result for result, _ in outcomes]


def from_first(work: Callable[[], T]) -> T:
    """What the first process gets from this work, which no other does; where it raises a ValueError, all raise it."""
    return gather_results(lambda: work() if rank() == 0 else None)[0]


def all_reduce(value: Tensor, maximum: bool = False) -> Tensor:
    """The sum over all processes, or the largest, in place."""
    if world_size() > 1:
        dist.all_reduce(value, dist.ReduceOp.MAX if maximum else dist.ReduceOp.SUM)
    return value


def reduce_metrics(sums: dict[str, Tensor]) -> dict[str, float]:
    """Figures of micro-batches over all processes: sums, and the largest of those whose name ends with `_max`."""
    values = torch.stack([value.double() for value in sums.values()])  # [K]
    total, largest = all_reduce(values.clone()).tolist(), all_reduce(values, maximum=True).tolist()
    return {name: (largest if name.endswith("_max") else total)[k] for k, name in enumerate(sums)}


# ---- weights and gradients ----------------------------------------------------------------------------------


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
