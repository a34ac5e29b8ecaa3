"""Runs of the command line small enough for every test: the untrained embedded model, a few steps, a few tokens."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from grpo import cli

SMALL = {
    "model.path": "tiny-init",
    "data.count": 6,
    "prompt.style": "plain",
    "prompt.template": '"{question}\\n"',
    "sampling.max_new_tokens": 6,
    "eval.at_end": "false",
    "eval.data.count": 3,
    "eval.samples": 2,
    "eval.pass_at": [1, 2],
    "sft.steps": 4,
    "sft.batch_size": 3,
    "optim.lr": 1e-3,
    "grpo.steps": 4,
    "grpo.prompts_per_step": 2,
    "grpo.group_size": 4,
    "log.save_every": 1,
    "sandbox.enabled": "false",  # a worker process takes longer to start than most of these runs
}
TIMES = ("seconds", "sampling_seconds", "tokens_per_second")
_numbers = itertools.count()


def command(stage: str, run: Path | str, *overrides: str, config: Path | None = None, **settings: object) -> list[str]:
    """Arguments of one stage: SMALL, then keyword settings (`__` for the dot), then literal overrides."""
    merged = {"run": run, **SMALL, **{k.replace("__", "."): v for k, v in settings.items()}}
    file = ["--config", str(config)] if config else []
    return [stage, *file, *(f"{k}={v}" for k, v in merged.items()), *overrides]


def grpo(stage: str, run: Path | str, *overrides: str, **settings: object) -> int:
    """Run one stage in this process. Returns the exit code."""
    return cli.main(command(stage, run, *overrides, **settings))


def write_module(folder: Path, monkeypatch, body: str) -> str:
    """An importable module of the user's, under a name that no other test used."""
    name = f"user_module_{next(_numbers)}"
    (folder / f"{name}.py").write_text(body, encoding="utf-8")
    if str(folder) not in sys.path:
        monkeypatch.syspath_prepend(str(folder))
    return name


# pays for the parity of the first token: even an untrained model's completions differ in it
PARITY = (
    "def parity(completions, completion_ids, **columns):\n    return [float(ids[0] % 2) for ids in completion_ids]\n"
)


def metrics(run: Path) -> list[dict]:
    """metrics.jsonl without what a clock says."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in lines(run / "metrics.jsonl")]


def lines(path: Path) -> list[dict]:
    """A JSON Lines file; strict: NaN is no JSON."""

    def refuse(name: str) -> float:
        raise ValueError(f"{path}: {name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


def manifest(run: Path) -> dict:
    """manifest.json."""
    return json.loads((run / "manifest.json").read_text(encoding="utf-8"))


def saved_steps(run: Path) -> list[int]:
    """After how many steps each checkpoint of a run was written; raises ValueError if there is any other file."""
    return sorted(int(path.stem.removeprefix("step-")) for path in (run / "checkpoints").iterdir())


def weights(run: Path) -> dict[str, Tensor]:
    """The final weights of a run, adapter or model."""
    return load_file(next((run / "model").glob("*.safetensors")))


def one_line(capsys) -> str:
    """What the command said on stderr: one line, no traceback."""
    text = capsys.readouterr().err
    said = [line for line in text.replace("\r", "\n").splitlines() if line.startswith("grpo: ") and "%|" not in line]
    said = [line for line in said if "M parameters; " not in line]  # what a stage is about to do
    assert "Traceback" not in text
    assert len(said) == 1 and text.rstrip().endswith(said[0]), text
    return said[0]


LEARNED = {
    "data.count": 4,
    "data.demo.slip_rate": 0,
    "data.demo.reflective_share": 0.5,
    "eval.data.split": "train",
    "eval.data.count": 4,
    "sampling.max_new_tokens": 100,
}


def memorised(tmp_path_factory) -> tuple[Path, dict]:
    """A run folder whose model knows four problems by heart, more or less, and the settings that name them."""
    run = tmp_path_factory.getbasetemp() / "memorised"
    settings = {k.replace(".", "__"): v for k, v in LEARNED.items()}
    if not (run / "model").exists():
        training = {"sft__steps": 80, "sft__batch_size": 4, "optim__lr": 3e-3, "log__save_every": 1000}
        assert grpo("sft", run, **settings, **training) == 0
    return run, {**settings, "model__path": run}
