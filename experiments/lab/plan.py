"""An ablation as a YAML file: stages, variants, and the runs that follow from them.

    about: what is asked
    stages:                                 in order; the command is stated here, by the file's `stage`, or by the name
      sft: experiments/demo/sft.yaml
      longer: {file: my.yaml, command: grpo}
    settings: {grpo: [eval.every=5]}        for all variants, by stage or as a list for all stages
    variants:                               a list of settings for all stages, or by stage; `skip` leaves a stage out
      none: {grpo: [rewards.reflection.weight=0]}
      gated: []
    baseline: none                          what the others are compared with; the first variant, if it is not said
    watch: [kl, entropy]                    metrics of the training that a second figure shows, a panel each
    rows: last                              the table has the last stage of each variant alone
    target: 0.8                             held-out accuracy; the table says how many completions each arm needed

A run is named by all that led to it, settings and code, so equal beginnings of variants are one run.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from grpo.runs.config import to_yaml
from grpo.runs.folder import code_hash
from grpo.runs.settings import load_config

COMMANDS = ("base", "sft", "grpo", "reject", "trl")
SKIP = "skip"  # in place of a stage's settings
KEYS = ("about", "stages", "settings", "variants", "baseline", "target", "watch", "rows")


@dataclass(frozen=True)
class Stage:
    """A stage of a plan: its configuration file and the command that runs it."""

    name: str
    file: str
    command: str


@dataclass(frozen=True)
class Plan:
    """What an ablation file says."""

    stages: list[Stage]
    variants: dict[str, Any]
    settings: Any = None
    about: str = ""
    baseline: str = ""
    target: float = 0.0
    rows: str = "all"
    watch: tuple[str, ...] = ()

    def of(self, variant: str) -> list[tuple[Stage, list[str]]]:
        """The stages that a variant has, each with its settings."""
        own = self.variants[variant]
        left_out = {name for name, some in own.items() if some == SKIP} if isinstance(own, dict) else set()
        return [
            (stage, [*by_stage(self.settings, stage.name), *by_stage(own, stage.name)])
            for stage in self.stages
            if stage.name not in left_out
        ]


def by_stage(settings: Any, stage: str) -> list[str]:
    """The settings of one stage; they are given by stage, or for all stages."""
    found = settings.get(stage) if isinstance(settings, dict) else settings
    return [] if found in (None, SKIP) else list(found)


def read_plan(file: Path) -> Plan:
    """Read an ablation. Raises ValueError for what would otherwise run as something else, or not at all."""
    raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(raw, dict) or not all(isinstance(raw.get(key), dict) for key in ("stages", "variants")):
        raise ValueError("needs `stages: {NAME: FILE}` and `variants: {NAME: SETTINGS}`")
    if unknown := sorted(raw.keys() - {*KEYS}, key=str):
        raise ValueError(f"no key is called {unknown[0]!r}; there are {', '.join(KEYS)}")
    for key in ("stages", "variants"):
        if not raw[key]:
            raise ValueError(f"{key}: is empty")
    if raw.get("rows") not in (None, "all", "last"):
        raise ValueError(f"rows: is all or last, not {raw['rows']!r}")
    stages = [read_stage(str(name), how) for name, how in raw["stages"].items()]
    variants = {str(name): some for name, some in raw["variants"].items()}
    for name, some in {**{f"variants.{n}": x for n, x in variants.items()}, "settings": raw.get("settings")}.items():
        check_settings(name, some, [stage.name for stage in stages])
    baseline = str(raw.get("baseline") or next(iter(variants)))
    if baseline not in variants:
        raise ValueError(f"baseline: no variant is called {baseline!r}; there are {', '.join(variants)}")
    target = raw.get("target") or 0.0
    if not isinstance(target, int | float) or not 0 <= target <= 1:
        raise ValueError(f"target: is an accuracy from 0 to 1, not {target!r}")
    texts = str(raw.get("about", "")), baseline, float(target), str(raw.get("rows", "all"))
    watch = raw.get("watch") or []
    if not isinstance(watch, list) or not all(isinstance(name, str) for name in watch):
        raise ValueError("watch: is a list of metrics, as docs/glossary.md names them")
    plan = Plan(stages, variants, raw.get("settings"), *texts, tuple(watch))
    for variant in variants:
        if not plan.of(variant):
            raise ValueError(f"variants.{variant}: leaves out every stage")
        for stage, settings in plan.of(variant):
            load_config(stage.file, settings)
    return plan


def only(plan: Plan, arms: list[str]) -> Plan:
    """The plan with some of its variants; the first of them is the baseline where the plan's is not among them."""
    for arm in arms:
        if arm not in plan.variants:
            raise ValueError(f"--arms: no variant is called {arm!r}; there are {', '.join(plan.variants)}")
    variants = {name: some for name, some in plan.variants.items() if name in arms}
    return replace(
        plan, variants=variants, baseline=plan.baseline if plan.baseline in variants else next(iter(variants))
    )


