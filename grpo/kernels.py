"""Attention in C (`attention.c`), compiled by the machine's own compiler when it is first needed.

The shared library is kept in `$XDG_CACHE_HOME/grpo` (or `~/.cache/grpo`) under a name that holds a hash of the source,
of the processor's features and of the flags. It shares PyTorch's threads: OpenMP's functions are found in the library
that PyTorch has loaded. Without a compiler `load` returns None, and attention is computed by PyTorch's operators.
GRPO_KERNELS=0 in the environment asks for that.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from torch import Tensor

SOURCE = Path(__file__).with_name("attention.c")
FLAGS = (["-march=native", "-fopenmp"], ["-mcpu=native", "-fopenmp"], ["-march=native"], ["-mcpu=native"])
"""The first of these that compiles and loads is used; without -fopenmp on one thread."""


@functools.cache
def load() -> ctypes.CDLL | None:
    """The compiled functions; None where that cannot be had."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or os.environ.get("GRPO_KERNELS") == "0":
        return None
    for flags in FLAGS:
        try:
            return ctypes.CDLL(str(_library(compiler, flags)))
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def _library(compiler: str, flags: list[str]) -> Path:
    """The path of the library, compiled where it is not there yet."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    key = "\n".join([SOURCE.read_text(encoding="utf-8"), platform.platform(), features, compiler, *flags])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grpo"
    target = folder / f"attention-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            compiled, linked = Path(work) / "attention.o", Path(work) / "attention.so"
            for step in ([*flags, "-O3", "-fPIC", "-c", str(SOURCE), "-o", str(compiled)],
                         ["-shared", str(compiled), "-o", str(linked), "-lm"]):  # fmt: skip
                subprocess.run([compiler, *step], check=True, capture_output=True, timeout=120)
            linked.replace(target)  # at once: another process may be doing the same
    return target


def call(name: str, *arguments: Tensor | int) -> None:
    """Call a function of the library: contiguous tensors as pointers, numbers as int64."""
    assert all(not isinstance(x, Tensor) or x.is_contiguous() for x in arguments)
    getattr(load(), name)(
        *(ctypes.c_void_p(x.data_ptr()) if isinstance(x, Tensor) else ctypes.c_int64(x) for x in arguments)
    )
