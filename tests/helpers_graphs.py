"""What a CUDA graph keeps of a step, looked at and replayed on a CPU."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grpo.model import cache, graphs

HOST_READS = ("_local_scalar_dense", "nonzero", "_unique", "unique_consecutive", "masked_select", "equal.default")
"""Operators that wait for a GPU: they return a number, or a tensor whose shape depends on numbers."""


class Operations(TorchDispatchMode):
    """Inside, every operator of PyTorch is noted, with its arguments and what came out."""

    def __init__(self):
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, out))
        return out

    def shapes(self) -> list[tuple]:
        """Name and shapes of each operator."""
        return [
            (str(f), *(tuple(x.shape) for x in tree_leaves((args, out)) if isinstance(x, Tensor)))
            for f, args, _, out in self.calls
        ]

    def host_reads(self) -> list[str]:
        return [str(f) for f, *_ in self.calls if any(name in str(f) for name in HOST_READS)]


class Replay:
    """A step as a CUDA graph would have it: its operators, on the tensors that they had when it was recorded.

    No Python of the step runs again, so whatever the step took from there is as it was. Unlike a capture, recording
    does the step; the first replay does nothing for that.
    """

    count = 0  # replays of all

    def __init__(self, step: Callable[[], None]):
        with Operations() as operations:
            step()
        self.calls, self.done = operations.calls, True

    def replay(self) -> None:
        Replay.count += 1
        if self.done:
            self.done = False
            return
        for function, args, kwargs, out in self.calls:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)  # its address is in the operators that follow


def on_a_gpu(monkeypatch, block: int = 16) -> None:
    """From now on sampling does on this CPU what it does on a GPU, with `Replay` in place of a CUDA graph."""
    Replay.count = 0
    monkeypatch.setitem(cache.BLOCKS, "cpu", block)
    monkeypatch.setattr(graphs, "can_replay", lambda device: True)
    monkeypatch.setattr(graphs, "without_waiting", lambda step: step())
    monkeypatch.setattr(graphs, "capture", lambda step, last: Replay(step))
