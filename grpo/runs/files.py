"""Files that are there in full or not at all, whenever the process is killed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from grpo.distributed import rank


class RunError(ValueError):
    """A run folder, or a file in it, that cannot be used as asked, in one line."""


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk and not only in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a file aside, flush it to the disk, rename it into place; of several processes, the first writes."""
    if rank() == 0:
        partial = path.with_name(path.name + ".partial")
        partial.write_text(text, encoding="utf-8")
        sync(partial)
        os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of readable JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON or YAML file of a run. Raises RunError, in one line, where it is damaged."""
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        if not isinstance(value, dict):
            raise ValueError("not an object")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise RunError(f"{path}: is damaged: {' '.join(str(error).split())[:200]}; restore or delete it") from None
    return value
