"""Expected curves, and whether a run lies within them.

    python -m experiments.expected make demo --seeds 0 1 2 3 4 5 6 7 8 9       the bands: experiments/results/expected/
    python -m experiments.expected make minimal --seeds 0 1 2 3 4 5 6 7 8 9
    python -m experiments.expected plant                                       the demo's GRPO with bugs: planted.json
    python -m experiments.expected check runs/demo/3-grpo                      a line (`make demo` ends with it)
    python -m experiments.expected minimal [SEED]                              `make minimal`: run it, then the line

A band file holds values, of each metric a list per seed, not limits and not pictures. grpo/results/bands.py says what
the band is. Making one continues where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from experiments.ablate import cores
from experiments.lab.plan import Node, Plan, Stage, nodes_of
from experiments.lab.results import where_from
from experiments.lab.runner import Failed, positive, run_all
from grpo.results import bands
from grpo.results.bands import Curves
from grpo.results.curve import read_rows
from grpo.runs.config import Config
from grpo.runs.files import RunError, read_mapping, write_text
from grpo.runs.folder import code_hash, flatten

FOLDER = Path(__file__).parent / "results" / "expected"
DEMO = ("reward", "reward_accuracy", "reward_format", "reflections", "length", "entropy", "kl", "loss", "grad_norm")
LINE = re.compile(r"^step +\d+ ")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code. A run outside its band is no error: the line says it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    make = commands.add_parser("make", help="run the seeds and write the band")
    make.add_argument("name", choices=("demo", "minimal"))
    make.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    make.add_argument("--jobs", type=positive, default=cores())
    make.add_argument("--runs", type=Path, default=Path("runs/expected"))
    make.add_argument("--out", type=Path, default=FOLDER)
    make.set_defaults(command=make_band)
    plant = commands.add_parser("plant", help="run the demo's GRPO with planted bugs, from the SFT model of seed 0")
    plant.add_argument("--jobs", type=positive, default=cores())
    plant.add_argument("--runs", type=Path, default=Path("runs/expected"))
    plant.add_argument("--out", type=Path, default=FOLDER)
    plant.set_defaults(command=plant_bugs)
    check = commands.add_parser("check", help="does a run of the demo's GRPO lie within the band?")
    check.add_argument("run", type=Path)
    check.add_argument("--band", type=Path, default=FOLDER / "demo.json")
    check.set_defaults(command=lambda given: print(check_run(given.run, given.band)))
    minimal = commands.add_parser("minimal", help="run grpo.minimal and compare")
    minimal.add_argument("seed", type=int, nargs="?", default=0)
    minimal.add_argument("--band", type=Path, default=FOLDER / "minimal.json")
    minimal.set_defaults(command=run_minimal)
    arguments = parser.parse_args(argv)
    try:
        return arguments.command(arguments) or 0
    except Failed as failed:
        print(f"expected: {failed}", file=sys.stderr)
        return failed.code
    except (OSError, ValueError) as error:
        print(f"expected: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def make_band(given: argparse.Namespace) -> None:
    """Run all seeds and write the band file."""
    seeds = list(dict.fromkeys(given.seeds))
    settings: dict[str, Any] = {}
    if given.name == "demo":
        chains = demo_chains(given.runs, seeds)
        run_all([node for chain in chains for node in chain], given.jobs)
        curves = joined([demo_curves(chain[-1].folder) for chain in chains])
        settings = shaping(chains[0][-1].folder)
    else:
        with ThreadPoolExecutor(given.jobs) as pool:
            curves = joined(list(pool.map(lambda seed: minimal_curves(minimal_text(given.runs, seed)), seeds)))
    command = f"python -m experiments.expected make {given.name} --seeds {' '.join(map(str, seeds))}"
    facts = {"command": command, **where_from(), "seeds": seeds, "settings": settings}
    write_curves(given.out / f"{given.name}.json", facts, curves)


def write_curves(path: Path, facts: dict[str, Any], curves: Curves) -> None:
    """A file with a line per seed and metric."""
    path.parent.mkdir(parents=True, exist_ok=True)
    joint = ",\n   "
    rows = [f"  {json.dumps(name)}: [\n   {joint.join(map(json.dumps, x))}\n  ]" for name, x in curves.items()]
    text = json.dumps(facts, indent=1)[:-2] + ',\n "curves": {\n' + ",\n".join(rows) + "\n }\n}\n"
    write_text(path, text)
    print(f"{path}: {len(next(iter(curves.values())))} runs, {len(next(iter(curves.values()))[0])} steps")


def demo_chains(runs: Path, seeds: list[int]) -> list[list[Node]]:
    """SFT and GRPO of the demo, a chain per seed."""
    stages = [Stage(name, f"experiments/demo/{name}.yaml", name) for name in ("sft", "grpo")]
    chains = nodes_of(Plan(stages, {"demo": []}), runs / "demo", seeds)
    return [chains["demo", seed] for seed in seeds]


# ---- planted bugs: the classics -----------------------------------------------------------------------------

BUGS = {
    "advantages of the wrong sign": """
        import grpo.trainer as t
        original = t.group_advantages
        t.group_advantages = lambda *a, **k: -original(*a, **k)
        """,
    "bounds of the clip swapped": """
        import grpo.loss as l
        def clip(ratio, advantages, logps, config):
            clipped = ratio.clamp(1 + config.eps_high, 1 - config.eps_low)
            return torch.minimum(ratio * advantages, clipped * advantages)
        l.SURROGATES["clip"] = clip
        """,
    "a KL that is paid": """
        import grpo.loss as l
        original = l.KL_ESTIMATORS["k3"]
        l.KL_ESTIMATORS["k3"] = l.k3 = lambda *a, **k: -original(*a, **k)
        """,
}
"""Python that is run before the trainer."""


def plant_bugs(given: argparse.Namespace) -> None:
    """Run the demo's GRPO with each bug and write its curves: a test finds all of them outside the band."""
    sft, node = demo_chains(given.runs, [0])[0]
    run_all([sft], 1)

    def run(bug: str) -> dict[str, list[float | None]]:
        folder = given.runs / "planted" / bug.replace(" ", "-")
        words = [f"run={folder}" if word.startswith("run=") else word for word in node.command[3:]]
        code = f"import sys, torch\n{textwrap.dedent(BUGS[bug])}\nfrom grpo.cli import main\nsys.exit(main({words!r}))"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise Failed(f"{bug}: {done.stderr.strip().splitlines()[-1][:300]}", done.returncode)
        return demo_curves(folder)

    with ThreadPoolExecutor(given.jobs) as pool:
        curves = joined(list(pool.map(run, BUGS)))
    facts = {"command": "python -m experiments.expected plant", **where_from(), "bugs": list(BUGS)}
    write_curves(given.out / "planted.json", facts, curves)


