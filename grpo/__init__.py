"""The reference GRPO trainer: group sampling, advantages, clipped policy loss, four training stages.

    from grpo import evaluate, load_config, load_policy, train_grpo

    config = load_config("experiments/demo/grpo.yaml", ["model.path=tiny", "run=runs/mine", "grpo.steps=5"])
    policy = train_grpo(config)

PyTorch is imported with the first of these names, not with the package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from grpo.shadowed import claim
from grpo.version import __version__

if TYPE_CHECKING:
    from grpo.api import train_grpo, train_reject, train_sft
    from grpo.evaluation import evaluate
    from grpo.model.policy import load_policy
    from grpo.runs.settings import load_config

__all__ = ["__version__", "evaluate", "load_config", "load_policy", "train_grpo", "train_reject", "train_sft"]

_HOME = {
    "evaluate": "grpo.evaluation",
    "load_config": "grpo.runs.settings",
    "load_policy": "grpo.model.policy",
    "train_grpo": "grpo.api",
    "train_reject": "grpo.api",
    "train_sft": "grpo.api",
}

claim()  # the one thing that is done at import: before anything of ours imports `rewards` or `data`


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'grpo' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
