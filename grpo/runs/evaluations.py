"""Evaluations in run folders: which models there are, and what was evaluated in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from grpo.runs.config import Config, to_yaml
from grpo.runs.files import RunError, read_mapping
from grpo.runs.folder import EVALUATION, code_hash, flatten, versions
from grpo.runs.journal import Judged, parse

SHAPING = ("eval.", "prompt.", "sampling.max_new_tokens", "sampling.stop", "model.dtype", "model.device")
FREE = ("eval.folder", "eval.against", "eval.at_end", "eval.every", "eval.keep_best", "eval.megabytes")


def models_in(folder: Path) -> dict[str, str]:
    """The model of each finished run in a folder, by the run's name; of stage 1 the base model."""
    found = {}
    for manifest in sorted(folder.glob("*/manifest.json")):
        run = manifest.parent
        if not read_mapping(manifest).get("finished"):
            continue
        if (run / "model").is_dir():
            found[run.name] = str(run)
        elif read_mapping(manifest).get("stage") == "base":
            found[run.name] = flatten(read_mapping(run / "config.yaml"))["model.path"]
    if not found:
        raise RunError(f"eval.folder={folder}: no finished run is there; run a stage first")
    return found


def parent_among(models: dict[str, str], name: str) -> str:
    """Which of these models a model was trained from, by name; "" if it is none of them."""
    manifest = Path(models[name]) / "manifest.json"
    if not manifest.is_file():
        return ""
    parent = str((read_mapping(manifest).get("parent") or {}).get("model"))
    same = [other for other, path in models.items() if other != name and path == parent]
    return next(iter(same), "") or next((n for n in models if n != name and n == Path(parent).name), "")


def evaluation_of(run: Path, config: Config, data: str, same_adapter: bool = True) -> dict[str, Any] | None:
    """The evaluation that a run made itself, if `config` asks for the same, with this code and data of this hash.

    All that shapes which completions are drawn and which are right must be equal: the evaluation's settings, prompts,
    limits, the type and the kind of device that the model computes in, code and versions. Other rewards may differ:
    they are the run's. same_adapter: in bfloat16 a merged adapter computes other figures than one that is not.
    """
    if not all((run / name).is_file() for name in (EVALUATION, "eval.json", "manifest.json", "config.yaml")):
        return None
    manifest, here = read_mapping(run / "manifest.json"), code_hash(config)
    there = manifest.get("code") if isinstance(manifest.get("code"), dict) else {}
    judge = config.rewards.get(config.eval.reward)
    modules = ["grpo", ((judge and judge.function) or config.eval.reward).partition(":")[0]]  # not of other rewards
    same_code = all(there.get(name) == here.get(name) for name in modules)
    if not same_code or (manifest.get("eval_hash"), manifest.get("versions")) != (data, versions()):
        return None
    keys = [*SHAPING, f"rewards.{config.eval.reward}."]
    keys += ["seed"] if config.model.path == "tiny-init" else []  # it seeds the weights of an untrained model
    keys += ["model.lora.rank"] if same_adapter and config.model.dtype != "float32" else []
    there, here = (_shaping(x, keys) for x in (read_mapping(run / "config.yaml"), yaml.safe_load(to_yaml(config))))
    return read_mapping(run / "eval.json") if there == here else None


def _shaping(settings: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """The settings that shape an evaluation."""
    flat = {k: v for k, v in flatten(settings).items() if k.startswith(tuple(keys)) and not k.startswith(FREE)}
    device = str(flat.get("model.device")).partition(":")[0]
    return {key: value for key, value in flat.items() if value != {}} | {"model.device": device}


def read_evaluation(run: Path) -> list[Judged]:
    """The rows of a run's eval.jsonl. Raises RunError where it is missing or damaged."""
    path = run / EVALUATION
    try:
        rows = [parse(line) for line in path.read_bytes().splitlines(keepends=True)[1:]]
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}; evaluate the model again") from None
    if None in rows:
        raise RunError(f"{path}:{rows.index(None) + 2}: is damaged; delete it and evaluate the model again")
    return rows
