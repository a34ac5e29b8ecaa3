"""Run the runs of an ablation, as many at a time as there are cores, and say how far they are.

A run that is complete is left alone by its command, and one that was stopped continues, so the ablation does. A stage
begins when the one before it is complete.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.lab.plan import Node
from grpo.report.tables import table
from grpo.results.curve import read_rows
from grpo.runs.files import RunError, read_mapping

EVERY = 30.0  # seconds between two progress tables


class Failed(Exception):
    """A run that did not succeed, in one line."""

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.code = code


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"is a whole number from 1, not {text!r}")
    return int(text)


def run_all(nodes: list[Node], jobs: int) -> None:
    """Run every node after its parent. Raises Failed for the first that fails, once those beside it are stopped."""
    waiting = list({node.folder: node for node in nodes}.values())
    done = {node.folder for node in waiting if complete(node.folder)}
    waiting = [node for node in waiting if node.folder not in done]
    if done:
        print(f"{len(done)} runs are complete already, {len(waiting)} to go", flush=True)
    running: dict[Node, tuple[subprocess.Popen, Path]] = {}
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the runs are stopped too
    said = time.monotonic()
    try:
        while waiting or running:
            ready = [node for node in waiting if node.parent is None or node.parent in done]
            for node in ready[: jobs - len(running)]:
                waiting.remove(node)
                running[node] = start(node)
            for node in [node for node, (process, _) in running.items() if process.poll() is not None]:
                finish(node, *running.pop(node))
                done.add(node.folder)
            if time.monotonic() - said > EVERY and running:
                said = time.monotonic()
                print(progress_table(list(running), len(waiting)), flush=True)
            time.sleep(0.1)
    finally:
        signal.signal(signal.SIGTERM, before)
        for process, _ in running.values():  # they save what they have
            process.terminate()
        for process, log in running.values():
            process.wait()
            log.unlink(missing_ok=True)


def complete(folder: Path) -> bool:
    """Whether a run has finished, its evaluation and the rows of that included."""
    try:
        finished = read_mapping(folder / "manifest.json").get("finished")
    except RunError:
        return False
    return bool(finished) and all((folder / name).is_file() for name in ("eval.json", "eval.jsonl"))


def start(node: Node) -> tuple[subprocess.Popen, Path]:
    """Start a run, one thread; its words go to a file that is shown if it fails."""
    print(f"[{node.variant}, seed {node.seed}] {printed(node)}", flush=True)
    descriptor, name = tempfile.mkstemp(prefix="ablate-", suffix=".log")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with os.fdopen(descriptor, "wb") as log:
        return subprocess.Popen(node.command, stdout=log, stderr=log, env=environment), Path(name)


def printed(node: Node) -> str:
    """The command as it can be pasted into a shell."""
    return shlex.join(("python", *node.command[1:]))


def finish(node: Node, process: subprocess.Popen, log: Path) -> None:
    """Raises Failed, with the last line that the run said, unless it succeeded."""
    lines = [line for line in log.read_text(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
    log.unlink(missing_ok=True)
    if process.returncode:
        said = lines[-1] if lines else f"exit code {process.returncode}"
        raise Failed(f"[{node.variant}, seed {node.seed}] {node.stage.name} failed: {said[-500:]}", process.returncode)
    if not complete(node.folder):
        raise Failed(f"{node.folder}: has no evaluation; an ablation needs eval.at_end=true", 2)
    print(f"[{node.variant}, seed {node.seed}] {node.stage.name} is complete", flush=True)


def progress_table(running: list[Node], waiting: int) -> str:
    """Arm, seed, step, reward or loss, and the time that is left of each run in progress."""
    rows = []
    for node in running:
        steps = read_rows(node.training / "metrics.jsonl")
        last, took = steps[-1] if steps else {}, [row.get("seconds") or 0.0 for row in steps[-10:]]
        reward = last.get("reward", last.get("loss"))
        of = f"{last.get('step', 0)}" + (f" of {node.steps}" if node.steps else "")
        left = (node.steps - last.get("step", 0)) * sum(took) / len(took) if took and node.steps else None
        if left == 0:
            of = "evaluates"
        shown = "-" if reward is None else f"{'loss ' if 'reward' not in last else ''}{reward:.3f}"
        rows.append([node.variant, node.stage.name, str(node.seed), of, shown, "-" if left is None else clock(left)])
    heads = ["arm", "stage", "seed", "step", "reward", "left"]
    return f"{table(heads, rows)}\n{waiting} more {'run' if waiting == 1 else 'runs'} after these"


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
