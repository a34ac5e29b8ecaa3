"""The stages' YAML files that come with the package, `experiments/demo/sft.yaml` and others, under the same names.

In a checkout they lie beside the package, in an installed one within it (see setup.py). So a command of the README and
an `include` work from any folder. A file that is there goes before one of ours.
"""

from __future__ import annotations

from pathlib import Path

HOMES = (Path(__file__).parents[1], Path(__file__).parents[2])
"""The folders that may hold `experiments/`: the package, when installed, and the checkout."""


def find(*names: Path) -> Path:
    """The first of these files that is there, else the first that the package has, else the first name as it is."""
    ours = [home / name for name in names for home in HOMES if name.parts[:1] == ("experiments",)]
    return next((path for path in (*names, *ours) if path.is_file()), names[0])


def name(path: Path) -> str:
    """What to write for a file after --config: of one that the package has, the name that is found from any folder."""
    for home in HOMES:
        if path.is_relative_to(home / "experiments"):
            return str(path.relative_to(home))
    return str(path)
