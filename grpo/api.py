"""The stages for a program: `from grpo import load_config, train_grpo`.

    config = load_config("experiments/demo/grpo.yaml", ["model.path=tiny", "run=runs/mine", "grpo.steps=5"])
    policy = train_grpo(config)

Each works as its command does: in the run folder `config.run`, which it continues or, if it is complete, leaves as it
is. Raises ValueError, in one line, for what the user can fix.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from grpo.commands import run as commands
from grpo.model.policy import Policy, load_policy
from grpo.runs.config import Config
from grpo.runs.stages import check_stage


def train_grpo(config: Config) -> Policy:
    """Stage 3, with the evaluation at its end. Returns the trained policy, as `load_policy` reads it from the run."""
    return _stage(config, "grpo")


def train_sft(config: Config) -> Policy:
    """Stage 2, likewise."""
    return _stage(config, "sft")


def train_reject(config: Config) -> Policy:
    """Rejection sampling and SFT on what is kept, likewise."""
    return _stage(config, "reject")


def _stage(config: Config, name: str) -> Policy:
    check_stage(config, None, name)
    commands.run(config, argparse.Namespace(name=name, quiet=True))
    return load_policy(replace(config.model, path=config.run, revision=None), config.seed)
