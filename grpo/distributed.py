"""Several processes on one run, started by torchrun: who does what, and how they come to know the same.

    torchrun --nproc-per-node 8 -m grpo grpo --config FILE.yaml parallel=fsdp

    sampling, rewards    each process takes a slice of the prompts, then all gather all rollouts and rewards
    update               each takes every n-th micro-batch; losses and gradients are summed, never averaged:
                         the loss is normalised by counts of the whole batch before it is cut (see `loss.py`)
    weights              ddp: each process has all of them, and of the optimiser's state
                         fsdp: each has a shard of the fp32 weights, gradients and optimiser state, and gathers a
                         layer's weights while it computes that layer (PyTorch's `fully_shard`); see model/sharding.py
    writing              the first process, and no other

So the batch, the loss and the gradient do not depend on the number of processes, and a run continues with any other.
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
from torch import Tensor

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


def has_gpu() -> bool:
    """Whether PyTorch finds a GPU that it can use."""
    return torch.cuda.is_available()


def find_device(name: str) -> torch.device:
    """The device of this name (`cpu`, `cuda`, `cuda:1`); `auto` is a GPU if there is one, else the CPU.

    Raises ValueError, in one line, where this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if has_gpu() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        cards = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        there = ", ".join(["cpu", *cards])
        raise ValueError(f"model.device={name}: this machine does not have it; there is {there}") from error
    return device


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join the processes that torchrun started; alone, where it started none or one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    on_gpus = find_device(device).type == "cuda"
    if on_gpus:
        number, cards = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= cards:
            raise ValueError(f"process {number} of this machine has no GPU, there are {cards}: start {cards} processes")
        torch.cuda.set_device(number)  # `cuda` is this one from now on
    # both kinds of tensor are reduced: metrics and log-probs on the processor, gradients where the model is
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=TIMEOUT)
    try:
        yield
        dist.barrier()  # none ends while another still waits for it
    except RuntimeError as error:
        if not is_of_another(error):
            raise
        reason = str(error).strip().splitlines()[0][:120]
        raise LostProcess(
            f"another process of the run has ended or does not answer ({reason}); see what it said, then run the same "
            "command to continue from the last checkpoint, with as many processes as there are"
        ) from error
    dist.destroy_process_group()
    # gloo's threads may outlive the group and still hold a tensor, which they can only free while Python runs:
    # at its end it would stop them there, and C++ takes that for a crash
    time.sleep(0.2)


def is_of_another(error: RuntimeError) -> bool:
    """Whether PyTorch raised this because another process has ended or does not answer."""
    return bool(re.search("onnection|imed out|imeout|eset by peer|NCCL|gloo", str(error)))


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
