"""What a process holds at most during an update: one process, two with all weights each (ddp), two with shards (fsdp).

    .venv/bin/python experiments/launch/memory.py [--dtype bfloat16] [--layers 10] [--width 1024]

A random Llama of 185 million parameters takes supervised steps on a few tokens, so that weights, gradients and the
optimiser's moments are nearly all that there is. A step of GRPO without KL holds the same; its reference is one more
set of weights. The peak is that of the kernel (VmHWM), reset before the second step, without what the process held
before it made the model. Linux only. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from data.embedded.tiny_model import build_tokenizer
from grpo.distributed import all_gather, process_group, rank
from grpo.model.compute import compute_in
from grpo.model.optim import OptimConfig, Optimizer
from grpo.model.policy import Policy
from grpo.sampling import sample_groups
from grpo.sft import as_rollouts, sft_step
from grpo.types import SamplingConfig

VOCABULARY = 8192
RUNS = {"one process": (1, "ddp"), "each of two, `ddp`": (2, "ddp"), "each of two, `fsdp`": (2, "fsdp")}


def held(key: str) -> float:
    """GB of main memory that this process holds now (VmRSS) or held at most (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(key)) * 1024 / 1e9


def peak(work: object, before: float) -> float:
    """The most that is held during the work, beyond `before`."""
    Path("/proc/self/clear_refs").write_text("5")
    work()
    return held("VmHWM") - before


def random_policy(layers: int, width: int, dtype: torch.dtype) -> Policy:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, tie_word_embeddings=False, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    compute_in(model, dtype)
    return Policy(model, build_tokenizer(), [1], "random", dtype)


def measure(layers: int, width: int, dtype: torch.dtype, parallel: str) -> dict[str, float]:
    before = held("VmRSS")
    policy = random_policy(layers, width, dtype)
    parameters = sum(p.numel() for p in policy.parameters())
    policy.start_training(parallel)
    optimizer = Optimizer(policy.trainable(), OptimConfig(), 3, policy.masters)
    batch = as_rollouts([(list(range(3, 11)), list(range(11 + i, 27 + i))) for i in range(4)])
    sft_step(policy, optimizer, batch, 60, 0)  # the first makes AdamW's moments
    update = peak(lambda: sft_step(policy, optimizer, batch, 60, 1), before)
    figures = {"parameters": parameters / 1e6, "update": update, "between": held("VmRSS") - before}
    for policy.by_layer in (False, True):
        figures["by layer" if policy.by_layer else "sampling"] = peak(lambda: sample(policy), before)
    return figures


def sample(policy: Policy) -> None:
    with policy.ready_to_sample():
        sample_groups(policy, [[5, 6, 7]], ["p"], 4, SamplingConfig(max_new_tokens=8), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--parallel", choices=["ddp", "fsdp"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.parallel:  # one of the processes that are measured
        torch.set_num_threads(1)
        with process_group("cpu"):
            mine = measure(options.layers, options.width, getattr(torch, options.dtype), options.parallel)
            every = all_gather(mine)
            if rank() == 0:
                print(json.dumps({key: max(one[key] for one in every) for key in mine}))
        return
    print(f"{options.layers} layers of width {options.width}, {options.dtype}; GB in the larger of the processes\n")
    print("| | million parameters | update, peak | between | sampling, peak | by layer |\n|---|---|---|---|---|---|")
    for name, (processes, parallel) in RUNS.items():
        run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", __file__]
        words = [*run, *sys.argv[1:], "--parallel", parallel]
        # glibc would keep freed blocks of these sizes for itself; so they go back to the system, and do not count
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}
        out = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        figures = json.loads(out.splitlines()[-1])
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in figures.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
