"""Several processes on one run, started by torchrun: who does what, and how they come to know the same.

    torchrun --nproc-per-node 8 -m grpo grpo --config FILE.yaml parallel=fsdp

    sampling, rewards    each process takes a share of the prompts, then all know all rollouts and rewards
    update               each takes every n-th micro-batch; losses and gradients are added up, never averaged:
                         the loss is normalised by counts of the whole batch before it is cut (see `loss.py`)
    weights              ddp: each process has all of them, and of the optimiser's state
                         fsdp: each keeps a share of the fp32 weights, gradients and optimiser state (PyTorch's
                         `fully_shard`); a step's sampling and update work on weights gathered once
    writing              the first process, and no other

So the batch, the loss and the gradient do not depend on the number of processes, and a run goes on with any other.
With one process every function here does nothing.
"""

from __future__ import annotations

import os
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

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)
"""How long a process waits for another: longer than any two differ in sampling and scoring their shares."""


class LostProcess(ValueError):
    """Another process has ended or does not answer."""


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes work on the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that torchrun started; alone, where it started none or one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # `cuda` is this one from now on
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=TIMEOUT)
    with _named_loss():
        yield
        dist.barrier()  # none leaves while another still hears from it
    dist.destroy_process_group()
    # gloo's threads may outlive the group and still hold a tensor, which they can only let go of while Python runs:
    # at its end it would stop them there, and C++ takes that for a crash
    time.sleep(0.2)


@contextmanager
def _named_loss() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reasons = ("onnection", "imed out", "imeout", "eset by peer", "NCCL", "gloo")
        if not any(word in str(error) for word in reasons):
            raise
        reason = str(error).strip().splitlines()[0][:120]
        raise LostProcess(
            f"another process of the run has ended or does not answer ({reason}); see what it said, then run the same "
            "command to go on from the last checkpoint, with as many processes as there are"
        ) from error


# ---- to know the same ---------------------------------------------------------------------------------------


def share(count: int) -> slice:
    """Which of `count` things in a row this process does: the n-th of as many equal parts as there are processes."""
    return slice(count * rank() // world(), count * (rank() + 1) // world())


def deal(items: list[T]) -> list[tuple[T, bool]]:
    """Every n-th item for this process, and whether it counts: all get equally many, so some repeat one in vain."""
    whole = -(-len(items) // world()) * world()
    return [(items[i % len(items)], i < len(items)) for i in range(rank(), whole, world())]


def everyones(value: T | Exception) -> list[T]:
    """The value of every process, in their order. Where it is an exception, all raise the first."""
    values: list[Any] = [value]
    if world() > 1:
        values = [None] * world()
        dist.all_gather_object(values, value)
    for one in values:
        if isinstance(one, Exception):
            raise one
    return values


def firsts(work: Callable[[], T]) -> T:
    """What the first process gets from this work, which no other does; what it raises, all raise."""
    outcome: Any = None
    if rank() == 0:
        try:
            outcome = work()
        except ValueError as error:
            outcome = error
    return everyones(outcome)[0]


def added(value: Tensor, maximum: bool = False) -> Tensor:
    """The sum over all processes, or the largest, in place."""
    if world() > 1:
        dist.all_reduce(value, dist.ReduceOp.MAX if maximum else dist.ReduceOp.SUM)
    return value


def added_metrics(sums: dict[str, Tensor]) -> dict[str, float]:
    """Figures of micro-batches over all processes: sums, and the largest of those whose name ends with `_max`."""
    for suffix in ("", "_max"):
        names = [name for name in sums if name.endswith("_max") == bool(suffix)]
        if names:
            values = added(torch.stack([sums[name].double() for name in names]), maximum=bool(suffix))
            sums = sums | dict(zip(names, values, strict=True))
    return {name: value.item() for name, value in sums.items()}


# ---- weights and gradients ----------------------------------------------------------------------------------


def is_sharded(parallel: str) -> bool:
    return parallel == "fsdp" and world() > 1


def shard(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep a share of each parameter here, in fp32; gathered, all but embedding and head are of type `dtype`."""
    mesh = init_device_mesh(next(model.parameters()).device.type, (world(),))
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    inner = [m for m in model.base_model.children() if m is not model.get_input_embeddings()]
    layers = [layer for m in inner for layer in (m if isinstance(m, nn.ModuleList) else [m])]
    for layer in layers:
        if any(True for _ in layer.parameters()):
            fully_shard(layer, mesh=mesh, mp_policy=precision, reshard_after_forward=False)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    for unit in _units(model):
        unit.set_gradient_divide_factor(1.0)  # a sum, no mean
        unit.set_force_sum_reduction_for_comms(True)
    model.set_reshard_after_backward(False)
    with torch.no_grad():  # `fully_shard` is ready after a pass through the whole model
        _pass(model)
    _reshard(model)


def gather_weights(model: nn.Module) -> None:
    """Before sampling and an update: the whole weights, until the gradients are added up."""
    for unit in _units(model):
        unit.unshard()
        unit.set_requires_gradient_sync(False, recurse=False)


def add_up_gradients(model: nn.Module, masters: dict[str, nn.Parameter]) -> None:
    """After all micro-batches of an update: the sum of all processes' gradients, or this one's share of it."""
    if units := _units(model):
        for unit in units:
            unit.set_requires_gradient_sync(True, recurse=False)
        # `fully_shard` adds up when the backward pass leaves a layer's `forward`. `grpo.decoder` never enters that, and
        # `grpo.anymodel` does twice, for prompts and completions. So micro-batches keep their gradients here, and a
        # pass that adds nothing sends them.
        (_pass(model).sum() * 0).backward()
        _reshard(model)
    elif world() > 1:
        for master in masters.values():
            master.grad = torch.zeros_like(master) if master.grad is None else master.grad
        for work in [dist.all_reduce(master.grad, async_op=True) for master in masters.values()]:
            work.wait()


def is_share(value: Tensor) -> bool:
    return isinstance(value, DTensor)


def whole(value: Tensor) -> Tensor:
    """A parameter, or something of its shape, out of everyone's shares."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, model: Tensor) -> Tensor:
    """A whole tensor as `model` is: this process's share of it, where that is one."""
    if not is_share(model) or is_share(value):
        return value
    return distribute_tensor(value.to(model.device), model.device_mesh, model.placements)


def _units(model: nn.Module) -> list[FSDPModule]:
    return [m for m in model.modules() if isinstance(m, FSDPModule)]


def _reshard(model: nn.Module) -> None:
    for unit in _units(model):
        unit.reshard()


def _pass(model: nn.Module) -> Tensor:
    """Logits of one token."""
    return model(torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device), use_cache=False).logits
