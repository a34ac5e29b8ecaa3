"""`make bench`: one training step of ours, of TRL's GRPOTrainer and of a plain `generate` loop, side by side.

    python experiments/bench.py --model FOLDER_OR_HUB_ID --steps 3

Each run has its own process, the same checkpoint, prompts, group, lengths, AdamW and KL; the numbers are medians over
--steps steps after one that does not count, with [lowest, highest]; on a GPU ours runs once more with CUDA graphs. Then
ours alone: how the cost grows, and the head (a vocabulary of 152k, 1024 tokens, forward and backward) against full
logits. The machine should do nothing else. The table is printed and written to experiments/results/bench.md; --only
picks rows by name.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from data import build_prompt, load_problems
from grpo.model.policy import load_policy
from grpo.runs.settings import load_config

HERE = Path(__file__).parent
SYSTEMS = ("trl", "ours", "plain")  # TRL first: the others are compared with it
HEADER = "| run | step, s | tokens/s sampling | tokens/s update | of the limit | peak GB | steps/s against TRL |"
GROWTH = {
    "group {}": ("grpo.group_size", (4, 8, 16, 32)),
    "completion {}": ("sampling.max_new_tokens", (64, 128, 256, 512)),
    "prompt {}": ("prompt", (32, 128, 512)),
    "processes {}": ("processes", (1, 2)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="the pretrained model")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="run only rows whose name holds this text, such as 'tiny trl'")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "bench.md")
    arguments = parser.parse_args()
    results: dict[str, dict] = {}
    for name, measure in runs(arguments):
        if arguments.only in name:
            results[name] = measure()
            print(row(name, results), file=sys.stderr)
            write(arguments, results)  # after each: half an hour is long
    print("\n".join(table(results)))
    return 0


def runs(arguments: argparse.Namespace) -> Iterator[tuple[str, Callable[[], dict]]]:
    """The rows of the table, each with what measures it."""
    systems = (*SYSTEMS, "graphs") if arguments.device.startswith("cuda") else SYSTEMS
    for model in ("tiny", "smollm2"):
        for dtype in ("float32", "bfloat16"):
            for system in systems:
                yield f"{model} {system} {dtype}", partial(run, arguments, model, system, dtype)
    for label, (key, values) in GROWTH.items():
        for value in values:
            yield f"growth {label.format(value)}", partial(grow, arguments, key, value)
    for system in ("full", "ours"):
        yield f"head {system} float32", partial(last_line, [sys.executable, str(HERE / "peers.py"), f"head-{system}"])


def table(results: dict[str, dict]) -> list[str]:
    return [HEADER, "|---" * 7 + "|", *(row(name, results) for name in results)]


def write(arguments: argparse.Namespace, results: dict[str, dict]) -> None:
    """The table with its command, and every figure as JSON."""
    command = " ".join(["python experiments/bench.py", *sys.argv[1:]]).replace(arguments.model, "FOLDER")
    notes = f"One seed; medians over {arguments.steps} steps after one not counted, [lowest, highest]; growth: 1 step."
    speeds = [r["bandwidth_gb_per_second"] for r in results.values() if "bandwidth_gb_per_second" in r]
    if speeds:
        notes += f" Memory was read at {min(speeds):.0f} to {max(speeds):.0f} GB/s."
    text = "\n".join([f"    {command}", "", notes, "", *table(results), ""])
    arguments.out.write_text(text, encoding="utf-8")
    arguments.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def run(arguments: argparse.Namespace, model: str, system: str, dtype: str) -> dict:
    """The figures of one system, in a process of its own."""
    config = HERE / "bench" / f"{model}.yaml"
    path = "tiny" if model == "tiny" else arguments.model
    settings = [f"model.path={path}", f"model.dtype={dtype}", f"model.device={arguments.device}"]
    if system in ("ours", "graphs"):
        return ours(config, [*settings, f"model.cuda_graphs={system == 'graphs'}"], arguments.steps)
    chosen = load_config(str(config), settings)
    policy = load_policy(chosen.model)
    problems = load_problems(chosen.data, chosen.seed)[: chosen.grpo.prompts_per_step]
    prompts = [policy.tokenizer.decode(build_prompt(p, policy.tokenizer, chosen.prompt).ids) for p in problems]
    del policy
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.json"
        file.write_text(json.dumps(prompts), encoding="utf-8")
        options = {
            "model": str(HERE.parent / "data" / "tiny") if model == "tiny" else path,
            "prompts": file,
            "dtype": dtype,
            "device": arguments.device,
            "group": chosen.grpo.group_size,
            "tokens": chosen.sampling.max_new_tokens,
            "beta": chosen.loss.beta,
            "lr": chosen.optim.lr,
            "steps": arguments.steps,
            "threads": chosen.threads,
        }
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        return last_line([sys.executable, str(HERE / "peers.py"), system, *flags])


def grow(arguments: argparse.Namespace, key: str, value: int) -> dict:
    """Ours with one thing larger: one prompt, 4 completions of 64 tokens otherwise; 2 prompts for two processes."""
    if key == "processes":
        settings = [f"model.path={arguments.model}", f"model.device={arguments.device}", "grpo.prompts_per_step=2"]
        settings += [
            "sampling.max_new_tokens=64",
            f"threads={2 // value}",
        ]
        return ours(HERE / "bench" / "smollm2.yaml", settings, 1, value)
    settings = [f"model.path={arguments.model}", f"model.device={arguments.device}", "grpo.prompts_per_step=1"]
    settings += ["grpo.group_size=4", "sampling.max_new_tokens=64"]
    if key != "prompt":
        return ours(HERE / "bench" / "smollm2.yaml", [*settings, f"{key}={value}"], 1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompt.jsonl"
        file.write_text(json.dumps({"question": "one " * (value - 2), "answer": "1"}) + "\n", encoding="utf-8")
        plain = ["prompt.style=plain", "prompt.system=''", "prompt.template='{question}'"]
        return ours(HERE / "bench" / "smollm2.yaml", [*settings, *plain, f"data.source={file}"], 1)


def ours(config: Path, settings: list[str], steps: int, processes: int = 1) -> dict:
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    command = [sys.executable, *launch, "-m", "grpo", "bench", "--config", str(config), "--json", "--steps", str(steps)]
    return last_line([*command, *settings])


def last_line(command: list[str]) -> dict:
    """Run a command that prints JSON last. Raises SystemExit with what it said where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nfailed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def row(name: str, results: dict[str, dict]) -> str:
    """A line of the table."""
    result = results[name]
    median = {key: statistics.median(value) for key, value in result.items() if isinstance(value, list)}
    low, high = min(result["seconds"]), max(result["seconds"])
    cells = [f"{median['seconds']:.2f} [{low:.2f}, {high:.2f}]"]
    rates = [
        median[f"{part}_seconds"] and median["tokens"] / median[f"{part}_seconds"] for part in ("sampling", "update")
    ]
    cells += [f"{rate:.0f}" if rate else "" for rate in rates]
    shares = [f"{result[f'{p}_limit_seconds'] / median[f'{p}_seconds']:.0%}" for p in ("sampling", "update")
              if f"{p}_limit_seconds" in result]  # fmt: skip
    model, _, dtype = name.split()[:3]
    peer = results.get(f"{model} trl {dtype}", {}).get("seconds")
    ratio = f"{statistics.median(peer) / median['seconds']:.2f}" if peer else ""
    cells += [", ".join(shares), f"{result['peak_gb']:.2f}", ratio]
    return f"| {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
