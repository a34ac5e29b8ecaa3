"""The work of gpu_check.sh: a table, the most telling rows first, each kept as it is made, within a budget."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import torch
from transformers import __version__
from transformers.utils import logging as transformers_logging

from experiments.bench import ours, peer, run_process
from experiments.launch.gpu_rows import Rows, json_lines, random_model, real_run
from grpo.commands.bench import processor
from grpo.runs.settings import load_config

CONFIG = "experiments/bench/gpu.yaml"
SAMPLING = {"full": (("0.5B", "1.5B"), (32, 64, 256), 256), "small": (("small",), (4, 8), 8)}
"""Shapes, rows, tokens."""
CASES = {  # of a step: shape, type, group, tokens
    "full": [("1.5B", "bfloat16", 16, 1024), ("0.5B", "bfloat16", 8, 256), ("1.5B", "bfloat16", 8, 256),
             ("0.5B", "float32", 8, 256), ("1.5B", "float32", 8, 256)],
    "small": [("small", "float32", 2, 6)],
}  # fmt: skip
WARMUP = 256
"""Tokens of the step that is not counted: a kernel's first call takes a GPU seconds, and it must have been made."""
LIMITS = {"tests": 90, "sampling": 75, "step": 70, "trl": 120, "real": 400}
"""Seconds that a piece of work may take at most. The real run takes what is left."""
COLUMNS = ("run", "step, s", "sampling, s", "update, s", "tokens/s", "peak GB", "TFLOP/s", "of the peak", "note")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("only", nargs="*", help="work whose name begins with one of these: tests, sampling, step, real")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", choices=("full", "small"), default="full")
    parser.add_argument("--budget", type=float, default=460, help="seconds for all rows together")
    parser.add_argument("--model", default="", help="of the real run: a folder or a .gguf file")
    parser.add_argument("--data", default="", help="folder of its data; empty: where `make data` puts it")
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print("gpu_check: no GPU here; DEVICE=cpu SCALE=small tries the script itself", file=sys.stderr)
        return 2
    transformers_logging.disable_progress_bar()
    deadline, results = time.monotonic() + arguments.budget, {}

    def keep(name: str, result: dict) -> None:
        results[name] = result
        print(row(name, result), file=sys.stderr, flush=True)
        write(arguments, results)

    with tempfile.TemporaryDirectory() as scratch:
        for name, limit, run in work(arguments, Path(scratch)):
            if arguments.only and not name.startswith(tuple(arguments.only)):
                continue
            left = deadline - time.monotonic()
            if left < 3:
                keep(name, {"failed": "no time was left"})
                continue
            try:
                for row_name, result in run(seconds=min(limit, left)):
                    keep(row_name, result)
            except Exception as error:  # it must not take the others with it
                keep(name, {"failed": f"{type(error).__name__}: {error}"})
    print((arguments.out / "gpu_check.md").read_text(encoding="utf-8"))
    return 0


def work(arguments: argparse.Namespace, scratch: Path) -> Iterator[tuple[str, float, Callable[..., Rows]]]:
    """Name, limit in seconds and rows of each piece of work, the most telling first."""
    yield "tests", LIMITS["tests"], partial(run_tests, arguments.device)
    shapes, sizes, tokens = SAMPLING[arguments.scale]
    for shape in shapes:
        yield f"sampling {shape}", LIMITS["sampling"], partial(run_sampling, arguments, scratch, shape, sizes, tokens)
    for number, case in enumerate(CASES[arguments.scale]):
        name = "step {} {} 4x{}x{}".format(*case)
        for system in ("ours", "trl/8"):
            limit = LIMITS["step" if system == "ours" else "trl"]
            yield f"{name} {system}", limit, partial(run_step, arguments, scratch, case, system, f"{name} {system}")
        if number == 0:
            yield "real", LIMITS["real"], partial(real_run, arguments, scratch / "real")


# ---- the work -----------------------------------------------------------------------------------------------


