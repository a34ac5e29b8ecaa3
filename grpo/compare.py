"""Stage 4: models side by side, each compared in pairs with its parent or with `eval.against`.

Two evaluations have the same problems and random numbers, so what is compared is problem by problem: the mean of the
differences and its 95 % interval over problems (`statistics.py`).

python -m grpo eval --config experiments/demo/eval.yaml
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data import load_problems
from grpo.distributed import from_first
from grpo.evaluation import evaluate, note_held_out
from grpo.model.policy import load_policy
from grpo.runs.config import Config
from grpo.runs.evaluations import evaluation_of, models_in, parent_among, read_evaluation
from grpo.runs.files import RunError, read_mapping, write_json
from grpo.runs.folder import Run, data_hash, open_run
from grpo.runs.journal import Judged
from grpo.statistics import paired


def evaluate_models(config: Config) -> tuple[dict[str, dict[str, Any]], list[Path]]:
    """Evaluate config.model, or every model of eval.folder.

    Returns the figures by name, with paired differences, and the folders of the evaluations that are this command's.
    What a run has evaluated itself, in the same way, is not evaluated again. Raises RunError, ValueError.
    """
    folder, against = config.eval.folder, config.eval.against
    models = models_in(Path(folder)) if folder else {config.model.path: config.model.path}
    if against and against not in models:
        models[against] = against
    data = data_hash(load_problems(config.eval.data, config.eval.seed))
    runs = {name: evaluate_model(config, name, path, data) for name, path in models.items()}
    results = from_first(lambda: in_pairs(config, models, runs, data))
    made = {name: run for name, run in runs.items() if is_made_here(config, run)}
    for name, run in made.items():  # all are evaluated now, so it has its difference
        write_json(run / "eval.json", results[name])
    return results, list(made.values())


def is_made_here(config: Config, run: Path) -> bool:
    """Whether an evaluation is this command's, and not the one of a training run."""
    return run.is_relative_to(config.run) and read_mapping(run / "manifest.json").get("stage") == "eval"


def evaluate_model(config: Config, name: str, path: str, data: str) -> Path:
    """The run folder with a model's evaluation: its own run's, if it made the same, or else one that is made now."""
    one, alone = replace(config, model=replace(config.model, path=path)), path == config.model.path
    if config.eval.folder or not alone:
        there = (Path(config.eval.folder) / name, Path(path))
        if taken := from_first(lambda: [run for run in there if evaluation_of(run, one, data) is not None]):
            return taken[0]
        one = replace(one, run=f"{config.run}/{Path(name).name}")
    run = open_run(one, "eval")
    if not run.complete:
        with run.working():
            policy = load_policy(one.model, one.seed, parallel=one.parallel, by_layer=one.by_layer("eval"))
            note_held_out(one, policy, run)
            write_json(run.folder / "eval.json", evaluate(one, policy, run))
            run.finish()
    return run.folder


def in_pairs(config: Config, models: dict[str, str], runs: dict[str, Path], data: str) -> dict[str, dict[str, Any]]:
    """The figures of each run, with its paired difference to eval.against or to its parent."""
    against, results = config.eval.against, {}
    for name, run in runs.items():
        label = against or parent_among(models, name)
        other = runs.get(label)
        if not label and (other := evaluated_parent(config, Path(models[name]), data)):
            label = other.name
        results[name] = {k: v for k, v in read_mapping(run / "eval.json").items() if k != "paired"}
        if other and other != run:
            results[name]["paired"] = compare_runs(run, other, label)
    return results


def evaluated_parent(config: Config, model: Path, data: str) -> Path | None:
    """The run that a model was trained from, if it was evaluated in the same way."""
    manifest = next((f / "manifest.json" for f in (model, model.parent) if (f / "manifest.json").is_file()), None)
    parent = manifest and Path(str((read_mapping(manifest).get("parent") or {}).get("model")))
    return parent if parent and evaluation_of(parent, config, data, same_adapter=False) is not None else None


def with_parent(config: Config, run: Run, result: dict[str, Any]) -> dict[str, Any]:
    """A stage's evaluation with its paired difference to the parent, if that was evaluated in the same way.

    The parent is the run at model.path, or the base run beside this one that evaluated model.path.
    """

    def find() -> dict[str, Any]:
        beside = [path.parent for path in sorted(run.folder.parent.glob("*/manifest.json"))]
        bases = [base for base in beside if base != run.folder and is_base_of(base, config.model.path)]
        parent, data = next(iter(bases), Path(config.model.path)), str(run.manifest.get("eval_hash"))
        if evaluation_of(parent, config, data, same_adapter=False) is None:
            return {}
        return {"paired": compare_runs(run.folder, parent, parent.name)}

    return result | from_first(find)


def is_base_of(run: Path, model: str) -> bool:
    """Whether a run is stage 1 of this model."""
    try:
        settings, stage = read_mapping(run / "config.yaml"), read_mapping(run / "manifest.json").get("stage")
    except RunError:  # another run's damage is no matter of this one
        return False
    return stage == "base" and (settings.get("model") or {}).get("path") == model


def compare_runs(run: Path, other: Path, label: str) -> dict[str, Any]:
    """The paired difference of two evaluations, run - other, over their problems. Raises RunError if they differ."""
    found: dict[str, Any] = {"against": label}
    for kind in ("sampled", "greedy"):
        ours, theirs = (shares(read_evaluation(folder), kind) for folder in (run, other))
        if ours.keys() != theirs.keys():
            raise RunError(f"{run} and {other} were evaluated on other problems; evaluate both in the same way")
        d = paired(np.array(list(ours.values())), np.array([theirs[id] for id in ours]))
        found |= {"problems": d.problems, kind: d.mean, f"{kind}_ci95": [d.low, d.high]}
    return found


def shares(rows: list[Judged], kind: str) -> dict[str, float]:
    """The share of right completions of each problem, by its id."""
    marks: dict[str, list[bool]] = {}
    for row in rows:
        if row.kind == kind:
            marks.setdefault(row.id, []).append(row.correct)
    return {id: sum(right) / len(right) for id, right in marks.items()}
