"""What is done with freed memory: each test of its effect in a process of its own, as it lasts as long as one does."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from grpo.memory import MUCH, give_back, keep_freed

with_glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="not Linux with a recent glibc"
)
BEGIN = """
import resource, torch
from grpo.memory import MUCH, give_back, keep_freed
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * resource.getpagesize() >> 20  # MiB
def faults_of(numbers):
    before = faults()
    torch.ones(numbers)
    return faults() - before
torch.ones(1 << 12)
"""


def run(body: str) -> list[int]:
    """The numbers that a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", BEGIN + body], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@with_glibc
@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_is_there_for_the_next_tensor(keep):
    """Before long: glibc needs some spare room to align a tensor."""
    first, *_, last = run(f"if {keep}: keep_freed()\nfor _ in range(20): print(faults_of(1 << 24))")  # 64 MiB each
    assert first > 30  # pages of 2 MiB at most
    assert last < first / 10 if keep else last > first / 2


@with_glibc
def test_much_memory_that_is_free_is_given_back():
    before, kept, after = run(
        "keep_freed()\nx, y = torch.ones(1 << 26), torch.ones(1 << 10)\nprint(resident())\ndel x\nprint(resident())\n"
        "give_back()\nprint(resident())"
    )
    assert kept > before - 20  # MiB; x, the lower of the two, is still ours
    assert after < before - 236  # of 256


@with_glibc
def test_a_little_is_kept():
    little = MUCH // 4 // 2  # numbers
    before, after = run(f"keep_freed()\ntorch.ones({little})\nprint(resident())\ngive_back()\nprint(resident())")
    assert after > before - 10


@pytest.mark.parametrize("function", [keep_freed, give_back])
@pytest.mark.parametrize("library", ["without them", "none"])
def test_other_systems_are_left_alone(function, library, monkeypatch):
    def load(name):
        if library == "none":
            raise TypeError("CDLL(None) is not possible on Windows")
        return SimpleNamespace()

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert function() is None