def run_tests(device: str, seconds: float) -> Rows:
    """tests/test_gpu.py; the note says how many passed."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_gpu.py"]
    out, failure = run_process(command, seconds, {"GPU_TEST_DEVICE": device})
    summary = re.findall(r"^(?:FAILED|ERROR) .*|.*\d+ (?:passed|failed|error|skipped).*", out, re.MULTILINE)
    yield "tests", {"note": "; ".join(summary)} if summary else {"failed": failure or out.strip()[-200:]}


def run_sampling(
    arguments: argparse.Namespace, scratch: Path, shape: str, sizes: tuple[int, ...], tokens: int, seconds: float
) -> Rows:
    """Tokens a second of sampling alone, with and without graphs."""
    started = time.monotonic()
    model = random_model(shape, scratch, arguments.device)
    command = [sys.executable, "experiments/launch/gpu_rows.py", str(model), "--device", arguments.device]
    command += ["--rows", *map(str, sizes), "--tokens", str(tokens)]
    for result in json_lines(command, max(1.0, seconds - (time.monotonic() - started))):
        yield f"sampling {shape} bfloat16 {result['name']}", result


def run_step(arguments: argparse.Namespace, scratch: Path, case: tuple, system: str, name: str, seconds: float) -> Rows:
    """A step of one system on a model of random weights."""
    if system != "ours" and not importlib.util.find_spec("trl"):
        raise RuntimeError("TRL is not installed")
    started = time.monotonic()
    shape, dtype, group, tokens = case
    settings = [f"model.path={random_model(shape, scratch, arguments.device)}", f"model.device={arguments.device}"]
    settings += [f"model.dtype={dtype}", f"grpo.group_size={group}", f"sampling.max_new_tokens={tokens}"]
    limit = max(1.0, seconds - (time.monotonic() - started))
    warmup = min(WARMUP, tokens)
    if system == "ours":
        yield name, ours(Path(CONFIG), settings, 1, warmup, seconds=limit)
    else:
        yield name, peer(system, load_config(CONFIG, settings), 1, min(WARMUP // 4, tokens), limit)


# ---- the table ----------------------------------------------------------------------------------------------


def row(name: str, result: dict) -> str:
    """A line of the table."""
    cells = [name] + [""] * 7 + [result.get("note") or result.get("failed", "")]
    if "sampling_seconds" in result:
        keys = ("seconds", "sampling_seconds", "update_seconds")
        times = [median(result[key]) if key in result else None for key in keys]
        cells[1:4] = ["" if t is None else f"{t:.2f}" for t in times]
        cells[4:6] = [f"{median(result['tokens']) / (times[0] or times[1]):.0f}", f"{result['peak_gb']:.2f}"]
    if "tflops" in result:
        cells[6] = f"{median(result['tflops']):.3g}"
        cells[7] = f"{result['peak_share']:.1%}" if result["peak_share"] else ""
        cells[8] = f"sampler_gap {max(result['sampler_gap']):.0e}"
    return "| " + " | ".join(" ".join(cell.replace("|", " ").split()) for cell in cells) + " |"


def write(arguments: argparse.Namespace, results: dict[str, dict]) -> None:
    """gpu_check.md and gpu_check.json, after each row."""
    notes = (
        f"{processor(torch.device(arguments.device))}; torch {torch.__version__}, transformers {__version__}; one "
        "seed. Sampling and steps: random weights. A step: shape, type, prompts x group x tokens, system; after one "
        f"that is not counted, of at most {WARMUP} tokens ({WARMUP // 4} in TRL). The share is of the card's peak in "
        "that type. Real: a pretrained model, with intervals of 95 %."
    )
    head = "| " + " | ".join(COLUMNS) + " |"
    lines = [notes, "", head, "|---" * len(COLUMNS) + "|", *(row(name, result) for name, result in results.items())]
    (arguments.out / "gpu_check.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (arguments.out / "gpu_check.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
