"""A run folder: what a stage writes, who may write it, and how it goes on after a stop.

    config.yaml      the resolved configuration       metrics.jsonl      one line per step
    manifest.json    stage, parent, seed, versions     completions.jsonl  sampled completions
    checkpoints/     to resume from                    model/             the result
    eval.json        its evaluation                    report.html        all of it, to look at
    judged/          an unfinished evaluation          nonfinite-*.jsonl  a batch that stopped the run

The same command continues an unfinished run and leaves a finished one alone; another configuration in the same
folder is refused, once there is anything to lose. Nothing is ever overwritten.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

import torch
import transformers
import yaml

from grpo import __version__
from grpo.model.distributed import from_first, rank
from grpo.model.policy import Policy
from grpo.runs.config import Config, to_dict, to_yaml
from grpo.runs.signals import StopRequest
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
    stop: StopRequest = field(default_factory=StopRequest)
    """Whether a signal has asked the run to stop."""

    @property
    def complete(self) -> bool:
        """Whether the stage finished and its model is there."""
        return bool(self.manifest.get("finished"))

    def note(self, **facts: Any) -> None:
        """Add facts to the manifest."""
        self.manifest.update(facts)
        write_json(self.folder / "manifest.json", self.manifest)

    def note_input(self, key: str, digest: str, what: str) -> None:
        """Note the digest of what the run works with. Raises RunError if the run goes on and it has changed."""
        before = self.manifest.get(key)
        if before not in (None, digest) and _has_results(self.folder, self.manifest):
            raise RunError(
                f"run={self.folder}: the {what} is not what this run began with ({key} {digest[:12]} now, "
                f"{str(before)[:12]} there); restore it or name another folder"
            )
        self.note(**{key: digest})

    def finish(self, policy: Policy) -> None:
        """Save the model and end the run."""
        self.check_folder()
        partial = self.folder / "model.partial"
        shutil.rmtree(partial, ignore_errors=True)
        policy.save(partial)
        shutil.rmtree(self.folder / "model", ignore_errors=True)
        os.replace(partial, self.folder / "model")
        self.end()

    def end(self) -> None:
        """Mark the run complete and drop what was kept to go on from."""
        self.note(finished=now())
        self.tidy()

    def tidy(self) -> None:
        """Drop what a complete run needs no more; one that was killed in the middle of this still has some of it."""
        for name in ("checkpoints", "judged"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def check_folder(self) -> None:
        """Raise RunError if the folder was deleted or moved away since the run opened it."""
        try:
            same = os.path.samestat(os.stat(self.folder / "lock"), os.fstat(self.lock.fileno()))
        except FileNotFoundError:
            same = False
        if not same:
            raise RunError(
                f"run={self.folder}: the folder was deleted or moved away while the run wrote to it; put it back, or "
                "run the same command to begin anew"
            )


class Follower(Run):
    """The run as a process sees it that is not the first: it reads, and writes nothing."""

    def note_input(self, key: str, digest: str, what: str) -> None: ...

    def finish(self, policy: Policy) -> None: ...

    def end(self) -> None: ...

    def tidy(self) -> None: ...

    def check_folder(self) -> None: ...


def open_run(config: Config, stage: str) -> Run:
    """Create the run folder, or open it to go on. Raises RunError where that would mix or overwrite runs."""
    opened: list[Run] = []

    def open_first() -> dict[str, Any]:
        opened.append(_open_run(config, stage))
        return opened[0].manifest

    manifest = from_first(open_first)
    return opened[0] if opened else Follower(Path(config.run), config, manifest, open(os.devnull, "w"))


def _open_run(config: Config, stage: str) -> Run:
    folder = Path(config.run)
    manifest_file = folder / "manifest.json"
    try:
        if folder.exists() and not manifest_file.exists() and any(p.name not in FIRST for p in folder.iterdir()):
            raise RunError(f"run={folder}: the folder holds other files; name a new or empty one")
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise RunError(f"run={folder}: cannot be written: {error.strerror}; name another folder") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(f"run={folder}: another process is writing there; wait for it or name another folder") from None
    if manifest_file.exists():
        manifest, before = _read_back(folder)
        differing = _differing(config, stage, manifest, before)
        if not differing:
            return Run(folder, config, manifest, lock)
        if _has_results(folder, manifest):
            raise RunError(f"run={folder}: {differing}; name another folder")
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
    write_text(folder / "config.yaml", to_yaml(config))
    return Run(folder, config, manifest, lock)


# what a start that was cut off leaves behind
FIRST = ("lock", "manifest.json.partial")
# settings that do not change what is computed, so that a run may go on with others
FREE = (
    "run",
    "threads",
    "parallel",
    "tokens_per_micro_batch",
    "sampling.max_rows",
    "model.recompute",
    "log.",
    "eval.at_end",
    "sandbox.",
    "max_skipped",
)


def _read_back(folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Manifest and settings of a run that is there; the settings are None if the start was cut off before them."""
    settings = folder / "config.yaml"
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        before = yaml.safe_load(settings.read_text(encoding="utf-8")) if settings.exists() else None
        if not isinstance(manifest["stage"], str) or not isinstance(before, dict | None):
            raise ValueError("not written by a run")
    except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise RunError(
            f"run={folder}: manifest.json or config.yaml is damaged: {reason}; name another folder"
        ) from None
    return manifest, before


def _differing(config: Config, stage: str, manifest: dict[str, Any], before: dict[str, Any] | None) -> str:
    """What sets the run in the folder apart from the one asked for; empty if nothing does."""
    if before is None:
        return "its config.yaml is missing"
    if manifest["stage"] != stage:
        return f"holds a {manifest['stage']} run, not {stage}"
    old, new = _flat(before), _flat(to_dict(config))
    keys = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k) and not k.startswith(FREE)]
    shown = ", ".join(f"{k} ({old.get(k)!r} there, {new.get(k)!r} now)" for k in keys[:4])
    more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
    return f"holds a run with other settings: {shown}{more}" if keys else ""


def _has_results(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether there is anything to lose. A run that failed before its first step (a model not found) starts anew."""
    metrics = folder / "metrics.jsonl"
    there = any((folder / name).exists() for name in ("checkpoints", "samples.jsonl", "judged", "model"))
    return bool(manifest.get("finished")) or there or (metrics.exists() and metrics.stat().st_size > 0)


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for name, x in value.items() for k, v in _flat(x, f"{key}.{name}" if key else name).items()}
    return {key: value}


def parent_of(model_path: str) -> dict[str, Any]:
    """The run that made a model, by its manifest; or just the model's name."""
    for folder in (Path(model_path), Path(model_path).parent):
        if (folder / "manifest.json").is_file():
            parent = read_json(folder / "manifest.json")
            return {"model": model_path, "stage": parent.get("stage"), "seed": parent.get("seed")}
    return {"model": model_path}


def data_hash(problems: list[Problem]) -> str:
    """SHA-256 of the problems that a run trained on."""
    digest = hashlib.sha256()
    for p in problems:
        digest.update(json.dumps([p.id, p.question, p.answer, p.solution]).encode())
    return digest.hexdigest()


def fingerprint(policy: Policy) -> str:
    """A digest of a policy's parameters: per tensor, the sum of its bits as integers, whatever the order of adding."""
    integers = {4: torch.int32, 2: torch.int16}
    sums = {n: int(p.detach().view(integers[p.element_size()]).sum()) for n, p in policy.model.named_parameters()}
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()


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
    if rank():  # of several processes, the first writes
        return
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of readable JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a run. Raises RunError, in one line, where it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: is damaged: {' '.join(str(error).split())[:200]}; restore or delete it") from None
    return value
