"""`make bench`: one training step of ours, of TRL's GRPOTrainer and of a plain `generate` loop, side by side.

    python experiments/bench.py --model FOLDER_OR_HUB_ID

Each run has a process of its own and the same checkpoint, prompts, group, lengths, AdamW and KL. TRL runs with several
micro-batches (`trl/8`: of 8 completions; the last split is the whole batch). What we compare with is its fastest split,
for memory also its leanest. That split and ours then run in turn, a pair after the other, so that a slow minute of the
machine meets both; the ratio is the median of the pairs'. The machine should do nothing else. The table is printed and
written to experiments/results/bench.md; --growth adds how the cost of ours grows.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

from transformers import AutoTokenizer

from data import build_prompt, load_problems
from data.embedded.tiny_model import BASE_FOLDER
from grpo.runs.config import Config
from grpo.runs.settings import load_config

HERE = Path(__file__).parent
SPLITS = {"tiny": ("32", "64", "128", "256"), "smollm2": ("4", "4 recompute", "8", "32")}
"""TRL's micro-batches of each model, in completions; recompute: with its gradient checkpointing."""
SHORT = 16
"""Tokens of the first step, which is not counted, where a full one would take too long."""
HEADER = (
    "| run | step, s | tokens/s sampling | tokens/s update | TFLOP/s | peak GB | steps/s, times TRL's fastest "
    "| GB, share of TRL's fastest | GB, share of TRL's leanest |"
)
GROWTH = {
    "group {}": ("grpo.group_size", (4, 8, 16, 32)),
    "completion {}": ("sampling.max_new_tokens", (64, 128, 256, 512)),
    "prompt {}": ("prompt", (32, 128, 512)),
    "processes {}": ("processes", (1, 2)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="the pretrained model")
    parser.add_argument("--pairs", type=int, default=3, help="timed steps of ours and of TRL's fastest split, in turn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--growth", action="store_true", help="also how the cost of ours grows: 5 minutes more")
    parser.add_argument("--only", nargs="*", help="only rows whose name holds one of these, such as 'tiny float32'")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "bench.md")
    arguments = parser.parse_args()
    results: dict[str, dict] = {}

    def record(name: str, run: Callable[[], dict]) -> None:
        if not arguments.only or any(text in name for text in arguments.only):
            results[name] = run()
            print(row(name, results), file=sys.stderr)
            write(arguments, results)  # after each: half an hour is long

    for model in SPLITS:
        for dtype in ("float32", "bfloat16"):
            compare(arguments, model, dtype, results, record)
    if arguments.growth:
        for name, run in growth(arguments):
            record(name, run)
    print("\n".join(table(results)))
    return 0


def compare(arguments: argparse.Namespace, model: str, dtype: str, results: dict, record: Callable) -> None:
    """The rows of one model in one type: a step of each of TRL's splits, pairs of the fastest and ours, the loop."""
    run, runs = partial(measure, arguments, model, dtype), defaultdict(list)
    for split in SPLITS[model]:
        record(f"{model} {dtype} trl/{split}", partial(run, f"trl/{split}", 1, SHORT))
    fastest = fastest_trl(f"{model} {dtype} trl", results)
    for _ in range(arguments.pairs):  # the step by which the fastest was chosen does not count
        for name in filter(None, (fastest, f"{model} {dtype} ours")):
            record(name, partial(once_more, runs[name], partial(run, name.split(" ", 2)[2], 1, SHORT)))
    record(f"{model} {dtype} plain", partial(run, "plain", 1, SHORT))


def once_more(runs: list[dict], run: Callable[[], dict]) -> dict:
    """The figures of `runs` and of one run more, as those of one: lists of steps, the highest peak."""
    runs.append(run())
    if failed := [some for some in runs if "failed" in some]:
        return failed[0]
    steps = {key: [x for some in runs for x in some[key]] for key, value in runs[0].items() if isinstance(value, list)}
    return runs[0] | steps | {"peak_gb": max(some["peak_gb"] for some in runs)}


