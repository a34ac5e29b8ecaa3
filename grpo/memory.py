"""What the C library does with memory that PyTorch has freed; on Linux with glibc, elsewhere nothing.

Left alone, glibc asks the system anew for every large tensor and gives it back when it is freed, and the system has to
clear each page that is touched: on a virtual machine that takes longer than most operations on the tensor. `keep_freed`
lets it keep what is freed. `give_back` returns it, where that is much, at the few places where other sizes follow.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
MUCH = 128 << 20


class _Info(ctypes.Structure):
    """struct mallinfo2; `fordblks` is what is free, in bytes."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
    )]  # fmt: skip


def keep_freed() -> None:
    """From now on, keep freed memory for what is allocated next."""
    if library := _glibc():
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back() -> None:
    """Return memory that is free to the operating system, if it is much."""
    if library := _glibc():
        library.mallinfo2.restype = _Info
        if library.mallinfo2().fordblks >= MUCH:
            library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # TypeError: Windows
        return None
    return library if all(hasattr(library, name) for name in ("mallopt", "mallinfo2", "malloc_trim")) else None
