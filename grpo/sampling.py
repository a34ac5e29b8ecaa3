"""THE group-sampling loop: G completions of each prompt, drawn token by token.

    compute each prompt once -> for all completions of its group repeat:
        logp = log softmax(z / temperature)        z: logits of the last token; no top-k, and no top-p in training
        token = smallest k with  sum_{j <= k} p_j > u
        a row that drew an end-of-sequence token, or has written a stop string, leaves the batch

u is one uniform number per token, a function of (seed, step, problem, sample index, position) and of nothing else.
So what is sampled does not depend on which rows share a batch, on when finished rows leave it, or on how many
processes the work is spread over, up to rounding: in fp32 another token is very rare, in bfloat16 it is not.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from grpo.model.graphs import Replayed
from grpo.model.policy import Policy
from grpo.types import Rollouts, SamplingConfig, concat_rollouts

BLOCK = 256  # tokens of the vocabulary that are summed before one of them is looked for


def uniforms(seed: int, step: int, problem: str, sample: int, count: int) -> np.ndarray:
    """The random numbers of one completion: [count] in [0, 1), from a counter-based generator."""
    name = f"{seed}/{step}/{problem}/{sample}".encode()
    key = int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key)).random(count)


def sample_groups(
    policy: Policy,
    prompts: list[list[int]],
    problem_ids: list[str],
    group_size: int,
    config: SamplingConfig,
    seed: int,
    step: int = 0,
) -> Rollouts:
    """Sample `group_size` completions of each prompt.

    prompts: [P] lists of token ids; problem_ids: [P] names that, with seed and step, fix the random numbers.
    Returns Rollouts with N = P * group_size rows, groups adjacent and in the order of the prompts.
    """
    per_chunk = max(1, config.max_rows // group_size)
    chunks = []
    for first in range(0, len(prompts), per_chunk):
        some = slice(first, first + per_chunk)
        names = [(p, s) for p in problem_ids[some] for s in range(group_size)]
        draws = np.stack([uniforms(seed, step, p, s, config.max_new_tokens) for p, s in names])  # [N, T]
        chunks.append(_sample_chunk(policy, prompts[some], group_size, config, torch.from_numpy(draws)))
    return concat_rollouts(chunks)


@torch.no_grad()
def _sample_chunk(
    policy: Policy, prompts: list[list[int]], group_size: int, config: SamplingConfig, draws: Tensor
) -> Rollouts:
    """Decode one batch of groups together. draws: [N, T] uniforms."""
    device, (n, limit) = policy.device, draws.shape
    prompt_index = torch.arange(len(prompts), device=device).repeat_interleave(group_size)  # [N]
    completion_ids = torch.zeros(n, limit, dtype=torch.long, device=device)
    mask = torch.zeros(n, limit, dtype=torch.bool, device=device)
    logps = torch.zeros(n, limit, device=device)
    eos, draws = torch.tensor(policy.eos_ids, device=device), draws.to(device)

    alive = torch.arange(n, device=device)  # [A]: the rows in the batch
    going = torch.ones(n, dtype=torch.bool, device=device)  # [A]: those of them that have not ended yet
    cache = policy.start_decoding(prompts, group_size, limit)
    token = torch.tensor([prompt[-1] for prompt in prompts], device=device)[prompt_index]  # [A]
    slot, head = torch.zeros(1, dtype=torch.long, device=device), policy.current_head()

    def step() -> None:
        """A token of each row. It reads and writes tensors that stay where they are, so that a graph may replay it."""
        hidden = policy(token, cache)  # [A, D]
        drawn, logp = draw(head.logits(hidden), config.temperature, draws[alive, slot], config.top_p)  # [A], [A]
        here = alive, slot
        completion_ids[here], logps[here], mask[here] = drawn * going, logp * going, going
        going.logical_and_((drawn[:, None] != eos).all(dim=1))  # what ended a row was sampled, so it is in the mask
        token.copy_(drawn)
        slot.add_(1)

    one_more = Replayed(step, policy, cache)
    # a GPU waits for whoever looks at its numbers, and rows that leave cost it a new graph
    every, most = (1, 3 / 4) if device.type == "cpu" else (8, 1 / 2)
    for t in range(limit):
        one_more()
        if config.stop:
            going &= ~has_stop(policy, completion_ids[alive, : t + 1], config.stop)
        if (t + 1) % every:
            continue
        left = int(going.sum())
        if not left:
            break
        if left <= len(alive) * most:  # to let rows leave costs a copy of the cache
            rows = going.nonzero().squeeze(1)
            cache.keep(rows)
            alive, going, token = alive[rows], going[rows], token[rows]
    if not logps.isfinite().all():  # once per batch: a check per token would wait for the device each time
        raise ValueError("the model's logits are NaN or infinite: it has diverged; lower optim.lr or start again")
    truncated = torch.zeros(n, dtype=torch.bool, device=device)
    truncated[alive] = going
    width = max(int(mask.sum(dim=1).max()), 1)
    index = prompt_index.cpu()
    cut = [x[:, :width].cpu() for x in (completion_ids, mask, logps)]
    return Rollouts(prompts, index, *cut, truncated.cpu())


def has_stop(policy: Policy, ids: Tensor, stop: tuple[str, ...]) -> Tensor:
    """Which rows have just written a stop string, bool [A]. ids: [A, t], the tokens so far."""
    most = max(len(text.encode()) for text in stop)  # a token is a byte or more, so these hold one that has just ended
    texts = policy.tokenizer.batch_decode(ids[:, -most:], clean_up_tokenization_spaces=False)
    return torch.tensor([any(one in text for one in stop) for text in texts], device=ids.device)


def draw(logits: Tensor, temperature: float, u: Tensor, top_p: float = 1.0) -> tuple[Tensor, Tensor]:
    """One token per row by inverse transform sampling, and its log-prob, which is of all tokens whatever top_p.

    logits: [A, V] fp32; u: [A] in [0, 1). Temperature 0 takes the most likely token (log-prob at temperature 1).
    """
    p = (logits if temperature in (0, 1) else logits / temperature).softmax(dim=-1)  # [A, V]
    token = logits.argmax(dim=-1) if temperature == 0 else inverse_cdf(p if top_p == 1 else nucleus(p, top_p), u)
    return token, p.gather(-1, token[:, None]).squeeze(-1).log()


def nucleus(p: Tensor, top_p: float) -> Tensor:
    """p [A, V] with 0 for all but the most likely tokens, as few as have the probability top_p together."""
    ordered, token = p.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered  # [A, V] the probability of all that are more likely
    return torch.zeros_like(p).scatter(-1, token, ordered * (before < top_p))


def inverse_cdf(p: Tensor, u: Tensor) -> Tensor:
    """The smallest k with sum_{j <= k} p_j > u sum_j p_j, for each row of p [A, V] and u [A]; [A].

    First the block of the vocabulary that holds it, then its place there. The sums that decide are fp64, in which no
    tail is lost, but no [A, V] tensor is: that would take longer than the rest of the step.
    """
    size = min(BLOCK, p.shape[1])
    blocks = F.pad(p, (0, -p.shape[1] % size)).view(len(p), -1, size)  # [A, V / size, size]
    sums = blocks.sum(dim=-1).double()
    ends = sums.cumsum(dim=-1)  # [A, V / size]
    target = u[:, None] * ends[:, -1:]  # [A, 1]
    block = torch.searchsorted(ends, target, right=True).clamp_(max=ends.shape[1] - 1)  # NaN would be beyond the end
    inside = blocks.take_along_dim(block[..., None], dim=1)[:, 0].double().cumsum(dim=-1)  # [A, size]
    share = (target - (ends - sums).gather(1, block)) / sums.gather(1, block)
    place = torch.searchsorted(inside, share * inside[:, -1:], right=True)
    return (block * size + place).squeeze(1).clamp_(max=p.shape[1] - 1)
