"""A run folder: what a stage writes, who may write it, and how it resumes after a stop.

    config.yaml      the resolved configuration       metrics.jsonl      one line per step
    manifest.json    stage, parent, seed, versions     completions.jsonl  sampled completions
    checkpoints/     to resume from                    model/             the result
    eval.json        its evaluation                    eval.jsonl         each completion that it judged
    curve.jsonl      evaluations during training       report.html        all of it, to look at
    warnings.jsonl   what was warned of, and when

The same command continues an unfinished run and leaves a finished one alone; another configuration in the same
folder is refused, once there is anything to lose. Nothing is ever overwritten. Of several processes, the first writes.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import torch
import transformers
import yaml
from safetensors import SafetensorError

from grpo.distributed import from_first, rank
from grpo.model.policy import Policy
from grpo.runs.card import model_card
from grpo.runs.config import Config, flatten, to_yaml
from grpo.runs.files import RunError, read_mapping, write_json, write_text
from grpo.runs.signals import StopRequest
from grpo.runs.trackers import tracked
from grpo.types import Problem
from grpo.version import __version__

FREE = (  # settings that do not change what is computed, so that a run may continue with others
    "stage", "run", "threads", "parallel", "fsdp_gather", "tokens_per_micro_batch", "sampling.max_rows",
    "model.recompute", "model.device", "log.", "eval.at_end", "eval.against", "sandbox.", "max_skipped", "accept_code",
)  # fmt: skip
EVALUATION = "eval.jsonl"
SAMPLED = "sampled.jsonl"  # of rejection sampling, until it is done
LONGER = ("grpo.steps", "sft.steps")  # may grow on the way, if the learning rate does not depend on them


@dataclass
class Run:
    """An open run folder, locked against other commands until this one ends."""

    folder: Path
    config: Config
    manifest: dict[str, Any] = field(default_factory=dict)
    lock: IO[str] | None = None  # in the first process
    stop: StopRequest = field(default_factory=StopRequest)
    progressed: Callable[[], None] = lambda: None
    """Called after each step of training: the page is refreshed there."""
    steps: int = 0  # of training that are done, once it has ended
    listeners: list[Callable[[str, int, Any], None]] = field(default_factory=list)  # log.to, in the first process

    @property
    def complete(self) -> bool:
        """Whether the stage finished and its model is there."""
        return bool(self.manifest.get("finished"))

    @property
    def stage(self) -> str:
        """The stage and the one before it, `sft/grpo`: another stage meets the same data in another order."""
        return f"{self.manifest['parent'].get('stage', 'base')}/{self.manifest['stage']}"

    @contextmanager
    def working(self) -> Iterator[None]:
        """Catch signals, hold the lock, and turn what a full disk or a vanished folder raises into one line."""
        with self.stop, tracked(self.config, self.manifest) as self.listeners:
            try:
                yield
            except (OSError, SafetensorError) as error:
                self.check_folder()  # if it is gone, that is what to say
                raise RunError(
                    f"run={self.folder}: {error}; free or fix it, then run the same command to continue"
                ) from error
            finally:
                if self.lock:
                    self.lock.close()

    def tell(self, event: str, step: int, values: Any) -> None:
        """Tell the trackers of log.to."""
        for listener in self.listeners:
            listener(event, step, values)

    def note_input(self, key: str, digest: str, what: str) -> None:
        """Note the digest of what the run works with. Raises RunError if the run continues and it has changed."""
        before = self.manifest.get(key)
        if rank() == 0 and before not in (None, digest) and _has_results(self):
            raise RunError(
                f"run={self.folder}: the {what} is not what this run began with ({key} {digest[:12]} now, "
                f"{str(before)[:12]} there); restore it, or name another folder with run=DIR"
            )
        self.manifest[key] = digest
        write_json(self.folder / "manifest.json", self.manifest)

    def finish(self, policy: Policy | None = None) -> None:
        """Save what was trained, mark the run complete, and drop what was kept to continue from."""
        if policy:
            self.save_model(policy, "model")
        self.manifest["finished"] = now()
        write_json(self.folder / "manifest.json", self.manifest)
        _tidy(self.folder)

    def save_model(self, policy: Policy, name: str) -> None:
        """Write a model folder aside, in all processes, then put it in the place of the one of before."""
        partial = self.folder / f"{name}.partial"
        self.check_folder()
        from_first(lambda: shutil.rmtree(partial, ignore_errors=True))
        policy.save(partial)
        if rank() == 0:
            result = read_mapping(self.folder / "eval.json") if (self.folder / "eval.json").exists() else {}
            write_text(partial / "README.md", model_card(self.config, self.manifest, result))
            shutil.rmtree(self.folder / name, ignore_errors=True)
            os.replace(partial, self.folder / name)

    def check_folder(self) -> None:
        """Raise RunError if the folder was deleted or moved away since the run opened it."""
        with suppress(FileNotFoundError):
            if self.lock is None or os.path.samestat(os.stat(self.folder / "lock"), os.fstat(self.lock.fileno())):
                return
        raise RunError(
            f"run={self.folder}: the folder was deleted or moved away while the run wrote to it; put it back, or run "
            "the same command to begin again"
        )


def open_run(config: Config, stage: str) -> Run:
    """Create the run folder, or open it to continue. Raises RunError where that would mix or overwrite runs."""
    run = Run(Path(config.run), config)
    run.manifest = from_first(lambda: _open(run, stage))
    if run.complete:
        _tidy(run.folder)
    return run


def _open(run: Run, stage: str) -> dict[str, Any]:
    """Lock the folder; return the manifest that is there, or write a new one."""
    folder, manifest_file = run.folder, run.folder / "manifest.json"
    start = {"lock", "manifest.json.partial"}  # what a start that was cut off leaves behind
    try:
        if folder.exists() and not manifest_file.exists() and {p.name for p in folder.iterdir()} - start:
            raise RunError(f"run={folder}: the folder holds other files; name a new or empty one")
        folder.mkdir(parents=True, exist_ok=True)
        run.lock = (folder / "lock").open("w")
        fcntl.flock(run.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(f"run={folder}: another process is writing there; wait for it or name another run=DIR") from None
    except OSError as error:
        raise RunError(f"run={folder}: cannot be written: {error.strerror}; name another folder with run=DIR") from None
    if manifest_file.exists():
        run.manifest = read_mapping(manifest_file)
        if not (differing := _differing(run, stage) or _changed_code(run)):
            if not run.complete:  # it may be longer now
                write_text(folder / "config.yaml", to_yaml(run.config))
            return run.manifest
        if _has_results(run):
            raise RunError(f"run={folder}: {differing}; name another folder with run=DIR, or delete this one")
    run.manifest = _new_manifest(run.config, stage)
    write_json(manifest_file, run.manifest)
    write_text(folder / "config.yaml", to_yaml(run.config))
    return run.manifest


def _new_manifest(config: Config, stage: str) -> dict[str, Any]:
    """Where a run comes from. The commit ends in `-dirty` if the code was edited, and is None outside a checkout."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    root, commit = Path(__file__).parents[2], ""
    # where the package is installed, a repository around it is the user's
    with suppress(OSError, subprocess.TimeoutExpired):
        if (root / ".git").exists():
            commit = subprocess.run(describe, cwd=root, capture_output=True, text=True, timeout=10).stdout.strip()
    return {
        "stage": stage,
        "parent": parent_of(config.model.path),
        "seed": config.seed,
        "started": now(),
        "versions": versions(),
        "git_commit": commit or None,
        "code": code_hash(config),
    }