# ---- reading runs -------------------------------------------------------------------------------------------


def joined(runs: list[dict[str, list[float | None]]]) -> Curves:
    """A list per seed of each metric."""
    return {name: [run[name] for run in runs] for name in runs[0]}


def demo_curves(run: Path) -> dict[str, list[float | None]]:
    """The metrics of a run, a value per step."""
    rows = read_rows(run / "metrics.jsonl")
    return {name: [row.get(name) for row in rows] for name in DEMO}


def minimal_text(runs: Path, seed: int) -> str:
    """What grpo.minimal prints with this seed; kept for this code, so that it is run once."""
    path = runs / f"minimal-{code_hash(Config())['grpo'][:8]}-{seed}.log"
    if not path.is_file():
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "grpo.minimal", str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise Failed(f"grpo.minimal {seed}: {done.stderr.strip().splitlines()[-1][:300]}", done.returncode)
        runs.mkdir(parents=True, exist_ok=True)
        write_text(path, done.stdout)
    return path.read_text(encoding="utf-8")


def minimal_curves(text: str) -> dict[str, list[float | None]]:
    """The figures of its lines `step N  reward 0.512  accuracy 0.430 ...`."""
    rows = [dict(re.findall(r"(\w+) +(-?\d+\.\d+)", line)) for line in text.splitlines() if LINE.match(line)]
    return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}


def check_run(run: Path, band: Path) -> str:
    """A line: does a run of the demo's GRPO lie within the band?"""
    if not band.is_file():
        return f"expected: not compared, {band} is not there"
    expected = read_mapping(band)
    if different := bands.differing(expected, shaping(run)):
        return f"expected: not compared, the run's settings are not those of the band: {', '.join(different[:4])}"
    return f"expected: {bands.verdict(expected['curves'], demo_curves(run))} ({short(band)})"


def shaping(run: Path) -> dict[str, Any]:
    """The settings that shape the curves, and the stage that the run began from. Raises RunError for no run."""
    if not (run / "config.yaml").is_file():
        raise RunError(f"{run}: no run is there")
    parent = read_mapping(run / "manifest.json")["parent"].get("stage")
    return bands.shaping(flatten(read_mapping(run / "config.yaml")) | {bands.PARENT: parent})


def run_minimal(given: argparse.Namespace) -> int:
    """Run grpo.minimal, show what it prints as it comes, and then the line."""
    command = [sys.executable, "-m", "grpo.minimal", str(given.seed)]
    quiet, lines = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}, []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=quiet) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if not process.returncode and given.band.is_file():
        expected = read_mapping(given.band)["curves"]
        print(f"expected: {bands.verdict(expected, minimal_curves(''.join(lines)))} ({short(given.band)})")
    return process.returncode


def short(path: Path) -> str:
    """A path from where one is, if it lies below."""
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
