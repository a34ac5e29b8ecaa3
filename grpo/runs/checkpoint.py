"""Checkpoints: everything that a run needs to go on as if it had never stopped.

A checkpoint is a folder, written aside, flushed to the disk and renamed into place: it is there whole or not at all.

    step-00000050/weights.safetensors     fp32 masters of the trained parameters
                  optimizer.safetensors   AdamW's moments and step counts, `key/parameter`
                  state.json              finished steps, data cursor, length of the logs: whole numbers
                  manifest.json           size and SHA-256 of the three files above

With parallel=fsdp each process writes its share, and `shards/*.safetensors` (torch.distributed.checkpoint) stand for
the first two. Either is read by any number of processes.

There are no random states to keep: sampling and data order are functions of (seed, step) alone, the schedule is one
of the step. A damaged checkpoint is named, and the one before it is used. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from grpo.model.distributed import all_gather, from_first, is_shard, rank, shard_like
from grpo.model.optim import Optimizer
from grpo.runs.log import say

State = dict[str, int]

WEIGHTS, MOMENTS, STATE, MANIFEST = "weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
FILES = (WEIGHTS, MOMENTS, STATE)
SHARDS, SHARD = "shards", re.compile(r"shards/shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors", re.ASCII)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: which file of it, and why."""


# ---- writing ------------------------------------------------------------------------------------------------


def save_checkpoint(folder: Path, optimizer: Optimizer, state: State, keep: int) -> None:
    """Write `folder/step-N` after N = state["step"] finished steps, and drop all but the newest `keep`.

    Raises OSError where the disk is full or the run folder is gone; the checkpoints before it stay as they are.
    """
    target = folder / f"step-{state['step']:08d}"
    partial = folder / "partial"
    if rank() == 0:
        folder.mkdir(exist_ok=True)  # not its parents: a run folder that vanished is not made anew
        shutil.rmtree(partial, ignore_errors=True)
    try:
        if not from_first(
            lambda: _is_sound(target)
        ):  # if it is, it holds the same: a run is a function of its settings
            from_first(partial.mkdir)
            _write_tensors(partial, optimizer)
            all_gather(None)  # all have written
            if rank() == 0:
                _complete(partial, state)
                shutil.rmtree(target, ignore_errors=True)
                os.replace(partial, target)
                sync(folder)
    except SafetensorError as error:  # its I/O errors are no OSError
        raise OSError(f"{partial}: {error}") from error
    finally:
        if rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
    # later ones are damaged, or the run would have gone on from there
    kept = [old for old in checkpoints(folder) if old.name <= target.name][:keep]
    for old in checkpoints(folder) if rank() == 0 else ():
        if old not in kept:
            shutil.rmtree(old)


def _write_tensors(partial: Path, optimizer: Optimizer) -> None:
    masters = {name: m.detach() for name, m in optimizer.masters.items()}
    states = optimizer.adamw.state
    moments = {f"{key}/{name}": x for name, m in optimizer.masters.items() for key, x in states[m].items()}
    if any(map(is_shard, masters.values())):
        tensors = {f"weights/{name}": m for name, m in masters.items()} | moments
        dcp.save(tensors, storage_writer=HuggingFaceStorageWriter(str(partial / SHARDS), save_distributed=True))
    elif rank() == 0:
        save_file({name: m.cpu().contiguous() for name, m in masters.items()}, partial / WEIGHTS)
        save_file({name: x.cpu() for name, x in moments.items()}, partial / MOMENTS)


