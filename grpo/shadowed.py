"""`rewards` and `data` are two of our packages, and also what people call their own files.

Python looks in the folder that one runs in first, so a `rewards.py`, `data.py` or `data/` there would be imported in
place of ours. With `claim`, ours are found wherever theirs is, and one line says that theirs is not.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
"""The folder that holds `grpo`, `rewards` and `data`: the checkout's, or site-packages."""
NAMES = ("rewards", "data")


class OurPackages:
    """Finds our packages before anything else of their names; for `sys.meta_path`."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The spec of one of our packages; None for all other modules."""
        return PathFinder.find_spec(name, [ROOT]) if name in NAMES else None


def claim() -> None:
    """Make sure that `import rewards` and `import data` find ours; where nothing hides them, nothing is done.

    Raises ImportError where a module of such a name was imported before us.
    """
    hidden = {name: spec for name in NAMES if (spec := _other(name))}
    for name in NAMES:
        loaded = getattr(sys.modules.get(name), "__file__", None)
        if name in sys.modules and not _is_ours(loaded):
            raise ImportError(f"{loaded or name}: imported before grpo, which has a package of that name; rename it")
    if hidden and OurPackages not in sys.meta_path:
        sys.meta_path.insert(0, OurPackages)
        for name, spec in hidden.items():
            if spec.origin:  # a folder of data alone is no module that anyone imports
                print(
                    f"grpo: NOTE: {os.path.relpath(spec.origin)} is not imported: `{name}` is a package of grpo's; "
                    "rename the file if a module of yours imports it",
                    file=sys.stderr,
                )


def _other(name: str) -> ModuleSpec | None:
    """What Python would import in place of our package; None where it would import ours."""
    spec = PathFinder.find_spec(name)
    return None if spec is None or _is_ours(spec.origin) else spec


def _is_ours(file: str | None) -> bool:
    return file is not None and Path(file).resolve().parent.parent == Path(ROOT)