def read_stage(name: str, how: Any) -> Stage:
    """A stage by its entry in `stages`. Raises ValueError."""
    how = {"file": how} if isinstance(how, str) else how
    if not isinstance(how, dict) or not isinstance(how.get("file"), str) or how.keys() - {"file", "command"}:
        raise ValueError(f"stages.{name}: is FILE or {{file: FILE, command: COMMAND}}")
    if not Path(how["file"]).is_file():
        raise ValueError(f"stages: no such file: {how['file']}")
    command = str(how.get("command") or load_config(how["file"], checked=False).stage or name)
    if command not in COMMANDS:
        choices = ", ".join(COMMANDS)
        raise ValueError(f"stages.{name}: state its command, one of {choices}: {{file: F, command: C}}")
    return Stage(name, how["file"], command)


def check_settings(name: str, some: Any, stages: list[str]) -> None:
    """Raises ValueError unless it is a list of settings, or such lists by stage; a variant may skip a stage."""
    if some == SKIP or (name == "settings" and isinstance(some, dict) and SKIP in some.values()):
        raise ValueError(f"{name}: a stage is left out in a variant, by its name: {{STAGE: {SKIP}}}")
    if isinstance(some, dict) and (unknown := sorted(some.keys() - {*stages}, key=str)):
        raise ValueError(f"{name}: no stage is called {unknown[0]!r}; there are {', '.join(stages)}")
    lists = [x or [] for x in (some.values() if isinstance(some, dict) else [some]) if x != SKIP]
    if not all(isinstance(x, list) and all(isinstance(one, str) for one in x) for x in lists):
        raise ValueError(f"{name}: settings are lists of `key.sub=value`")


@dataclass(frozen=True)
class Node:
    """A run: a stage of one or several variants, with one seed."""

    folder: Path
    seed: int
    variant: str  # the first that has it
    stage: Stage
    command: tuple[str, ...]
    steps: int
    parent: Path | None = None
    """The run folder that must be complete before."""

    @property
    def training(self) -> Path:
        """Where metrics.jsonl and curve.jsonl are."""
        return Path(f"{self.folder}-training") if self.stage.command == "trl" else self.folder


def trl_code() -> list[str]:
    """What a stage `trl` depends on besides: its code, and the version of TRL."""
    trl = "" if importlib.util.find_spec("trl") is None else importlib.metadata.version("trl")
    return [hashlib.sha256(Path(__file__).parents[1].joinpath("trl_grpo.py").read_bytes()).hexdigest(), trl]


def nodes_of(plan: Plan, runs: Path, seeds: list[int]) -> dict[tuple[str, int], list[Node]]:
    """The runs of each variant and seed; runs that lie in one folder are one. The arms of a seed stand beside each
    other, so that they run at about the same time."""
    chains: dict[tuple[str, int], list[Node]] = {}
    for seed in seeds:
        for variant in plan.variants:
            history: list[str] = []
            chain: list[Node] = []
            for stage, settings in plan.of(variant):
                config = load_config(stage.file, settings)
                history += [stage.command, to_yaml(config), json.dumps(code_hash(config), sort_keys=True)]
                history += trl_code() if stage.command == "trl" else []
                name = f"{stage.name}-{hashlib.sha256(json.dumps(history).encode()).hexdigest()[:8]}"
                folder = runs / f"seed{seed}" / name
                parents = [node.folder for node in chain if node.stage.command != "base"]
                model = [f"model.path={parents[-1]}"] if parents else []
                module = ["experiments.trl_grpo"] if stage.command == "trl" else ["grpo", stage.command]
                words = ["-m", *module, "--config", stage.file]
                given = [f"run={folder}", f"seed={seed}", "threads=1", *model, *settings]
                steps = {"grpo": config.grpo.steps, "trl": config.grpo.steps, "base": 0}.get(
                    stage.command, config.sft.steps
                )
                command = (sys.executable, *words, *given)
                parent = chain[-1].folder if chain else None
                chain.append(Node(folder, seed, variant, stage, command, steps, parent))
            chains[variant, seed] = chain
    return chains
