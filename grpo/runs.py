"""A run folder: what a stage writes, who may write it, and how it goes on after a stop.

    config.yaml      the resolved configuration       metrics.jsonl      one line per step
    manifest.json    stage, parent, seed, versions     completions.jsonl  sampled completions
    checkpoints/     to resume from                    model/             the result
    eval.json        its evaluation                    report.html        all of it, to look at

The same command continues an unfinished run and leaves a finished one alone; another configuration in the same
folder is refused. Nothing is ever overwritten.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

import torch
import transformers
import yaml

from grpo import __version__
from grpo.config import Config, to_dict, to_yaml
from grpo.types import Problem


class RunError(ValueError):
    """A run folder that cannot be used as asked, in one line."""


@dataclass
class Run:
    """An open run folder, locked against other processes until the process ends."""

    folder: Path
    config: Config
    manifest: dict[str, Any]
    lock: IO[str]

    @property
    def complete(self) -> bool:
        """Whether the stage finished and its model is there."""
        return bool(self.manifest.get("finished"))

    def note(self, **facts: Any) -> None:
        """Add facts to the manifest."""
        self.manifest.update(facts)
        write_json(self.folder / "manifest.json", self.manifest)

    def finish(self, policy: Any) -> None:
        """Save the model, mark the run complete and drop its checkpoints."""
        partial = self.folder / "model.partial"
        shutil.rmtree(partial, ignore_errors=True)
        policy.save(partial)
        shutil.rmtree(self.folder / "model", ignore_errors=True)
        os.replace(partial, self.folder / "model")
        self.note(finished=now())
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)


def open_run(config: Config, stage: str) -> Run:
    """Create the run folder, or open it to go on. Raises RunError where that would mix or overwrite runs."""
    folder = Path(config.run)
    manifest_file = folder / "manifest.json"
    try:
        if folder.exists() and not manifest_file.exists() and any(p.name != "lock" for p in folder.iterdir()):
            raise RunError(f"run={folder}: the folder holds other files; name a new or empty one")
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise RunError(f"run={folder}: cannot be written: {error.strerror}; name another folder") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise RunError(
            f"run={folder}: another process is writing there; wait for it or name another folder"
        ) from None
    if manifest_file.exists():
        manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
        _refuse_another_run(folder, config, stage, manifest)
        return Run(folder, config, manifest, lock)
    write_text(folder / "config.yaml", to_yaml(config))
    manifest = {
        "stage": stage,
        "parent": parent_of(config.model.path),
        "seed": config.seed,
        "started": now(),
        "versions": {
            "grpo": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "git_commit": git_commit(),
    }
    write_json(manifest_file, manifest)
    return Run(folder, config, manifest, lock)


# settings that do not change what is computed, so that a run may go on with others
FREE = ("run", "threads", "log.", "eval.at_end")


def _refuse_another_run(folder: Path, config: Config, stage: str, manifest: dict[str, Any]) -> None:
    if manifest["stage"] != stage:
        raise RunError(f"run={folder}: holds a {manifest['stage']} run, not {stage}; name another folder")
    before = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    old, new = _flat(before), _flat(to_dict(config))
    differing = [
        k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k) and not k.startswith(FREE)
    ]
    if differing:
        shown = ", ".join(f"{k} ({old.get(k)!r} there, {new.get(k)!r} now)" for k in differing[:4])
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise RunError(f"run={folder}: holds a run with other settings: {shown}{more}; name another folder")


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {
            k: v for name, x in value.items() for k, v in _flat(x, f"{key}.{name}" if key else name).items()
        }
    return {key: value}


def parent_of(model_path: str) -> dict[str, Any]:
    """The run that made a model, by its manifest; or just the model's name."""
    for folder in (Path(model_path), Path(model_path).parent):
        if (folder / "manifest.json").is_file():
            parent = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            return {"model": model_path, "stage": parent.get("stage"), "seed": parent.get("seed")}
    return {"model": model_path}


def data_hash(problems: list[Problem]) -> str:
    """SHA-256 of the problems that a run trained on."""
    digest = hashlib.sha256()
    for p in problems:
        digest.update(json.dumps([p.id, p.question, p.answer, p.solution]).encode())
    return digest.hexdigest()


def git_commit() -> str | None:
    """Commit of the code, `-dirty` if it was edited; None outside a checkout."""
    here = Path(__file__).parent
    try:
        out = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.strip() or None


def now() -> str:
    """UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of readable JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
