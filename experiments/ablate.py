"""The ablation runner: arms x seeds through the trainer's own commands, and what pairs of them show.

    make ablate NAME=reflection SEEDS="0 1 2"
    python -m experiments.ablate experiments/ablations/reflection.yaml --seeds 0 1 2

An ablation is a YAML file (experiments/lab/plan.py says how to write one). Runs are kept in runs/ablations/NAME, and
the same command continues them after a stop; after a change of the code or of a configuration they begin again. The
results go to experiments/results/NAME/: results.md (sentences and table), results.json (every figure), figure.svg.
A surrogate, weight or reward of yours is found in the folder that you run from.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

import yaml

from experiments.lab import figure, results, runner
from experiments.lab.plan import nodes_of, only, read_plan
from grpo.results.statistics import Difference
from grpo.runs.files import write_text

HERE = Path(__file__).parent


def main(argv: list[str] | None = None) -> int:
    """Run an ablation. Returns 0, the exit code of the first command that failed, or 2 for a plan that is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="ablation YAML, or the name of one in experiments/ablations")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--arms",
        nargs="+",
        help="these variants alone; if the plan's baseline is not among them, the first of the plan's order is",
    )
    parser.add_argument(
        "--jobs", type=runner.positive, default=cores(), help="runs at a time (default: as many as cores)"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"), help="where the run folders go")
    parser.add_argument("--out", type=Path, help="where the results go (default: experiments/results)")
    arguments = parser.parse_args(argv)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    named = HERE / "ablations" / f"{arguments.file}.yaml"
    file = named if not arguments.file.suffix and named.is_file() else arguments.file
    if not file.is_file():
        plans = ", ".join(sorted(path.stem for path in (HERE / "ablations").glob("*.yaml")))
        print(f"ablate: {file}: no such file; experiments/ablations has {plans}", file=sys.stderr)
        return 2
    if arguments.arms and not arguments.out:
        print("ablate: --arms makes a part of the results: give --out DIR as well", file=sys.stderr)
        return 2
    seeds = list(dict.fromkeys(arguments.seeds))
    try:
        plan = read_plan(file)
        plan = only(plan, arguments.arms) if arguments.arms else plan
        chains = nodes_of(plan, arguments.runs / file.stem, seeds)
        runner.run_all([node for chain in chains.values() for node in chain], arguments.jobs)
        found = {"command": command(argv), **results.where_from(), **results.gather(plan, chains, seeds)}
        text = results.to_json(found)
    except runner.Failed as failed:
        print(f"ablate: {failed}", file=sys.stderr)
        return failed.code
    except (OSError, ValueError, yaml.YAMLError) as error:
        print(f"ablate: {file}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    out = (arguments.out or HERE / "results") / file.stem
    out.mkdir(parents=True, exist_ok=True)
    drawn = figure.draw(plan, found, out / "figure.svg")
    figure.draw_training(plan, found, out / results.TRAINED)
    write_text(out / "results.json", text)
    text = results.page(file.stem, plan, found, found["command"], "figure.svg" if drawn else "")
    write_text(out / "results.md", text)
    print(text)
    if not drawn:
        print("no figure: matplotlib is not installed (pip install '.[figures]')", file=sys.stderr)
    for variant, kinds in found["differences"].items():
        print(results.in_words(variant, plan.baseline, "sampled", Difference(**kinds["sampled"])))
    print(f"results: {out}")
    return 0


def command(argv: list[str] | None) -> str:
    """The command line, as it can be pasted."""
    return shlex.join(["python", "-m", "experiments.ablate", *(sys.argv[1:] if argv is None else argv)])


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
