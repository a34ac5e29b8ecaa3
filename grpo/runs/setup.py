"""What the signs of a run (signs.py) need to know of its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setup:
    """Rewards and sizes of a run."""

    weights: dict[str, float]
    """Of the rewards, by name."""
    right: str
    """The reward that says which completion is right."""
    max_new_tokens: int
    group_size: int

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Setup:
        """From a configuration as nested mappings, as in config.yaml; what is missing has the default."""

        def group(name: str) -> Mapping[str, Any]:
            found = settings.get(name)
            return found if isinstance(found, Mapping) else {}

        def weight(reward: Any) -> float:
            found = reward.get("weight", 1.0) if isinstance(reward, Mapping) else 1.0
            return float(found) if isinstance(found, int | float) else 1.0

        return cls(
            weights={str(name): weight(reward) for name, reward in group("rewards").items()},
            right=str(group("eval").get("reward", "accuracy")),
            max_new_tokens=int(group("sampling").get("max_new_tokens", 512)),
            group_size=int(group("grpo").get("group_size", 8)),
        )
