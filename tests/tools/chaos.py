"""Kill -9 at random moments: every stage is killed again and again, restarted by the same command, and compared.

    python tests/tools/chaos.py --kills 200 --seed 0

Each stage runs once unharmed. Then it runs in a new folder and is killed, half of the times after a random while, half
of the times in the middle of a random file operation (open, rename, remove, ...), where a badly made save would lose
something; the same command goes on, until it has ended. Nothing may be lost: weights, metrics, completions, samples
and evaluation must be those of the run that was never killed, bit for bit (metrics without what a clock says).

A process is forked from one that has everything imported, so that a kill costs about a second. Prints a Markdown
table and exits with 1 if a run was lost or differs.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from helpers_runs import command, metrics

from grpo import cli

SMALL = {
    "sampling.max_new_tokens": 100,
    "sampling.max_rows": 4,
    "data.count": 5,
    "data.demo.slip_rate": 0,
    "eval.at_end": "true",
    "optim.lr": 1e-4,
    "sft.steps": 4,
    "grpo.steps": 3,
    "grpo.group_size": 2,
    "reject.samples": 2,
    "log.keep_checkpoints": 1,
    "rewards.chaos:letters.weight": 1,
}
STAGES = {
    "1 cold start": "sft",
    "2 GRPO": "grpo",
    "3 rejection": "reject",
    "4 final GRPO": "grpo",
    "evaluation": "eval",
}
KEPT = (
    "model",
    "metrics.jsonl",
    "completions.jsonl",
    "samples.jsonl",
    "rejection.json",
    "eval.json",
    "eval.jsonl",
    "curve.jsonl",
)
LIMIT = 600.0
"""Seconds after which a run hangs, which counts as lost; where it hangs is in its log."""


def letters(completions: list[str], **columns: object) -> list[float]:
    """A reward that differs between any two texts, mostly."""
    return [sum(map(ord, text)) % 7 / 7 for text in completions]


# ---- one run ------------------------------------------------------------------------------------------------

FILE_EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")


def start(arguments: list[str], log: Path, on_event: Callable[[], None] | None = None) -> int:
    """Run the command line in a child process; `on_event` is called before each of its file operations."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        with log.open("ab") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        faulthandler.dump_traceback_later(0.8 * LIMIT, file=sys.__stderr__)
        if on_event:
            sys.addaudithook(lambda event, _: on_event() if event in FILE_EVENTS else None)
        code = cli.main(arguments)
    finally:
        os._exit(code)


def die_at(event: int) -> Callable[[], None]:
    """Kill this process before its file operation number `event`."""
    left = [event]

    def count() -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return count