def versions() -> dict[str, str]:
    """Of what computes."""
    found = {"grpo": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    return {**found, "python": platform.python_version()}


def _tidy(folder: Path) -> None:
    """Drop what a complete run needs no more; one that was killed in the middle of this still has some of it."""
    if rank() == 0:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        (folder / SAMPLED).unlink(missing_ok=True)


def _differing(run: Run, stage: str) -> str:
    """What sets the run in the folder apart from the one asked for; empty if nothing does."""
    if not (run.folder / "config.yaml").exists():
        return "its config.yaml is missing"
    if (there := run.manifest.get("stage")) != stage:
        return f"holds a {there} run, not {stage}"
    old, new = flatten(read_mapping(run.folder / "config.yaml")), flatten(yaml.safe_load(to_yaml(run.config)))
    keys = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k) and not k.startswith(FREE)]
    if not run.complete and run.config.optim.schedule == "constant":
        keys = [k for k in keys if k not in LONGER or new[k] < old[k]]
    shown = ", ".join(f"{k} ({old.get(k)!r} there, {new.get(k)!r} now)" for k in keys[:4])
    more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
    longer = any(k in LONGER and None not in (old.get(k), new.get(k)) and new[k] > old[k] for k in keys)
    more += "; only an unfinished run of optim.schedule=constant can be made longer" if longer else ""
    return f"holds a run with other settings: {shown}{more}" if keys else ""


