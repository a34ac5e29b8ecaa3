"""`grpo bench`: how fast a training step is here, its memory, and how far both are from this machine's limits.

Every step samples P x G completions, gives them random rewards and learns from them: `sample_groups` and `update` as in
training, without reward functions or files. The limit is the time that the model's matrix products alone would take, at
the shapes of the step and the best of the ways to compute them (`limits`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import build_prompt, load_problems
from grpo.config import Config
from grpo.distributed import everyones, gather_weights, is_sharded, shard, share
from grpo.experience import Batch, check_lengths
from grpo.log import progress
from grpo.optim import Optimizer
from grpo.policy import Policy, load_policy
from grpo.products import Linear, packed, product
from grpo.sampling import sample_groups
from grpo.trainer import update
from grpo.types import concat_rollouts


def bench(config: Config, steps: int = 3, warmup: int = 1) -> dict:
    """Time `steps` training steps after `warmup` others. Seconds, tokens a second, GB; lists hold one item a step."""
    problems = load_problems(config.data, config.seed)[: config.grpo.prompts_per_step]
    sharded = is_sharded(config.parallel)
    policy = load_policy(config.model, config.seed, sharded)
    prompts = [build_prompt(p, policy.tokenizer, config.prompt) for p in problems]
    check_lengths(policy, prompts, config.sampling.max_new_tokens)
    if config.loss.beta:
        policy.freeze_reference()
    if sharded:
        shard(policy.model, policy.dtype)
    optimizer = Optimizer(policy.trainable(), config.optim, steps + warmup)
    size, ids = config.grpo.group_size, [p.id for p in problems]
    tokens, sampling, updating, gaps = [], [], [], []
    with progress(total=steps + warmup, desc="bench", unit="step") as bar:
        for step in range(steps + warmup):
            started = _now(policy)
            gather_weights(policy.model)
            mine = share(len(prompts))
            own = [p.ids for p in prompts[mine]]
            parts = everyones(sample_groups(policy, own, ids[mine], size, config.sampling, config.seed, step))
            rollouts = concat_rollouts(parts)
            sampled = _now(policy)
            scores = torch.rand(len(rollouts), 1, generator=torch.Generator().manual_seed(step))
            batch = Batch(rollouts, scores, {})
            gaps.append(update(config, policy, optimizer, batch, torch.ones(1), step)["sampler_gap"])
            tokens.append(int(rollouts.mask.sum()))
            sampling.append(sampled - started)
            updating.append(_now(policy) - sampled)
            bar.update()
    peak = peak_memory(policy)  # before the products of `limits`, which are larger than any of a step
    typical = int(statistics.median(tokens[warmup:]))
    sample_limit, update_limit = limits(policy, len(rollouts), config, sum(len(p.ids) for p in prompts), typical)
    return {
        "tokens": tokens[warmup:],
        "prompt_tokens": [len(p.ids) for p in prompts],
        "seconds": [a + b for a, b in zip(sampling, updating, strict=True)][warmup:],
        "sampling_seconds": sampling[warmup:],
        "update_seconds": updating[warmup:],
        "sampling_limit_seconds": sample_limit,
        "update_limit_seconds": update_limit,
        "sampler_gap": max(gaps),
        "peak_gb": peak,
        "threads": torch.get_num_threads(),
    }


def table(result: dict) -> str:
    """The figures of one run, a line each."""
    seconds, tokens = statistics.median, statistics.median(result["tokens"])
    lines = [f"{'':10} {'seconds':>9} {'tokens/s':>9} {'of limit':>9}"]
    for name in ("sampling", "update"):
        took = seconds(result[f"{name}_seconds"])
        share = result[f"{name}_limit_seconds"] / took
        lines.append(f"{name:10} {took:9.2f} {tokens / took:9.1f} {share:9.0%}")
    took = seconds(result["seconds"])
    lines.append(f"{'step':10} {took:9.2f} {tokens / took:9.1f}")
    low, high = min(result["seconds"]), max(result["seconds"])
    lines.append(f"steps {low:.2f} to {high:.2f} s; peak memory {result['peak_gb']:.2f} GB; ")
    lines[-1] += f"sampler_gap {result['sampler_gap']:.1e} nats; {result['threads']} threads"
    return "\n".join(lines)


def peak_memory(policy: Policy) -> float:
    """GB (10^9 bytes) that this process, or its GPU, has held at most."""
    if policy.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _now(policy: Policy) -> float:
    if policy.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


# ---- the machine's limits -----------------------------------------------------------------------------------


def limits(policy: Policy, rows: int, config: Config, prompt_tokens: int, tokens: int) -> tuple[float, float]:
    """Least seconds of sampling and of the update, by matrix products alone.

    Sampling multiplies `rows` rows at a time, once per token. The update forwards the micro-batches (twice with a
    reference) and multiplies each weight twice more on the way back.
    """
    rows = min(rows, config.sampling.max_rows)
    decode = {m: product_seconds(m, rows) for m in policy.model.modules() if isinstance(m, nn.Linear)}
    batch = min(config.tokens_per_micro_batch, tokens + prompt_tokens)
    train = {m: product_seconds(m, batch) for m in decode}
    body, head = sum(s for m, s in train.items() if m is not policy.head), train[policy.head]
    passes = 4 if config.loss.beta else 3
    learning = passes * (body * (tokens + prompt_tokens) + head * tokens) / batch
    return sum(decode.values()) * tokens / rows, learning


def product_seconds(linear: nn.Linear, rows: int) -> float:
    """Seconds of one product of `rows` rows with the layer's weight: the best of the ways at hand."""
    x = torch.randn(rows, linear.in_features, device=linear.weight.device, dtype=linear.weight.dtype)
    with torch.no_grad():
        ways = [_median_seconds(lambda: F.linear(x, linear.weight), x)]
        ways.append(_median_seconds(lambda: product(x, linear.weight), x))
        if isinstance(linear, Linear):
            with packed(nn.Sequential(linear)):
                ways.append(_median_seconds(lambda: linear(x), x))
    return min(ways)


def _median_seconds(work: Callable[[], Tensor], x: Tensor, repeats: int = 5) -> float:
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if x.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])
