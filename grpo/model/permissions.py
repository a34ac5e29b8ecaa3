"""Files that others may read: safetensors writes its own for their owner alone."""

from __future__ import annotations

import os
from pathlib import Path


def apply_umask(*files: Path) -> None:
    """Give files the mode of any other new file: readable by all whom the process's umask does not exclude."""
    mask = os.umask(0)  # it cannot be read without being set
    os.umask(mask)
    for file in files:
        file.chmod(0o666 & ~mask)
