"""`grpo bench`: seconds, tokens a second and peak memory of a training step on this machine.

Each step samples P x G completions, gives them random rewards and learns from them: `sample_groups` and `update` as in
training, without reward functions or files. The first step is not counted.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch import nn

from data import load_problems
from grpo.distributed import all_gather, rank_slice, world_size
from grpo.experience import Batch, make_prompts
from grpo.model.optim import Optimizer
from grpo.model.policy import Policy, load_policy
from grpo.runs.config import Config
from grpo.runs.log import progress
from grpo.sampling import sample_groups
from grpo.trainer import needs_old_values, update
from grpo.types import Rollouts, concat_rollouts

PEAKS = {"H100 80GB HBM3": (989, 67), "H200": (989, 67), "A100-SXM4-80GB": (312, 19.5), "L4": (121, 30)}
"""TFLOP/s of dense matmuls in bf16 and in fp32, by the name of the card."""


def bench(config: Config, steps: int = 3, warmup_tokens: int = 0) -> dict:
    """Time `steps` steps after one that is not counted; lists in the result hold one number a step.

    warmup_tokens: length limit of the completions of the step that is not counted; 0: that of the others.
    """
    problems = load_problems(config.data, config.seed)[: config.grpo.prompts_per_step]
    policy = load_policy(config.model, config.seed, training=True, parallel=config.parallel)
    prompts = make_prompts(config, policy, problems)
    if config.loss.beta:
        policy.freeze_reference()
    policy.start_training(config.parallel, config.by_layer("grpo"))
    optimizer, device = Optimizer(policy.trainable(), config.optim, steps + 1, policy.masters), policy.device
    mine = rank_slice(len(problems))  # what this process samples
    ids, token_ids = [p.id for p in problems[mine]], [p.ids for p in prompts[mine]]
    first = replace(config.sampling, max_new_tokens=warmup_tokens or config.sampling.max_new_tokens)
    rows = []
    for step in progress(range(steps + 1), desc="bench", unit="step"):
        started, sampling = now(device), config.sampling if step else first
        with policy.ready_to_sample():
            how = config.grpo.group_size, sampling, config.seed, step
            mine = [sample_groups(policy, token_ids, ids, *how)] if ids else []
        rollouts = concat_rollouts([some for process in all_gather(mine) for some in process])
        sampled = now(device)
        rewards = torch.rand(len(rollouts), 1, generator=torch.Generator().manual_seed(step))
        metrics = update(config, policy, optimizer, Batch(rollouts, rewards, {}), torch.ones(1), step)
        seconds = now(device) - started
        flops = matmul_flops(policy, rollouts, config)
        rows.append({"tokens": int(rollouts.mask.sum()), "seconds": seconds, "sampling_seconds": sampled - started,
                     "update_seconds": seconds - (sampled - started), "tflops": flops / seconds / 1e12,
                     "sampler_gap": metrics["sampler_gap"]})  # fmt: skip
    result, card = {name: [row[name] for row in rows[1:]] for name in rows[0]}, processor(device)
    peaks = PEAKS.get(card.removeprefix("NVIDIA "))
    peak = peaks and peaks[policy.dtype == torch.float32] * world_size()
    result["peak_share"] = peak and median(result["tflops"]) / peak
    return result | {"peak_gb": peak_memory(device), "threads": torch.get_num_threads(), "processor": card}


def matmul_flops(policy: Policy, rollouts: Rollouts, config: Config) -> int:
    """Operations of a step's matmuls with weights; attention's own, and a mixture's experts, are not counted.

    A weight costs a token 2 when it is sampled, 2 in the reference, and in each update 2 forward, 4 backward (2 where
    it is frozen) and 2 to recompute. The body sees a prompt once for its group; the head sees completions alone.
    """
    completions, prompts = int(rollouts.mask.sum()), sum(len(p) - 1 for p in rollouts.prompts)
    head, total = policy.head.weight, 0
    embeddings = {id(m.weight) for m in policy.model.modules() if isinstance(m, nn.Embedding)}
    for p in policy.model.parameters():
        if p.ndim == 2 and (p is head or id(p) not in embeddings):
            again = p is head or config.model.recompute == "full"  # `logprobs.py` computes all logits twice
            an_update = 4 + 2 * p.requires_grad + 2 * again
            passes = 2 + 2 * bool(config.loss.beta) + 2 * needs_old_values(config)  # without gradient
            a_token = passes + config.grpo.updates_per_batch * an_update
            total += p.numel() * a_token * (completions if p is head else completions + prompts)
    return total


def table(result: dict) -> str:
    """The medians of one run, a line each."""
    tokens, share = median(result["tokens"]), result["peak_share"]
    lines = [f"{'':10} {'seconds':>9} {'tokens/s':>9}"]
    for name, key in (("sampling", "sampling_seconds"), ("update", "update_seconds"), ("step", "seconds")):
        lines.append(f"{name:10} {median(result[key]):9.2f} {tokens / median(result[key]):9.1f}")
    speed = f"{median(result['tflops']):.3g} TFLOP/s" + (f", {share:.1%} of the card's peak" if share else "")
    lines.append(f"steps {min(result['seconds']):.2f} to {max(result['seconds']):.2f} s; {speed}")
    lines.append(f"peak memory {result['peak_gb']:.2f} GB; sampler_gap {max(result['sampler_gap']):.1e} nats")
    return "\n".join([*lines, f"{result['processor']}; {result['threads']} threads"])


def now(device: torch.device) -> float:
    """Seconds on a clock that waits for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory(device: torch.device) -> float:
    """GB (10^9 bytes) that this process has held at most, on the GPU or in memory; NaN where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")  # getrusage would count what the parent held when it started this process
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 / 1e9 if found else float("nan")


def processor(device: torch.device) -> str:
    """The name of the GPU, or of the CPU with its widest instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.+)", text)
    return f"{name[1] if name else 'CPU'}, {'AMX' if 'amx_bf16' in text else torch.backends.cpu.get_cpu_capability()}"