def _changed_code(run: Run) -> str:
    """What has changed of the code since the run began; empty if nothing has, or it is accepted and so recorded."""
    now_there = code_hash(run.config)
    before = run.manifest.get("code", now_there)
    changed = sorted(name for name in before.keys() | now_there.keys() if before.get(name) != now_there.get(name))
    if changed and not run.config.accept_code:
        return f"the code of {', '.join(changed)} has changed since the run began; accept_code=true continues with it"
    if changed:
        run.manifest.setdefault("code_changes", []).append({"at": now(), "before": before})
        run.manifest["code"] = now_there
        write_json(run.folder / "manifest.json", run.manifest)
    return ""


def _has_results(run: Run) -> bool:
    """Whether there is anything to lose. A run that failed before its first step (a model not found) starts again."""
    metrics = run.folder / "metrics.jsonl"
    there = any((run.folder / name).exists() for name in ("checkpoints", "samples.jsonl", SAMPLED, EVALUATION, "model"))
    return run.complete or there or (metrics.exists() and metrics.stat().st_size > 0)


def parent_of(model_path: str) -> dict[str, Any]:
    """The run that made a model, by its manifest; or just the model's name."""
    for folder in (Path(model_path), Path(model_path).parent):
        if (folder / "manifest.json").is_file():
            parent = read_mapping(folder / "manifest.json")
            return {"model": model_path, "stage": parent.get("stage"), "seed": parent.get("seed")}
    return {"model": model_path}


def data_hash(problems: list[Problem]) -> str:
    """SHA-256 of all that prompts and rewards see of these problems."""
    seen = [[value for name, value in vars(problem).items() if name != "place"] for problem in problems]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def code_hash(config: Config) -> dict[str, str]:
    """SHA-256 of the code that a run depends on: ours, and each module of its rewards, surrogate and weights."""
    root, names = Path(__file__).parents[2], [config.loss.surrogate, config.eval.reward]
    names += [reward.function or name for name, reward in config.rewards.items()]
    names += [weight if isinstance(weight, str) else weight["name"] for weight in config.loss.weight]
    files = {"grpo": [path for package in ("grpo", "rewards", "data") for path in (root / package).rglob("*.py")]}
    for module in {name.partition(":")[0] for name in names if ":" in name}:
        spec = importlib.util.find_spec(module)
        files[module] = [Path(spec.origin)] if spec and spec.origin else []
    hashes = {name: [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files[name])] for name in files}
    return {name: hashlib.sha256("".join(found).encode()).hexdigest() for name, found in hashes.items()}


def fingerprint(policy: Policy) -> str:
    """A digest of a policy's parameters: of each, the sums of its bits, as integers, along its last two dimensions."""
    sha, integers = hashlib.sha256(), {4: torch.int32, 2: torch.int16}
    for name, p in policy.values():
        bits = p.view(integers[p.element_size()])
        sums = [bits.sum(dim=-1), bits.sum(dim=-2)] if bits.dim() > 1 else [bits]
        sha.update(name.encode() + b"".join(x.cpu().clone().numpy().tobytes() for x in sums))  # NumPy holds on
    return sha.hexdigest()


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
