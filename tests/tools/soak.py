"""An hour's soak: the four stages of the demo again and again, in one process, which must not grow.

    python tests/tools/soak.py --minutes 60

Every round runs cold start, GRPO, rejection sampling and final GRPO as `make demo` does, in a new folder. After each
it is written down what the process holds: resident memory, open files, threads, children. Memory may grow by 2 %
from the first third of the rounds (without the first, which imports and fills caches) to the last, the rest by
nothing. Prints a Markdown table and exits with 1 if anything grew.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import astuple, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from grpo import cli

ROOT = Path(__file__).resolve().parents[2]
STAGES = {"2-sft": "sft", "3-grpo": "grpo", "4-reject": "reject", "5-final": "final"}
"""Run folder and configuration, in this order."""
MAX_GROWTH = 0.02


@dataclass
class Held:
    """What the process holds after a round."""

    minutes: float
    memory_mb: float
    files: int
    threads: int
    children: int


def held(begun: float) -> Held:
    gc.collect()
    status = Path("/proc/self/status").read_text()
    memory = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    files = len(os.listdir("/proc/self/fd"))
    return Held((time.monotonic() - begun) / 60, memory, files, threading.active_count(), len(children))


def run_round(folder: Path, settings: list[str]) -> None:
    """The four stages, each from the model of the one before. Raises SystemExit if one fails."""
    parent = "tiny"
    for name, stage in STAGES.items():
        config = ROOT / "experiments" / "demo" / f"{stage}.yaml"
        own = [f"run={folder / name}", f"model.path={parent}"]
        if code := cli.main(["grpo" if stage == "final" else stage, "--config", str(config), *own, *settings]):
            raise SystemExit(f"stage {name} ended with {code}")
        parent = str(folder / name)


def grown(rounds: list[Held]) -> list[str]:
    """What grew, in words; nothing for a process that stays as it is."""
    settled = rounds[1:]
    third = max(1, len(settled) // 3)
    first, last = settled[:third], settled[-third:]
    before, after = (statistics.median(h.memory_mb for h in part) for part in (first, last))
    found = [f"memory by {after / before - 1:.1%}"] if after > (1 + MAX_GROWTH) * before else []
    for name in ("files", "threads", "children"):
        before, after = (statistics.median(getattr(h, name) for h in part) for part in (first, last))
        found += [f"{name} from {before:g} to {after:g}"] if after > before else []
    return found


def table(rounds: list[Held]) -> str:
    lines = ["| round | minutes | memory, MB | open files | threads | children |", "|---" * 6 + "|"]
    for number, h in enumerate(rounds, start=1):
        minutes, memory, *counts = astuple(h)
        lines.append(f"| {number} | {minutes:.1f} | {memory:.1f} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def soak(minutes: float, settings: list[str]) -> list[Held]:
    """Rounds until the time is over, three at least."""
    begun, rounds = time.monotonic(), []
    while len(rounds) < 3 or (time.monotonic() - begun) / 60 < minutes:
        folder = Path(tempfile.mkdtemp(prefix="soak-"))
        run_round(folder, settings)
        shutil.rmtree(folder)
        rounds.append(held(begun))
        print(rounds[-1], file=sys.stderr, flush=True)
    return rounds


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("settings", nargs="*", help="settings of all stages, such as sft.steps=2")
    options = parser.parse_args(argv)
    rounds = soak(options.minutes, options.settings)
    found = grown(rounds)
    print(table(rounds))
    print(f"\n{'grew: ' + ', '.join(found) if found else 'nothing grew'}", flush=True)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
