"""What gpu_check.py runs in processes of their own: sampling with and without graphs, and one real run.

python experiments/launch/gpu_rows.py MODEL --device cuda --rows 32 64 256 --tokens 256      a line of JSON each
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from data.embedded.tiny_model import build_tokenizer
from experiments.bench import run_process
from grpo.commands.bench import now, peak_memory, processor
from grpo.model.graphs import can_replay
from grpo.model.policy import ModelConfig, Policy, load_policy
from grpo.results.compare import compare_runs
from grpo.runs.files import read_mapping
from grpo.runs.keeper import export
from grpo.sampling import sample_groups
from grpo.types import Rollouts, SamplingConfig

SHAPES = {  # width, width of the MLP, layers, heads, key-value heads, vocabulary
    "0.5B": (896, 4864, 24, 14, 2, 151936),
    "1.5B": (1536, 8960, 28, 12, 2, 151936),
    "small": (64, 96, 2, 4, 2, 512),
}
GROUP, PROMPT = 8, 64
"""Completions of a prompt, and tokens of a prompt, where sampling is timed."""
Rows = Iterator[tuple[str, dict]]
"""The name of a row, and what it holds."""
STAGES = {"1-base": "base", "2-sft": "sft", "3-grpo": "grpo"}
EVERY = ["log.save_every=100000", "eval.samples=1", "eval.pass_at=[1]", "eval.require_tags=false"]
REAL = {  # configurations, and settings on top of them
    "full": ("gsm8k", [
        *EVERY, "model.dtype=bfloat16", "sampling.max_rows=512", "sampling.max_new_tokens=256", "eval.data.count=0",
        "tokens_per_micro_batch=16384", "sft.steps=60", "sft.batch_size=64", "grpo.steps=100000",
        "grpo.prompts_per_step=32", "grpo.group_size=8", "optim.warmup_steps=3",
    ]),
    "small": ("demo", [
        *EVERY, "data.count=16", "sampling.max_new_tokens=64", "eval.data.count=4", "sft.steps=10", "sft.batch_size=16",
        "grpo.steps=3", "grpo.prompts_per_step=2", "grpo.group_size=4", "grpo.drop_zero_spread=false",
        "grpo.drop_by=[]", "optim.warmup_steps=0",
    ]),
}  # fmt: skip
"""GRPO is stopped when its time is over: so many steps it never makes."""
ONLY = {"grpo": ["optim.lr=5.0e-6"]}
"""Settings of one stage: a run of few steps takes larger ones."""


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


# ---- sampling with and without graphs ------------------------------------------------------------------------


def sampling_rows(model: Path, device: str, dtype: str, sizes: list[int], tokens: int) -> Iterator[dict]:
    """For each number of rows: without graphs (an eighth of the tokens: it is slow), then with them."""
    few = max(2, tokens // 8)
    policy = load_policy(ModelConfig(str(model), device=device, dtype=dtype))
    for size in sizes:
        plain, row = timed(policy, size, few, graphs=False)
        yield row
        same, _ = timed(policy, size, few, graphs=True)
        _, row = timed(policy, size, tokens, graphs=True)
        said = "the same tokens" if same.token_lists() == plain.token_lists() else "OTHER TOKENS than without"
        captured = policy.graphs and can_replay(policy.device)
        yield row | {"note": f"{row['note']}; {said if captured else 'no graph was captured'}"}


def timed(policy: Policy, size: int, tokens: int, graphs: bool) -> tuple[Rollouts, dict]:
    """What was sampled, and its row: the faster of two times, after a few tokens for the first calls of kernels."""
    prompts = [[3 + (7 * i + j) % 60 for j in range(PROMPT)] for i in range(max(1, size // GROUP))]
    names = [str(i) for i in range(len(prompts))]
    policy.graphs, seconds = graphs, []
    for limit in (min(4, tokens), tokens, tokens):
        started, config = now(policy.device), SamplingConfig(max_new_tokens=limit, max_rows=size)
        rollouts = sample_groups(policy, prompts, names, size // len(prompts), config, seed=0)
        seconds.append(now(policy.device) - started)
    best = min(seconds[1:])
    row = {"name": f"{size} rows, {'graphs' if graphs else 'no graphs'}", "tokens": [int(rollouts.mask.sum())],
           "sampling_seconds": [best], "peak_gb": peak_memory(policy.device),
           "note": f"{1e3 * best / rollouts.mask.shape[1]:.1f} ms a token of all rows"}  # fmt: skip
    return rollouts, row


def json_lines(command: list[str], seconds: float) -> Iterator[dict]:
    """What a command prints, as it prints it. Raises RuntimeError where it fails or takes longer."""
    with tempfile.TemporaryFile("w+") as errors:
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
        killer = threading.Timer(seconds, os.killpg, (run.pid, signal.SIGKILL))
        killer.start()
        try:
            yield from map(json.loads, run.stdout)
        finally:
            killer.cancel()
            if run.poll() is None and run.stdout.closed:
                os.killpg(run.pid, signal.SIGKILL)
        if run.wait() == -signal.SIGKILL:
            raise RuntimeError(f"not done after {seconds:.0f} s")
        if run.returncode:
            errors.seek(0)
            raise RuntimeError((errors.read().strip().splitlines() or ["no reason given"])[-1][:200])


# ---- a real run ----------------------------------------------------------------------------------------------


def real_run(arguments: argparse.Namespace, folder: Path, seconds: float) -> Rows:
    """Base, SFT, GRPO for as long as there is time, and all test problems after each: figures, then in pairs."""
    deadline, path, evaluation = time.monotonic() + seconds, arguments.model, 0.0
    experiment, settings = REAL[arguments.scale]
    settings = [*settings, f"model.device={arguments.device}"]
    settings += [f"{key}={arguments.data}" for key in ("data.root", "eval.data.root") if arguments.data]
    for run, stage in STAGES.items():
        started = time.monotonic()
        config = f"experiments/{experiment}/{stage}.yaml"
        command = [stage, "--config", config, f"run={folder / run}", *settings]
        command += ([f"model.path={path}"] if path else []) + ONLY.get(stage, [])
        if stage == "grpo":
            yield "real grpo", {"note": grpo_until(deadline - 2 * evaluation - 15, command, folder / run)}
            shutil.copy(folder / run / "metrics.jsonl", arguments.out / "real_grpo.jsonl")
            continue
        finish(command, deadline)
        evaluation = evaluation or time.monotonic() - started
        yield f"real {stage}", {"note": f"{described(folder / run)}; {time.monotonic() - started:.0f} s"}
        path = path if stage == "base" else str(folder / run)
    export(folder / "3-grpo", folder / "3-model")
    config = f"experiments/{experiment}/eval.yaml"
    last = [f"run={folder / '3-eval'}", *settings, "eval.folder=''", f"model.path={folder / '3-model'}"]
    finish(["eval", "--config", config, *last], deadline)
    yield "real grpo, evaluated", {"note": described(folder / "3-eval")}
    for run, before in (("2-sft", "1-base"), ("3-eval", "2-sft"), ("3-eval", "1-base")):
        yield f"real {run} - {before}", {"note": in_pairs(folder / run, folder / before)}


def finish(command: list[str], deadline: float) -> None:
    """Run a command of grpo's to its end. Raises RuntimeError where it fails or is not done in time."""
    _, failure = run_process([sys.executable, "-m", "grpo", *command], max(1.0, deadline - time.monotonic()))
    if failure:
        raise RuntimeError(f"{command[0]}: {failure}")


