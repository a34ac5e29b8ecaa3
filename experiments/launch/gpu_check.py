"""The work of gpu_check.sh: tests, demo and bench, a row of the table each, within a budget of seconds."""

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
from transformers import Qwen2Config, Qwen2ForCausalLM, __version__
from transformers.utils import logging as transformers_logging

from data.embedded.tiny_model import build_tokenizer
from experiments.bench import ours, peer, run_process
from grpo.bench import processor
from grpo.cli import main as grpo
from grpo.runs.settings import load_config

CONFIG = "experiments/bench/gpu.yaml"
SHAPES = {  # width, width of the MLP, layers, heads, key-value heads, vocabulary
    "0.5B": (896, 4864, 24, 14, 2, 151936),
    "1.5B": (1536, 8960, 28, 12, 2, 151936),
    "small": (64, 96, 2, 4, 2, 512),
}
CASES = {  # shape, type, group, tokens: the most telling first
    "full": [
        ("0.5B", "bfloat16", 8, 256), ("1.5B", "bfloat16", 8, 256), ("0.5B", "float32", 8, 256),
        ("1.5B", "bfloat16", 16, 1024), ("0.5B", "bfloat16", 16, 1024), ("1.5B", "float32", 8, 256),
        ("0.5B", "bfloat16", 16, 256), ("0.5B", "bfloat16", 8, 1024), ("1.5B", "bfloat16", 16, 256),
        ("1.5B", "bfloat16", 8, 1024), ("0.5B", "float32", 16, 256), ("0.5B", "float32", 8, 1024),
        ("0.5B", "float32", 16, 1024), ("1.5B", "float32", 16, 256), ("1.5B", "float32", 8, 1024),
        ("1.5B", "float32", 16, 1024),
    ],
    "small": [("small", "float32", 2, 6)],
}  # fmt: skip
WARMUP = 256
"""Tokens of the step that is not counted: a kernel's first call takes a GPU seconds, and it must have been made."""
DEMO = {  # settings on top of the demo's
    "full": ["tokens_per_micro_batch=16384"],
    "small": ["data.count=16", "sampling.max_new_tokens=64", "eval.data.count=4", "eval.samples=1", "eval.pass_at=[1]",
              "sft.steps=10", "sft.batch_size=16", "grpo.steps=1", "grpo.prompts_per_step=2", "grpo.group_size=4",
              "grpo.drop_zero_spread=false", "reject.samples=4"],
}  # fmt: skip
STAGES = {"2-sft": "sft", "3-grpo": "grpo", "4-reject": "reject", "5-final": "final"}
LIMITS = {"tests": 60, "demo": 150, "bench": 80}
"""Seconds that a row may take at most."""
COLUMNS = ("run", "step, s", "sampling, s", "update, s", "tokens/s", "peak GB", "TFLOP/s", "of the peak", "note")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", choices=("full", "small"), default="full")
    parser.add_argument("--budget", type=float, default=460, help="seconds for all rows together")
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print("gpu_check: no GPU here; DEVICE=cpu SCALE=small tries the script itself", file=sys.stderr)
        return 2
    transformers_logging.disable_progress_bar()
    deadline, results = time.monotonic() + arguments.budget, {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, limit, run in rows(arguments, Path(scratch)):
            left = deadline - time.monotonic()
            try:
                results[name] = run(seconds=min(limit, left)) if left > 3 else {"failed": "no time was left"}
            except Exception as error:  # a row must not take the others with it
                results[name] = {"failed": f"{type(error).__name__}: {error}"}
            print(row(name, results[name]), file=sys.stderr, flush=True)
            write(arguments, results)
    print((arguments.out / "gpu_check.md").read_text(encoding="utf-8"))
    return 0


def rows(arguments: argparse.Namespace, scratch: Path) -> Iterator[tuple[str, float, Callable[..., dict]]]:
    """Name, limit in seconds and work of each row, the most important first."""
    yield "tests", LIMITS["tests"], partial(run_tests, arguments.device)
    yield "demo", LIMITS["demo"], partial(run_demo, arguments, scratch)
    systems = ["ours", "plain"] + ["trl/4"] * (importlib.util.find_spec("trl") is not None)
    for case in CASES[arguments.scale]:
        for system in systems:
            name = "{} {} {}x{}".format(*case)
            yield f"{name} {system}", LIMITS["bench"], partial(run_bench, arguments, scratch, case, system)


# ---- the work -----------------------------------------------------------------------------------------------


def run_tests(device: str, seconds: float) -> dict:
    """tests/test_gpu.py; the note says how many passed."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_gpu.py"]
    out, failure = run_process(command, seconds, {"GPU_TEST_DEVICE": device})
    summary = re.findall(r"^(?:FAILED|ERROR) .*|.*\d+ (?:passed|failed|error|skipped).*", out, re.MULTILINE)
    return {"note": "; ".join(summary)} if summary else {"failed": failure or out.strip()[-200:]}


def run_demo(arguments: argparse.Namespace, scratch: Path, seconds: float) -> dict:
    """The demo's stages in one process. The note: right greedy answers of each stage that was finished."""
    settings = [f"model.device={arguments.device}", *DEMO[arguments.scale]]
    code = f"from experiments.launch.gpu_check import demo; demo({str(scratch)!r}, {settings!r})"
    started = time.monotonic()
    _, failure = run_process([sys.executable, "-c", code], seconds)
    files = {stage: scratch / stage / "eval.json" for stage in STAGES}
    right = {
        stage: json.loads(file.read_text())["greedy"]["accuracy"] for stage, file in files.items() if file.exists()
    }
    notes = [f"{stage} {share:.0%} right" for stage, share in right.items()] + ([failure] if failure else [])
    return {"note": f"{', '.join(notes)}, in {time.monotonic() - started:.0f} s"}


def demo(folder: str, settings: list[str]) -> None:
    """All stages, each from the model of the one before."""
    before = None
    for run, stage in STAGES.items():
        chosen = [f"run={folder}/{run}", *settings, *([f"model.path={folder}/{before}"] if before else [])]
        command = "grpo" if stage == "final" else stage
        if grpo([command, "--config", f"experiments/demo/{stage}.yaml", *chosen]):
            sys.exit(1)
        before = run


def run_bench(arguments: argparse.Namespace, scratch: Path, case: tuple, system: str, seconds: float) -> dict:
    """A step of one system on a model of random weights."""
    started = time.monotonic()
    shape, dtype, group, tokens = case
    settings = [f"model.path={random_model(shape, scratch, arguments.device)}", f"model.device={arguments.device}"]
    settings += [f"model.dtype={dtype}", f"grpo.group_size={group}", f"sampling.max_new_tokens={tokens}"]
    limit = max(1.0, seconds - (time.monotonic() - started))
    warmup = min(WARMUP, tokens)
    if system == "ours":
        return ours(Path(CONFIG), settings, 1, warmup, seconds=limit)
    return peer(system, load_config(CONFIG, settings), 1, warmup, limit)


def random_model(shape: str, scratch: Path, device: str) -> Path:
    """A folder with random weights of this shape and the embedded tokenizer. Of its 76 tokens one ends a completion:
    so few of 151,936 are drawn that nearly all completions reach the limit."""
    folder = scratch / f"model-{shape}"
    if not folder.exists():
        width, mlp, layers, heads, kv_heads, vocabulary = SHAPES[shape]
        tokenizer = build_tokenizer()
        config = Qwen2Config(
            hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=kv_heads, vocab_size=vocabulary, max_position_embeddings=32768,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6}, rms_norm_eps=1e-6, tie_word_embeddings=True,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        with torch.device(device):
            model = Qwen2ForCausalLM(config)
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del model
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
    return folder


# ---- the table ----------------------------------------------------------------------------------------------


def row(name: str, result: dict) -> str:
    """A line of the table."""
    cells = [name] + [""] * 7 + [result.get("note") or result.get("failed", "")]
    if "seconds" in result:
        step, tokens = median(result["seconds"]), median(result["tokens"])
        cells[1:6] = [
            f"{step:.2f}", f"{median(result['sampling_seconds']):.2f}", f"{median(result['update_seconds']):.2f}",
            f"{tokens / step:.0f}", f"{result['peak_gb']:.2f}",
        ]  # fmt: skip
    if "tflops" in result:
        cells[6] = f"{median(result['tflops']):.3g}"
        cells[7] = f"{result['peak_share']:.1%}" if result["peak_share"] else ""
        cells[8] = f"sampler_gap {max(result['sampler_gap']):.0e}"
    return "| " + " | ".join(" ".join(cell.replace("|", " ").split()) for cell in cells) + " |"


def write(arguments: argparse.Namespace, results: dict[str, dict]) -> None:
    """gpu_check.md and gpu_check.json, after each row."""
    notes = (
        f"{processor(torch.device(arguments.device))}; torch {torch.__version__}, transformers {__version__}. "
        "Rows: shape, type, group x tokens, system; 4 prompts, random weights, one step after one of at most "
        f"{WARMUP} tokens that is not counted. The share is that of the card's peak in the row's type."
    )
    head = "| " + " | ".join(COLUMNS) + " |"
    lines = [notes, "", head, "|---" * len(COLUMNS) + "|", *(row(name, result) for name, result in results.items())]
    (arguments.out / "gpu_check.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (arguments.out / "gpu_check.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
