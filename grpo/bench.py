"""`grpo bench`: how fast a training step is here, its memory, and how far both are from this machine's limits.

Every step samples P x G completions, gives them random rewards and learns from them: `sample_groups` and `update` as in
training, without reward functions or files. The limit is the time that this machine needs at least, by two measurements
(`limits`): that of the model's matrix products at the shapes of the step, by the best of the ways to compute them, and
that of reading memory, for the keys that decoding and the moments that the optimiser go through.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import build_prompt, load_problems
from grpo.experience import Batch, check_lengths
from grpo.model.distributed import all_gather, gather_weights, is_sharded, rank_slice, shard
from grpo.model.optim import Optimizer
from grpo.model.policy import Policy, load_policy
from grpo.products import pack_weight, product, product_packed
from grpo.runs.config import Config
from grpo.runs.log import progress
from grpo.sampling import sample_groups
from grpo.trainer import update
from grpo.types import Rollouts, concat_rollouts


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
            mine = rank_slice(len(prompts))
            own = [p.ids for p in prompts[mine]]
            parts = all_gather(sample_groups(policy, own, ids[mine], size, config.sampling, config.seed, step))
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
    speed = bandwidth(policy.device)
    sample_limit, update_limit = limits(policy, rollouts, config, typical, speed)
    return {
        "tokens": tokens[warmup:],
        "prompt_tokens": [len(p.ids) for p in prompts],
        "seconds": [a + b for a, b in zip(sampling, updating, strict=True)][warmup:],
        "sampling_seconds": sampling[warmup:],
        "update_seconds": updating[warmup:],
        "sampling_limit_seconds": sample_limit,
        "update_limit_seconds": update_limit,
        "bandwidth_gb_per_second": speed / 1e9,
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
    lines[-1] += f"sampler_gap {result['sampler_gap']:.1e} nats; {result['threads']} threads; "
    lines[-1] += f"memory read at {result['bandwidth_gb_per_second']:.0f} GB/s"
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


def limits(policy: Policy, rollouts: Rollouts, config: Config, tokens: int, speed: float) -> tuple[float, float]:
    """Least seconds of sampling and of the update, of `tokens` completion tokens in a step. speed: bytes a second.

    Sampling multiplies all rows at a time, once per token, and reads the keys and values of what came before. The
    update forwards the micro-batches (twice with a reference), multiplies each weight twice more on the way back, and
    goes through parameter, gradient and AdamW's two moments: four numbers read and three written, of 4 bytes.
    """
    rows, prompt_tokens = min(len(rollouts), config.sampling.max_rows), sum(map(len, rollouts.prompts))
    decode = {m: product_seconds(m, rows) for m in policy.model.modules() if isinstance(m, nn.Linear)}
    batch = min(config.tokens_per_micro_batch, tokens + prompt_tokens)
    train = {m: product_seconds(m, batch) for m in decode}
    body, head = sum(s for m, s in train.items() if m is not policy.head), train[policy.head]
    passes = 4 if config.loss.beta else 3
    learning = passes * (body * (tokens + prompt_tokens) + head * tokens) / batch
    moments = 28 * sum(p.numel() for p in policy.trainable().values()) * config.grpo.updates_per_batch
    return sum(decode.values()) * tokens / rows + key_bytes(policy, rollouts) / speed, learning + moments / speed


def key_bytes(policy: Policy, rollouts: Rollouts) -> int:
    """Keys and values that decoding reads: at each step those of a prompt, once for its group, and of each row."""
    config, lengths = policy.model.config, rollouts.lengths
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    of_prompts = [
        len(prompt) * max(lengths[rollouts.prompt_index == number].tolist(), default=0)
        for number, prompt in enumerate(rollouts.prompts)
    ]
    tokens = sum(of_prompts) + int((lengths * (lengths + 1) // 2).sum())
    number = 4 if policy.device.type == "cpu" else policy.dtype.itemsize  # on a processor attention is fp32
    return tokens * 2 * config.num_hidden_layers * heads * size * number


def bandwidth(device: torch.device) -> float:
    """Bytes a second that are read from memory: 256 MiB, added up."""
    x = torch.ones(64 << 20, device=device)
    return x.nbytes / _median_seconds(x.sum, x)


def product_seconds(linear: nn.Linear, rows: int) -> float:
    """Seconds of one product of `rows` rows with the layer's weight: the best of the ways at hand."""
    x = torch.randn(rows, linear.in_features, device=linear.weight.device, dtype=linear.weight.dtype)
    with torch.no_grad():
        ways = [_median_seconds(lambda: F.linear(x, linear.weight), x)]
        ways.append(_median_seconds(lambda: product(x, linear.weight), x))
        packed = pack_weight(linear.weight)
        if packed is not None:
            ways.append(_median_seconds(lambda: product_packed(x, packed, None), x))
    return min(ways)


def _median_seconds(work: Callable[[], Tensor], x: Tensor, repeats: int = 5) -> float:
    """Seconds of one call; on a GPU of one among 20 in a row, as waiting takes longer than a small product."""
    times, calls = [], 20 if x.is_cuda else 1
    for _ in range(repeats + 1):
        started = time.perf_counter()
        for _ in range(calls):
            work()
        if x.is_cuda:
            torch.cuda.synchronize()
        times.append((time.perf_counter() - started) / calls)
    return statistics.median(times[1:])