def growth(arguments: argparse.Namespace) -> list[tuple[str, Callable[[], dict]]]:
    """Ours with one thing larger, and the head alone against full logits."""
    rows = []
    for label, (key, values) in GROWTH.items():
        rows += [(f"growth {label.format(value)}", partial(grow, arguments, key, value)) for value in values]
    for system in ("full", "ours"):
        rows.append((f"head {system}", partial(last_line, [sys.executable, str(HERE / "peers.py"), f"head-{system}"])))
    return rows


# ---- one run ------------------------------------------------------------------------------------------------


def measure(
    arguments: argparse.Namespace, model: str, dtype: str, system: str, steps: int, warmup_tokens: int = 0
) -> dict:
    """The figures of one system, in a process of its own."""
    config = HERE / "bench" / f"{model}.yaml"
    path = "tiny" if model == "tiny" else arguments.model
    settings = [f"model.path={path}", f"model.dtype={dtype}", f"model.device={arguments.device}"]
    if system == "ours":
        return ours(config, settings, steps, warmup_tokens)
    return peer(system, load_config(str(config), settings), steps, warmup_tokens)


def ours(
    config: Path, settings: list[str], steps: int, warmup_tokens: int = 0, processes: int = 1, seconds: float = 0
) -> dict:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launch if processes > 1 else []), "-m", "grpo", "bench", "--config", str(config)]
    return last_line(
        [*command, "--json", "--steps", str(steps), "--warmup-tokens", str(warmup_tokens), *settings], seconds
    )


def peer(system: str, config: Config, steps: int, warmup_tokens: int = 0, seconds: float = 0) -> dict:
    """`plain`, or `trl/MICRO` with or without ` recompute`, on the prompts of the configuration."""
    name, _, split = system.partition("/")
    micro, _, recompute = split.partition(" ")
    folder = str(BASE_FOLDER) if config.model.path == "tiny" else config.model.path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    problems = load_problems(config.data, config.seed)[: config.grpo.prompts_per_step]
    prompts = [tokenizer.decode(build_prompt(p, tokenizer, config.prompt).ids) for p in problems]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "prompts.json"
        file.write_text(json.dumps(prompts), encoding="utf-8")
        options = {
            "model": folder,
            "prompts": file,
            "dtype": config.model.dtype,
            "device": config.model.device,
            "group": config.grpo.group_size,
            "tokens": config.sampling.max_new_tokens,
            "micro": micro or 0,
            "beta": config.loss.beta,
            "lr": config.optim.lr,
            "steps": steps,
            "warmup-tokens": warmup_tokens,
            "threads": config.threads,
        }
        flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        flags += ["--recompute"] if recompute else []
        return last_line([sys.executable, str(HERE / "peers.py"), name, *flags], seconds)


def grow(arguments: argparse.Namespace, key: str, value: int) -> dict:
    """Ours with one thing larger: one prompt, 4 completions of 64 tokens otherwise; 2 prompts for two processes."""
    config = HERE / "bench" / "smollm2.yaml"
    settings = [f"model.path={arguments.model}", f"model.device={arguments.device}", "sampling.max_new_tokens=64"]
    if key == "processes":
        return ours(config, [*settings, "grpo.prompts_per_step=2", f"threads={2 // value}"], 1, processes=value)
    settings += ["grpo.prompts_per_step=1", "grpo.group_size=4"]
    if key != "prompt":
        return ours(config, [*settings, f"{key}={value}"], 1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompt.jsonl"
        file.write_text(json.dumps({"question": "one " * (value - 2), "answer": "1"}) + "\n", encoding="utf-8")
        plain = ["prompt.style=plain", "prompt.system=''", "prompt.template='{question}'"]
        return ours(config, [*settings, *plain, f"data.source={file}"], 1)


def last_line(command: list[str], seconds: float = 0) -> dict:
    """The JSON that a command prints last; {"failed": why} where it fails or takes longer than `seconds` (0: any)."""
    out, failure = run_process(command, seconds)
    return {"failed": failure} if failure else json.loads(out.strip().splitlines()[-1])


def run_process(command: list[str], seconds: float = 0, environment: dict[str, str] | None = None) -> tuple[str, str]:
    """What a command printed, and why it failed ("" where it did not)."""
    run = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | (environment or {}),
    )
    try:
        out, error = run.communicate(timeout=seconds or None)
    except subprocess.TimeoutExpired:
        return "", f"not done after {seconds:.0f} s"
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)  # with what it started
            run.communicate()
    if run.returncode < 0:
        return out, f"killed by signal {-run.returncode}" + ", perhaps for its memory" * (run.returncode == -9)
    return out, (error.strip().splitlines() or ["no reason given"])[-1][:200] if run.returncode else ""