def grpo_until(deadline: float, command: list[str], folder: Path) -> str:
    """As many steps as there is time for: the signal lets the last one finish and be saved. Says what they were."""
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-m", "grpo", *command, "eval.at_end=false"]
        run = subprocess.Popen(command, stdout=errors, stderr=errors)
        try:
            run.wait(max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGTERM)
            run.wait(60)
        finally:
            run.kill()
        errors.seek(0)
        reason = (errors.read().strip().splitlines() or [""])[-1][:200]
    file = folder / "metrics.jsonl"
    steps = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    if not steps:
        raise RuntimeError(f"grpo: no step was made: {reason}")
    first, last = (sum(s["reward"] for s in some) / len(some) for some in (steps[:5], steps[-5:]))
    return f"{len(steps)} steps, {median(s['seconds'] for s in steps):.2f} s each, reward {first:.3f}, then {last:.3f}"


def described(run: Path) -> str:
    """The evaluation of a run, in words."""
    found = read_mapping(run / "eval.json")
    low, high = found["greedy"]["ci95"]
    right = f"greedy {found['greedy']['accuracy']:.1%} right [{low:.1%}, {high:.1%}] of {found['problems']}"
    return f"{right}, sampled {found['sampled']['accuracy']:.1%}, truncated {found['greedy']['truncated']:.0%}"


def in_pairs(run: Path, other: Path) -> str:
    """The difference of two evaluations, problem by problem."""
    found = compare_runs(run, other, other.name)
    parts = [
        f"{kind} {found[kind]:+.1%} [{found[f'{kind}_ci95'][0]:+.1%}, {found[f'{kind}_ci95'][1]:+.1%}]"
        for kind in ("greedy", "sampled")
    ]
    return f"{', '.join(parts)}, in pairs over {found['problems']} problems"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rows", type=int, nargs="+", default=[32, 64, 256])
    parser.add_argument("--tokens", type=int, default=256)
    arguments = parser.parse_args()
    sizes, machine = arguments.rows, processor(torch.device(arguments.device))
    for row in sampling_rows(arguments.model, arguments.device, arguments.dtype, sizes, arguments.tokens):
        print(json.dumps(row | {"processor": machine}), flush=True)


if __name__ == "__main__":
    main()