def wait(child: int, seconds: float = LIMIT) -> int | None:
    """Exit code of a child, negative for a signal; None if it had to be killed when the time was over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if code == -signal.SIGKILL else code


@dataclass
class Whole:
    """A run that was never killed."""

    folder: Path
    seconds: float
    events: int
    """Its file operations."""


def run_whole(arguments: list[str], run: Path, log: Path) -> Whole:
    """Run a stage unharmed, counting its file operations."""
    counter = log.with_suffix(".events")
    descriptor = os.open(counter, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    begun = time.monotonic()
    if code := wait(start(arguments, log, lambda: os.write(descriptor, b".") and None)):
        raise SystemExit(f"{' '.join(arguments)} ends with {code}, unharmed; see {log}")
    os.close(descriptor)
    return Whole(run, time.monotonic() - begun, counter.stat().st_size)


def same(run: Path, whole: Path) -> bool:
    """Whether both runs ended with the same files, and nothing is left of what was killed."""
    contents = []
    for folder in (run, whole):
        files = sorted(f for name in KEPT for f in [folder / name, *(folder / name).rglob("*")] if f.is_file())
        # the clock differs, and a model card names its run
        files = [f for f in files if f.name not in ("metrics.jsonl", "README.md")]
        content = {f.relative_to(folder): f.read_bytes() for f in files}
        rows = metrics(folder) if (folder / "metrics.jsonl").exists() else None
        contents.append((content, rows, sorted(f.name for f in folder.iterdir())))
    return contents[0] == contents[1]


# ---- many kills ---------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """A row of the table."""

    runs: int = 0
    kills: int = 0
    in_a_save: int = 0
    """Of the kills, those in a file operation."""
    restarts: int = 0
    lost: int = 0
    identical: int = 0


def torment(arguments: list[str], run: Path, log: Path, whole: Whole, kills: int, rng: random.Random) -> Tally:
    """Run a stage with at most that many kills, restarting it until it has ended."""
    tally = Tally(runs=1)
    code = killed = -signal.SIGKILL
    while code == killed:
        if tally.kills == kills:
            code = wait(start(arguments, log))
        elif rng.random() < 0.5:
            code = wait(start(arguments, log, die_at(rng.randrange(whole.events))))
            tally.in_a_save += code == killed
        else:
            child, seconds = start(arguments, log), rng.random() * whole.seconds
            code = wait(child, seconds)
            code = killed if code is None else code
        tally.kills += code == killed
        tally.restarts += code == killed
    tally.lost = int(code != 0)
    tally.identical = int(code == 0 and same(run, whole.folder))
    return tally


def chaos(kills: int, seed: int, dtypes: list[str], root: Path) -> dict[str, Tally]:
    """Spread the kills evenly over stages and dtypes. Returns a tally for each."""
    rng, tallies = random.Random(seed), {}
    share = [kills // (len(STAGES) * len(dtypes)) + (i < kills % (len(STAGES) * len(dtypes))) for i in range(10)]
    for dtype in dtypes:
        parent = "tiny"
        for stage, name in STAGES.items():
            settings = {**SMALL, "model.path": parent, "model.dtype": dtype, "threads": 1}
            folder = root / f"{stage}-{dtype}".replace(" ", "-")
            folder.mkdir(parents=True)

            def arguments(run: Path, name: str = name, settings: dict = settings) -> list[str]:
                return command(name, run, *(f"{k}={v}" for k, v in settings.items()))

            log = folder / "log"
            whole = run_whole(arguments(folder / "whole"), folder / "whole", log)
            tally = tallies[f"{stage}, {dtype}"] = Tally()
            left = share.pop(0)
            while left > 0:
                run = folder / f"run-{tally.runs}"
                one = torment(arguments(run), run, log, whole, min(left, rng.randrange(1, 6)), rng)
                for key, value in vars(one).items():
                    setattr(tally, key, getattr(tally, key) + value)
                left -= one.kills
                if one.identical:
                    shutil.rmtree(run)
                else:
                    print(f"{run}: {'LOST' if one.lost else 'DIFFERS'}, see it and {log}", file=sys.stderr)
            parent = str(folder / "whole") if name != "eval" else parent
    return tallies


def table(tallies: dict[str, Tally]) -> str:
    """Markdown, with the sums in the last row."""
    total = Tally(*(sum(column) for column in zip(*(vars(t).values() for t in tallies.values()), strict=True)))
    lines = ["| stage | runs | kills | of them in a file operation | restarts | lost | identical |", "|---" * 7 + "|"]
    for name, t in {**tallies, "**all**": total}.items():
        lines.append(f"| {name} | {' | '.join(str(v) for v in vars(t).values())} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--folder", type=Path, help="where the runs go; kept if something is lost or differs")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    root = options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    begun = time.monotonic()
    tallies = chaos(options.kills, options.seed, options.dtypes, root)
    print(table(tallies))
    print(f"\n{options.kills} kills, seed {options.seed}, {time.monotonic() - begun:.0f} s", flush=True)
    failed = any(t.lost or t.identical < t.runs for t in tallies.values())
    if not failed:
        shutil.rmtree(root)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
