"""What SFT costs with all weights and with LoRA: numbers trained, seconds a step and memory, on SmolLM2-135M-Instruct.

    python -m experiments.sft_cost [--model FOLDER_OR_HUB_ID]

Each arm of experiments/ablations/sft.yaml runs `grpo sft` on SVAMP for a few steps, in a process of its own, twice, in
turns. The first step is not counted. The peak is that of the whole process: Python and its libraries, the model's
loading and saving included. The machine should do nothing else. Writes experiments/results/sft_cost.json; the table is
on docs/findings/sft.md (`python -m experiments.pages`).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments.lab.plan import read_plan
from experiments.lab.results import numbers, where_from
from grpo.results.curve import read_rows

HERE = Path(__file__).parent
STEPS, ROWS, ROUNDS = 4, 4, 2
CONFIG = "experiments/svamp/sft.yaml"
SHORT = [f"sft.steps={STEPS}", f"sft.batch_size={ROWS}", "eval.data.count=2", "eval.samples=1", "eval.pass_at=[1]",
         "sampling.max_new_tokens=8", "model.device=cpu"]  # fmt: skip
"""The evaluation at the end is not measured: its sizes are the smallest."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "sft_cost.json")
    arguments = parser.parse_args()
    plan = read_plan(HERE / "ablations" / "sft.yaml")
    arms: dict[str, dict[str, Any]] = {name: {"seconds": [], "gb": []} for name in plan.variants}
    for _ in range(ROUNDS):
        for name, settings in plan.variants.items():
            with tempfile.TemporaryDirectory() as folder:
                one = measured([f"model.path={arguments.model}", *(settings or {}).get("sft", [])], Path(folder))
            arms[name]["trained"] = one["trained"]
            arms[name]["seconds"] += one["seconds"]
            arms[name]["gb"].append(one["gb"])
            print(f"{name:20} {one['trained']:>12,} numbers  {one['gb']:.2f} GB  {one['seconds']} s", flush=True)
    command = "python -m experiments.sft_cost"
    found = {"command": command, **where_from(), "threads": threads(), "rows": ROWS, "arms": arms}
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")


def measured(settings: list[str], folder: Path) -> dict[str, Any]:
    """Numbers trained, the seconds of each step but the first, and GB at the peak. Exits where the run fails."""
    words = [sys.executable, "-m", "grpo", "sft", "--config", CONFIG, f"run={folder / 'run'}", *SHORT, *settings]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(words, cwd=HERE.parent, stdout=log, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{shlex.join(words[1:])}\n{(folder / 'log').read_text()[-2000:]}")
    seconds = [round(row["seconds"], 3) for row in read_rows(folder / "run" / "metrics.jsonl")][1:]
    weights = next((folder / "run" / "model").glob("*.safetensors"))
    return {"trained": numbers(weights), "seconds": seconds, "gb": round(used.ru_maxrss * 1024 / 1e9, 3)}


def threads() -> int:
    """Of each process: what OMP_NUM_THREADS says, else one for each core that it may use."""
    return int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))


if __name__ == "__main__":
    main()
