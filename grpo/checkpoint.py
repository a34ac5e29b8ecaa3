"""Checkpoints: everything that a run needs to go on as if it had never stopped.

A checkpoint is a folder, written aside and renamed into place, so that it is there whole or not at all:

    step-00000050/weights.safetensors   fp32 masters of the trained parameters
                  optimizer.pt          AdamW's moments (tensors only, read with weights_only=True)
                  state.json            step, data cursor

There are no random states to keep: sampling and data order are functions of (seed, step) alone.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from grpo.optim import Optimizer


def save_checkpoint(folder: Path, step: int, optimizer: Optimizer, state: dict[str, Any], keep: int) -> None:
    """Write `folder/step-N` after `step` finished steps, and drop all but the newest `keep`."""
    target = folder / f"step-{step:08d}"
    partial = folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = {name: m.detach().cpu().contiguous() for name, m in optimizer.masters.items()}
    save_file(weights, partial / "weights.safetensors")
    torch.save(optimizer.adamw.state_dict(), partial / "optimizer.pt")
    (partial / "state.json").write_text(json.dumps({"step": step, **state}), encoding="utf-8")
    for file in partial.iterdir():
        with file.open("rb") as f:
            os.fsync(f.fileno())
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path, optimizer: Optimizer) -> dict[str, Any] | None:
    """Restore the newest checkpoint into the optimiser and its model. Returns its state, or None if there is none."""
    newest = max(folder.glob("step-*"), default=None)
    if newest is None:
        return None
    weights = load_file(newest / "weights.safetensors")
    with torch.no_grad():
        for name, master in optimizer.masters.items():
            master.copy_(weights[name])
    optimizer.copy_to_model()
    optimizer.adamw.load_state_dict(torch.load(newest / "optimizer.pt", weights_only=True))
    return json.loads((newest / "state.json").read_text(encoding="utf-8"))
