"""Attention, small products and pointwise operations in C, compiled by the machine's own compiler at first use.

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
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

FILES = ("attention.c", "pointwise.c", "products.c", "products.h", "vector.h")
SOURCES = tuple(Path(__file__).with_name(name) for name in FILES)
FLAGS = (["-march=native", "-fopenmp"], ["-mcpu=native", "-fopenmp"], ["-march=native"], ["-mcpu=native"])
"""The first of these that compiles and loads is used; without -fopenmp on one thread."""


@functools.cache
def load() -> ctypes.CDLL | None:
    """The compiled functions; None where that cannot be had."""
    words = shlex.split(os.environ.get("CC", "")) or ["cc"]  # such as "ccache gcc"
    program = shutil.which(words[0])
    if program is None or os.environ.get("GRPO_KERNELS") == "0":
        return None
    for flags in FLAGS:
        try:
            return ctypes.CDLL(str(_library([program, *words[1:]], flags)))
        except (OSError, RuntimeError, subprocess.SubprocessError):  # RuntimeError: no home to keep it in
            continue
    return None


@functools.cache
def vector() -> int:
    """How many numbers a vector of this machine holds: `attention.c` cuts keys into these, and heads are whole ones."""
    return load().vector_width()


def _library(compiler: list[str], flags: list[str]) -> Path:
    """The path of the library, compiled where it is not there yet."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    sources = [source.read_text(encoding="utf-8") for source in SOURCES]
    key = "\n".join([*sources, platform.platform(), features, *compiler, *flags])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grpo"
    target = folder / f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if not target.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            linked = Path(work) / "kernels.so"
            units = [source for source in SOURCES if source.suffix == ".c"]
            for source in units:
                compiled = ["-c", str(source), "-o", str(Path(work) / f"{source.stem}.o")]
                # -ffp-contract=off: products and sums are fused where the source says so, and nowhere else
                every = [*flags, "-O3", "-ffp-contract=off", "-fPIC"]
                subprocess.run([*compiler, *every, *compiled], check=True, capture_output=True, timeout=120)
            objects = [str(Path(work) / f"{source.stem}.o") for source in units]
            # without -fopenmp: its functions are to be found in what PyTorch has loaded
            subprocess.run(
                [*compiler, "-shared", *objects, "-o", str(linked), "-lm"], check=True, capture_output=True, timeout=120
            )
            linked.replace(target)  # at once: another process may be doing the same
    return target


def take(x: Tensor) -> bool:
    """Whether the library computes with this tensor: on a processor, its last dimension whole vectors."""
    return (
        x.device.type == "cpu"
        and load() is not None
        and x.shape[-1] % vector() == 0
        and x.dtype in (torch.float32, torch.bfloat16)
    )


def call(name: str, *arguments: Tensor | int | float | None) -> None:
    """Call a function of the library: tensors as pointers, whole numbers as int64, others as double."""
    getattr(load(), name)(*map(_as_c, arguments))


def _as_c(x: Tensor | int | float | None):
    if isinstance(x, Tensor):
        return ctypes.c_void_p(x.data_ptr())
    return ctypes.c_double(x) if isinstance(x, float) else x if x is None else ctypes.c_int64(x)