def _complete(partial: Path, state: State) -> None:
    """Add the state and the manifest, and wait until all of it is on the disk."""
    (partial / STATE).write_text(json.dumps(state), encoding="utf-8")
    names = sorted(str(file.relative_to(partial)) for file in partial.rglob("*") if file.is_file())
    files = {name: {"bytes": (partial / name).stat().st_size, "sha256": sha256(partial / name)} for name in names}
    (partial / MANIFEST).write_text(json.dumps({"files": files}, indent=2), encoding="utf-8")
    for file in partial.rglob("*"):
        sync(file)
    sync(partial)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk and not only in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# ---- reading ------------------------------------------------------------------------------------------------


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first, sound or not."""
    return sorted(folder.glob("step-*"), reverse=True)


def load_checkpoint(folder: Path, optimizer: Optimizer) -> State | None:
    """Restore the newest sound checkpoint into the optimiser and its model.

    Returns its state, or None if there is no checkpoint. Raises CheckpointError if there are some and all are damaged.
    """
    damaged = []
    for checkpoint in checkpoints(folder):
        try:
            state = restore(checkpoint, optimizer)
        except CheckpointError as error:
            damaged.append(f"{checkpoint}: {error}")
            say(f"damaged checkpoint {damaged[-1]}; looking for the one before it")
        else:
            if damaged:
                say(f"goes on from {checkpoint}")
            return state
    if damaged:
        raise CheckpointError(
            f"{damaged[0]}; no checkpoint before it is sound: restore one from a backup, or delete {folder} to begin "
            "the run anew"
        )
    return None


def restore(checkpoint: Path, optimizer: Optimizer) -> State:
    """Restore one checkpoint. Raises CheckpointError, before anything is changed, if it is not as it was written."""
    check_files(checkpoint)
    masters = optimizer.masters
    try:
        weights, moments = read_tensors(checkpoint, masters)
        state = read_state((checkpoint / STATE).read_bytes())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot be read: {error}") from error
    keys = {key.partition("/")[0] for key in moments}
    states = {  # of each parameter, AdamW's tensors; none if no step has moved it yet
        name: {key: moments[f"{key}/{name}"].to(m.device) for key in keys if f"{key}/{name}" in moments}
        for name, m in masters.items()
    }
    for name, master in optimizer.masters.items():
        shapes = [x.shape for x in (*states[name].values(), weights.get(name, torch.zeros(()))) if x.dim()]
        if name not in weights or any(shape != master.shape for shape in shapes):
            raise CheckpointError(f"{name} is missing or has another shape: it is of another model")
    with torch.no_grad():
        for name, master in optimizer.masters.items():
            master.copy_(shard_like(weights[name], master))
            optimizer.adamw.state[master] = {
                k: shard_like(x, master) if x.dim() else x for k, x in states[name].items()
            }
    optimizer.copy_to_model()
    return state


def read_tensors(checkpoint: Path, masters: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights by name and AdamW's tensors by `key/name`, whole; out of shards, each process's share where it has one.

    masters: what they will be copied to. Raises OSError, SafetensorError, CheckpointError.
    """
    if (checkpoint / WEIGHTS).exists():
        return load_file(checkpoint / WEIGHTS), load_file(checkpoint / MOMENTS)
    reader = HuggingFaceStorageReader(str(checkpoint / SHARDS))
    tensors = {}
    for key, facts in reader.read_metadata().state_dict_metadata.items():
        master = masters.get(key.partition("/")[2])
        share = master is not None and is_shard(master) and facts.size == master.shape
        tensors[key] = torch.zeros_like(master) if share else torch.zeros(facts.size)
    with warnings.catch_warnings():  # with one process it says that there is one
        warnings.simplefilter("ignore")
        dcp.load(tensors, storage_reader=reader)
    weights = {key.removeprefix("weights/"): x for key, x in tensors.items() if key.startswith("weights/")}
    return weights, {key: x for key, x in tensors.items() if not key.startswith("weights/")}


def check_files(checkpoint: Path) -> None:
    """Raise CheckpointError unless the manifest's files are there, with the sizes and checksums that it gives."""
    try:
        files = read_manifest((checkpoint / MANIFEST).read_bytes())
        for name, (size, digest) in files.items():
            there = (checkpoint / name).stat().st_size
            if there != size:
                raise CheckpointError(f"{name} has {there} bytes, not {size}")
            if sha256(checkpoint / name) != digest:
                raise CheckpointError(f"{name} is not as it was written (SHA-256)")
    except OSError as error:
        raise CheckpointError(f"{Path(error.filename or '').name} cannot be read: {error.strerror}") from error


def read_manifest(content: bytes) -> dict[str, tuple[int, str]]:
    """Sizes and checksums out of a manifest. Only names that we give are taken: no path leads out of the folder."""
    try:
        files = json.loads(content)["files"]
        shards = {name for name in files if SHARD.fullmatch(name)}
        if files.keys() != ({STATE, *shards} if shards else set(FILES)):
            raise ValueError(f"it must list {', '.join(FILES)} (or shards for the first two) and nothing else")
        facts = {name: (files[name]["bytes"], files[name]["sha256"]) for name in files}
        if not all(type(size) is int and isinstance(digest, str) for size, digest in facts.values()):
            raise ValueError("a size or checksum is missing")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{MANIFEST} is damaged: {' '.join(str(error).split())[:200]}") from error
    return facts


def read_state(content: bytes) -> State:
    """Whole numbers by name. Raises CheckpointError for anything else."""
    try:
        state = json.loads(content)
        if not all(type(value) is int and value >= 0 for value in state.values()) or "step" not in state:
            raise ValueError("its values must be whole numbers, one of them `step`")
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{STATE} is damaged: {' '.join(str(error).split())[:200]}") from error
    return state


def _is_sound(checkpoint: Path) -> bool:
    try:
        check_files(checkpoint)
    except CheckpointError:
        return False
    return True
