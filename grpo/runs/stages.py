"""Which command a configuration is for, and which one makes the model that it begins with."""

from __future__ import annotations

from pathlib import Path

from grpo.runs import shipped
from grpo.runs.config import Config
from grpo.runs.hints import program
from grpo.runs.settings import ConfigError, included, load_config

TRAINING = ("sft", "grpo", "reject")


def check_stage(config: Config, file: str | None, command: str) -> None:
    """Raise ConfigError for what a command cannot do: another stage's file, a parent that has not been trained."""
    if command == "grpo" and not config.rewards:
        raise ConfigError("no reward is configured; name at least one below `rewards:`")
    if command in ("grpo", "reject") and not config.sampling.temperature:
        raise ConfigError("sampling.temperature is 0: all completions of a problem would be the same; set it to 1")
    if command in TRAINING and config.stage not in ("", command):
        raise ConfigError(
            f"{file or 'command line'}: this configuration is for `{program()} {config.stage}`; run that, or set "
            f"stage={command}"
        )
    if (Path(config.run) / "manifest.json").exists() or (command == "eval" and config.eval.folder):
        return  # it began when its parent was there; or it evaluates what is there
    names = {"model.path": config.model.path}
    if command == "reject":
        names["reject.sft_from"] = config.reject.sft_from
    for key, path in names.items():
        if path and (maker := made_by(path, file)):
            there = "has no model yet" if Path(path).exists() else "is not there yet"
            raise ConfigError(f"{key}={path}: {there}; make it first: `{maker}`")


def made_by(path: str, file: str | None) -> str:
    """The command that makes the model of a run that has none, found in the folders of `file` and what it includes."""
    run = Path(path)
    if (run / "model").is_dir() or (run.exists() and not (run / "manifest.json").exists()):
        return ""
    folders = dict.fromkeys(one.parent for one in included(shipped.find(Path(file).expanduser()))) if file else ()
    for beside in (one for folder in folders for one in sorted(folder.glob("*.yaml"))):
        try:
            other = load_config(str(beside), checked=False)
        except ConfigError:
            continue
        if other.stage in TRAINING and Path(other.run) == run:
            return f"{program()} {other.stage} --config {shipped.name(beside)}"
    return ""


def demo_settings(command: str) -> tuple[str, list[str]]:
    """What a command works on where it is given nothing: a file of the demo, and settings on top of it.

    GRPO begins with the SFT model of runs/demo if there is one, else with the embedded model, and the evaluation is of
    that model where runs/demo holds no finished run.
    """
    runs = Path("runs/demo")
    if command == "grpo" and not (runs / "2-sft" / "model").is_dir():
        return "experiments/demo/grpo_only.yaml", []
    if command == "eval" and not any(runs.glob("*/eval.json")):
        return "experiments/demo/eval.yaml", ["eval.folder=", "run=runs/demo/eval/tiny"]
    if command == "sample":
        return "experiments/demo/base.yaml", ["eval.data.count=3", "eval.samples=1", "eval.pass_at=[1]"]
    return ("experiments/bench/tiny.yaml" if command == "bench" else f"experiments/demo/{command}.yaml"), []