# ---- the table ----------------------------------------------------------------------------------------------


def fastest_trl(group: str, results: dict[str, dict]) -> str | None:
    """The name of the fastest of the rows that begin with `group`."""
    rows = [name for name, result in results.items() if name.startswith(group) and "failed" not in result]
    return min(rows, key=lambda name: statistics.median(results[name]["seconds"]), default=None)


def row(name: str, results: dict[str, dict]) -> str:
    """A line of the table."""
    result = results[name]
    if "failed" in result:
        return f"| {name} | {result['failed'].replace('|', ' ')} |" + " |" * 7
    median = {key: statistics.median(value) for key, value in result.items() if isinstance(value, list)}
    low, high = min(result["seconds"]), max(result["seconds"])
    cells = [f"{median['seconds']:.2f}" + (f" [{low:.2f}, {high:.2f}]" if len(result["seconds"]) > 1 else "")]
    for part in ("sampling", "update"):
        cells.append(f"{median['tokens'] / median[f'{part}_seconds']:.0f}" if median[f"{part}_seconds"] else "")
    cells += [f"{median['tflops']:.3g}" if "tflops" in median else "", f"{result['peak_gb']:.2f}"]
    group = " ".join(name.split()[:2]) + " trl"
    if fastest := fastest_trl(group, results):
        peers = [r for other, r in results.items() if other.startswith(group) and "failed" not in r]
        theirs, ours = results[fastest]["seconds"], result["seconds"]
        pairs = [t / o for t, o in zip(theirs, ours, strict=True)] if len(theirs) == len(ours) > 1 else []
        ratio = statistics.median(pairs) if pairs else statistics.median(theirs) / median["seconds"]
        cells.append(f"{ratio:.2f}" + (f" [{min(pairs):.2f}, {max(pairs):.2f}]" if pairs and name != fastest else ""))
        for gb in (results[fastest]["peak_gb"], min(r["peak_gb"] for r in peers)):
            cells.append(f"{result['peak_gb'] / gb:.2f}")
    return f"| {name} | " + " | ".join(cells + [""] * (8 - len(cells))) + " |"


def table(results: dict[str, dict]) -> list[str]:
    return [HEADER, "|---" * 9 + "|", *(row(name, results) for name in results)]


def write(arguments: argparse.Namespace, results: dict[str, dict]) -> None:
    """The table with its command and processor, and every figure as JSON."""
    command = shlex.join(["python", "experiments/bench.py", *sys.argv[1:]]).replace(arguments.model, "FOLDER")
    machines = sorted({f"{r['processor']}, {r['threads']} threads" for r in results.values() if "processor" in r})
    notes = (
        f"{'; '.join(machines)}. Medians of {arguments.pairs} steps, ours and TRL's fastest split in "
        f"turn, [lowest, highest]; without a range: one step. Each after one of {SHORT} tokens (growth: a full one). "
        "One seed."
    )
    text = "\n".join([f"    {command}", "", notes, "", *table(results), ""])
    arguments.out.write_text(text, encoding="utf-8")
    arguments.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
