"""A decoding step as a CUDA graph: to start its thousand kernels one by one takes longer than they run.

A graph holds the kernels of a step with the addresses that they read and write. One call starts them all, and no Python
runs. That gives what the step itself would give as long as

    the shapes stay     of each shape the first step runs as it is, the second is captured, the others are replayed
    the tensors stay    a step writes in place, and what changes from step to step is a number on the GPU
    the weights stay    an optimiser moves them in place, but a loaded checkpoint or gathered shards are other tensors:
                        so a graph lives no longer than the rows that it was captured for

A graph is dropped when the next one is there, which takes over its memory, and with the rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import nn

from grpo.model.checks import first_line


class Replayed:
    """Decoding steps of one batch of rows, on a GPU by replay."""

    def __init__(self, step: Callable[[], None], policy: nn.Module, memory: object):
        """step: what is done for each token; it moves nothing in Python, and may be done again where it failed.

        policy: its `graphs` says whether a graph may be tried. memory: of the rows. Steps with the same `shape` are the
        same operations on tensors of the same shapes; a memory that has none changes its shapes at every step.
        """
        self.step, self.policy, self.memory = step, policy, memory
        self.shape: object = None  # of the steps that `graph` replays; at first there is none
        self.graph: torch.cuda.CUDAGraph | None = None
        self.ready = False

    def __call__(self) -> None:
        """Do a step."""
        shape = getattr(self.memory, "shape", None)
        try:
            if not self.policy.graphs or not can_replay(self.policy.device) or shape is None:
                self.step()
            elif shape != self.shape:
                without_waiting(self.step)
                self.shape, self.ready = shape, False
            else:
                if not self.ready:
                    self.graph, self.ready = capture(self.step, self.graph), True
                self.graph.replay()
        except NoGraph as reason:
            self.policy.graphs = False
            warnings.warn(f"NOTE: sampling is slow: no CUDA graph of a decoding step ({reason})", stacklevel=2)
            self.memory.forget()
            self.step()
        self.memory.next()


class NoGraph(Exception):
    """Why a step cannot be captured, in a line."""


def can_replay(device: torch.device) -> bool:
    """Whether a device has graphs."""
    return device.type == "cuda"


def without_waiting(step: Callable[[], None]) -> None:
    """Do a step. Raises NoGraph where it waits for the GPU to read a number, which no graph can.

    It is looked for before a capture: one that fails leaves PyTorch's memory allocator in a state of capturing.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "a prototype feature"
        torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise NoGraph(first_line(error)) from error
    finally:
        torch.cuda.set_sync_debug_mode(before)


def capture(step: Callable[[], None], last: torch.cuda.CUDAGraph | None) -> torch.cuda.CUDAGraph:
    """The graph of a step, which is not done by that. last: the graph before it, whose memory it takes over."""
    graph = torch.cuda.CUDAGraph()
    try:
        with (
            torch.cuda.stream(torch.cuda.current_stream()),  # a capture that fails does not come back to this stream
            torch.cuda.graph(graph, pool=last and last.pool(), capture_error_mode="thread_local"),
        ):
            step()
    except RuntimeError as error:
        raise NoGraph(first_line(error)) from error
    return graph
