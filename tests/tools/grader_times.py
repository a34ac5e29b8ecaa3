"""What a call of the grader costs, with and without sympy in it, on the cases of the tests.

    .venv/bin/python tests/tools/grader_times.py

Times are of the processor, the least of three; sympy's cache is emptied before each call.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

from rewards.answer import equivalent
from rewards.grader import matrices, sets
from rewards.grader.answer import read

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from test_rewards_kinds import cases

HEAVY = ["\\sum_{k=1}^{59} \\sqrt{k}", "\\lfloor \\sqrt{2} n \\rfloor + \\sin(n!)", "(-1)^{n/2} + (-1)^{n/3} + n!"]


def milliseconds(gold: str, answer: str) -> tuple[float, bool]:
    """The least of three calls, and whether sympy was asked."""
    took, before = [], matrices.sympy_module
    asked: list[bool] = []
    matrices.sympy_module = sets.sympy_module = lambda: asked.append(True) or before()
    try:
        for _ in range(3):
            read.cache_clear()
            if "sympy" in sys.modules:
                sys.modules["sympy"].core.cache.clear_cache()
            start = time.process_time()
            equivalent(gold, answer)
            took.append(1000 * (time.process_time() - start))
    finally:
        matrices.sympy_module = sets.sympy_module = before
    return min(took), bool(asked)


def main() -> None:
    """Print a line for each group of cases."""
    start = time.process_time()
    matrices.sympy_module()
    print(f"importing sympy, once a process: {1000 * (time.process_time() - start):.0f} ms")
    pairs = [(c.partition("|")[0], c.partition("|")[2].rpartition("|")[0]) for c in cases("grader_kinds.txt")]
    pairs += [(f"{heavy} + 1", heavy) for heavy in HEAVY]
    times = [milliseconds(*pair) for pair in pairs]
    for name, group in (("without", [t for t, asked in times if not asked]), ("with", [t for t, a in times if a])):
        print(f"{len(group)} pairs {name} sympy: median {statistics.median(group):.1f} ms, slowest {max(group):.1f} ms")


if __name__ == "__main__":
    main()
