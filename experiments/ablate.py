"""The ablation runner: variants x seeds, the stages of each, one table of means and spreads.

    python experiments/ablate.py experiments/ablations/reflection.yaml --seeds 0 1 2

An ablation is a YAML file: `stages`, the configurations in order, and `variants`, each a list of settings for all
stages or a mapping from a stage to its settings, or to `skip`. `rows: last` shows each variant's last stage alone, with
the 95 % interval of its accuracy over seeds. A stage whose settings and code, and those of the stages before it,
are the same in two variants runs once. Runs are kept in runs/ablations/NAME and an interrupted ablation goes on where
it was; after a change of the code or of a configuration it begins anew.
Results go to experiments/results/NAME.md (table, commands, seeds) and NAME.json (every figure).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from grpo.runs.config import to_yaml
from grpo.runs.folder import code_hash
from grpo.runs.settings import load_config

HERE = Path(__file__).parent
SKIP = "skip"  # in place of a stage's settings
FIGURES = {
    "sampled": ("sampled", "accuracy"),
    "greedy": ("greedy", "accuracy"),
    "format": ("sampled", "format"),
    "reflecting": ("sampled", "reflection_rate"),
    "per text": ("sampled", "reflections"),
    "acc. refl.": ("sampled", "accuracy_reflecting"),
    "others": ("sampled", "accuracy_others"),
    "length": ("sampled", "length"),
}


def main(argv: list[str] | None = None) -> int:
    """Run an ablation. Returns the exit code of the first command that failed, or 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="ablation YAML")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="seeds that run side by side, one thread each")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"), help="where the run folders go")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where the results go")
    arguments = parser.parse_args(argv)
    try:
        plan = read_plan(arguments.file)
    except (OSError, ValueError, yaml.YAMLError) as error:
        print(f"ablate: {arguments.file}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    runs = arguments.runs / arguments.file.stem

    with ThreadPoolExecutor(arguments.jobs) as pool:
        futures = [pool.submit(run_seed, plan, runs, seed) for seed in arguments.seeds]
        by_seed = [future.result() for future in futures]
    if failed := next((code for code, _ in by_seed if code), 0):
        return failed
    results = {
        variant: {stage: [figures[variant][stage] for _, figures in by_seed] for stage, _ in stages_of(plan, variant)}
        for variant in plan["variants"]
    }
    text = report(arguments, plan, results)
    out = arguments.out / arguments.file.stem
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(text)
    return 0


def read_plan(file: Path) -> dict[str, Any]:
    """Stages and variants. Raises ValueError for what would otherwise run as something else, or not at all."""
    plan = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(plan, dict) or not all(isinstance(plan.get(key), dict) for key in ("stages", "variants")):
        raise ValueError("needs `stages: {NAME: FILE}` and `variants: {NAME: SETTINGS}`")
    if missing := [path for path in plan["stages"].values() if not Path(str(path)).is_file()]:
        raise ValueError(f"stages: no such file: {missing[0]}")
    for variant, settings in plan["variants"].items():
        by_stage = settings if isinstance(settings, dict) else {}
        if unknown := by_stage.keys() - plan["stages"].keys():
            known = ", ".join(plan["stages"])
            raise ValueError(f"variants.{variant}: no stage is called {sorted(unknown)[0]!r}; there are {known}")
        lists = [x or [] for x in (by_stage.values() if isinstance(settings, dict) else [settings]) if x != SKIP]
        if not all(isinstance(x, list) and all(isinstance(one, str) for one in x) for x in lists):
            raise ValueError(f"variants.{variant}: settings are lists of `key.sub=value`")
        for stage, path in stages_of(plan, variant):
            if not load_config(path, settings_of(settings, stage)).stage:
                raise ValueError(f"stages: {path} does not say which command it is for: write `stage: {stage}` in it")
    return plan


def stages_of(plan: dict[str, Any], variant: str) -> list[tuple[str, str]]:
    """The stages that a variant has, with their files."""
    settings = plan["variants"][variant]
    left_out = {stage for stage, own in settings.items() if own == SKIP} if isinstance(settings, dict) else set()
    return [(stage, file) for stage, file in plan["stages"].items() if stage not in left_out]


def settings_of(settings: dict[str, list[str]] | list[str] | None, stage: str) -> list[str]:
    """The settings of one stage in a variant, which names them by stage or for all stages."""
    return (settings.get(stage) if isinstance(settings, dict) else settings) or []


def run_seed(plan: dict[str, Any], runs: Path, seed: int) -> tuple[int, dict[str, dict[str, Any]]]:
    """All variants of one seed, one after the other. Returns (exit code, variant -> stage -> evaluation)."""
    figures: dict[str, dict[str, Any]] = {}
    for variant, settings in plan["variants"].items():
        figures[variant] = {}
        history: list[str] = []
        parent: Path | None = None
        for stage, file in stages_of(plan, variant):
            own = settings_of(settings, stage)
            config = load_config(file, own)
            history += [to_yaml(config), json.dumps(code_hash(config), sort_keys=True)]
            # a run is named by all that led to it, so that equal beginnings of variants are one run
            name = f"{stage}-{hashlib.sha256(json.dumps(history).encode()).hexdigest()[:8]}"
            folder = runs / f"seed{seed}" / name
            model = [f"model.path={parent}"] if parent else []
            command = [*_command(file), f"run={folder}", f"seed={seed}", "threads=1", *model, *own]
            print(f"[{variant}, seed {seed}] python {shlex.join(command[1:])}", flush=True)
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                print(f"[{variant}, seed {seed}] {stage} failed: {done.stderr[-500:]}", file=sys.stderr)
                return done.returncode, figures
            figures[variant][stage] = json.loads((folder / "eval.json").read_text(encoding="utf-8"))
            parent = folder if (folder / "model").is_dir() else None
    return 0, figures


def _command(file: str) -> list[str]:
    return [sys.executable, "-m", "grpo", load_config(file, checked=False).stage, "--config", file]


def report(arguments: argparse.Namespace, plan: dict[str, Any], results: dict[str, Any]) -> str:
    """A Markdown page: one row per variant and stage, mean over seeds and [lowest, highest]."""
    lines = [
        f"# {arguments.file.stem}",
        "",
        plan.get("about", ""),
        "",
        f"    python experiments/ablate.py {arguments.file} --seeds {' '.join(map(str, arguments.seeds))}",
        "",
        f"Mean over {len(arguments.seeds)} seeds [lowest, highest]; held-out problems.",
        "",
    ]
    last = plan.get("rows") == "last"
    heads = ["variant", "sampled, 95 %" if last else "stage", *FIGURES]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for variant, stages in results.items():
        for stage, evaluations in list(stages.items())[-1 if last else 0 :]:
            cells = [_spread([e[part][name] for e in evaluations]) for part, name in FIGURES.values()]
            second = interval([e["sampled"]["accuracy"] for e in evaluations]) if last else stage
            lines.append(f"| {' | '.join([variant, second, *cells])} |")
    return "\n".join(lines) + "\n"


T_QUANTILES = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's 97.5 % quantiles for 1, 2, ... degrees of freedom."""


def interval(values: list[float]) -> str:
    """The 95 % interval of a mean over seeds, by Student's t; "-" for one seed or more than ten."""
    if not 2 <= len(values) <= len(T_QUANTILES) + 1:
        return "-"
    half = T_QUANTILES[len(values) - 2] * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.mean(values)
    return f"{max(0.0, mean - half):.3f} to {min(1.0, mean + half):.3f}"


def _spread(values: list[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "-"
    digits = 1 if max(known) > 10 else 2 if max(known) > 1 else 3
    low, mean, high = (f"{x:.{digits}f}" for x in (min(known), statistics.mean(known), max(known)))
    return f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    sys.exit(main())
