"""Checkpoints: everything that a run needs to continue as if it had never stopped.

    checkpoints/step-00000050.safetensors
        weight/NAME                  fp32 master of each trained parameter
        exp_avg/NAME, ...            AdamW's state of it: both moments and the number of steps
        metadata                     finished steps, data cursor, length of the logs; SHA-256 of all this

There are no random states to keep: sampling and data order are functions of (seed, step) alone, and so is the learning
rate. Whether weights are sharded or not, the file is the same: the first process gathers one tensor after the other and
writes it. So a run continues with any number of processes, and none holds more than its shard and a tensor.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from grpo.distributed import from_first, rank
from grpo.model.optim import Optimizer
from grpo.model.sharding import full_tensor, shard_like
from grpo.runs.files import RunError, sync
from grpo.runs.log import say

State = dict[str, int]


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first, sound or not."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def save_checkpoint(folder: Path, optimizer: Optimizer, state: State, keep: int) -> None:
    """Write the checkpoint after state["step"] finished steps, and drop all but the newest `keep`.

    Raises OSError where the disk is full or the run folder is gone; the checkpoints before it stay as they are.
    """
    tensors = {
        f"{key}/{name}": value
        for name, master in optimizer.masters.items()
        for key, value in {"weight": master.detach(), **optimizer.adamw.state[master]}.items()
    }
    full = ((name, full_tensor(tensors[name])) for name in sorted(tensors))  # gathered by all processes
    if rank():
        for _ in full:
            pass
        return
    target, partial = folder / f"step-{state['step']:08d}.safetensors", folder / "partial"
    metadata = {key: str(value) for key, value in state.items()}
    folder.mkdir(exist_ok=True)  # not its parents: a run folder that vanished is not made again
    try:
        write(partial, {name: tensors[name].shape for name in sorted(tensors)}, full, metadata)
        sync(partial)
        os.replace(partial, target)
        sync(folder)
    finally:
        partial.unlink(missing_ok=True)
    # later ones are damaged, or the run would have gone on from there
    kept = [old for old in checkpoints(folder) if old.name <= target.name][:keep]
    for old in set(checkpoints(folder)) - set(kept):
        old.unlink()


def write(
    path: Path, shapes: dict[str, torch.Size], tensors: Iterable[tuple[str, Tensor]], metadata: dict[str, str]
) -> None:
    """A file in safetensors' format, of fp32 tensors that come one by one in the order of their shapes."""
    unknown, at, header = "0" * 64, 0, {}
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps({"__metadata__": {**metadata, "sha256": unknown}, **header}).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        passing = ((name, tensor.detach().float().cpu().contiguous()) for name, tensor in tensors)
        sha = digest(metadata, _noting(passing, file))
        file.seek(8 + text.index(unknown.encode()))
        file.write(sha.encode())


def _noting(tensors: Iterable[tuple[str, Tensor]], file: BinaryIO) -> Iterator[tuple[str, Tensor]]:
    """The same tensors, each after it was written."""
    for name, tensor in tensors:
        file.write(tensor.flatten().view(torch.uint8).numpy())
        yield name, tensor


def digest(metadata: dict[str, str], tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of the metadata and of each tensor's name, type, shape and bytes; tensors in the order of their names."""
    sha = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, tensor in tensors:
        sha.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        sha.update(tensor.flatten().view(torch.uint8).numpy())
    return sha.hexdigest()


def load_checkpoint(folder: Path, optimizer: Optimizer) -> State | None:
    """Restore the newest sound checkpoint into the optimiser and its model.

    Returns its state, or None if there is no checkpoint. Raises RunError if there are some and all are damaged.
    """
    damaged = []
    for checkpoint in from_first(lambda: checkpoints(folder)):
        try:
            state = from_first(lambda checkpoint=checkpoint: check(checkpoint, optimizer))
        except RunError as error:
            damaged.append(f"{checkpoint}: {error}")
            say(f"damaged checkpoint {damaged[-1]}; looking for the one before it")
            continue
        restore(checkpoint, optimizer)
        if damaged:
            say(f"continues from {checkpoint}")
        return state
    if damaged:
        raise RunError(
            f"{damaged[0]}; no checkpoint before it is sound: restore one from a backup, or delete {folder} to begin "
            "the run again"
        )
    return None


def check(checkpoint: Path, optimizer: Optimizer) -> State:
    """The state of a checkpoint. Raises RunError unless it is as it was written, and of this model."""
    try:
        with safe_open(checkpoint, "pt") as file:
            metadata, names = file.metadata() or {}, sorted(file.keys())
            written = metadata.pop("sha256", None)
            if digest(metadata, ((name, file.get_tensor(name)) for name in names)) != written:
                raise RunError("is not as it was written (SHA-256)")
            shapes = {name: file.get_slice(name).get_shape() for name in names if name.startswith("weight/")}
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot be read: {error}") from error
    ours = {f"weight/{name}": list(master.shape) for name, master in optimizer.masters.items()}
    for name in sorted(shapes.keys() | ours.keys()):
        if shapes.get(name) != ours.get(name):
            raise RunError(f"{name} is missing or has another shape: it is of another model")
    return {key: int(value) for key, value in metadata.items()}


@torch.no_grad()
def restore(checkpoint: Path, optimizer: Optimizer) -> None:
    """Copy the tensors of a checkpoint that was checked into the optimiser and its model."""
    with safe_open(checkpoint, "pt") as file:
        for key in sorted(file.keys()):
            kind, _, name = key.partition("/")
            master, value = optimizer.masters[name], file.get_tensor(key)
            value = shard_like(value.to(master.device), master) if value.dim() else value.to(master.device)
            if kind == "weight":
                master.copy_(value)
            else:
                optimizer.adamw.state[master][kind] = value
    optimizer.copy_to_model()
