"""Teacher-forced log-probs of sampled completions, on the same way through the model as sampling.

    logp_it = log softmax(z_it / temperature)[o_it]        z: logits; the temperature that the tokens were sampled at

A prompt is forwarded once per micro-batch, with gradient, and its completions attend to it, where the model allows that
(`model/shared_prefix.py`; the others take `model/whole_rows.py`). The head touches completion tokens only, a chunk at a
time, and each chunk's logits are computed again in the backward pass: no [B, T, V] tensor exists.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grpo.distributed import all_reduce
from grpo.model.batching import my_micro_batches
from grpo.model.policy import Policy
from grpo.types import Rollouts

CHUNK_LOGITS = 6 << 20
"""Logits held at a time, whatever the vocabulary: 24 MiB of fp32, which a processor's cache holds; ten times as many on
a GPU, where a small matmul is a slow one."""


def completion_logps(policy: Policy, rollouts: Rollouts, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-prob of each sampled token, and the entropy of the distribution that it was drawn from.

    Returns logps [B, T] and entropy [B, T], both with gradient (where autograd is on), fp32 in nats, on the CPU, 0
    where the mask is false. The entropy of a model without trainable parameters is not computed: it is 0.
    """
    mask = rollouts.mask.to(policy.device)  # [B, T]
    hidden = policy.completion_states(rollouts)  # [M, D], M = mask.sum()
    targets = rollouts.completion_ids[rollouts.mask].to(policy.device)  # [M]
    logps, entropy = token_logps(policy, hidden, targets, temperature)  # [M] each
    empty = torch.zeros(mask.shape, device=policy.device)
    return empty.masked_scatter(mask, logps).cpu(), empty.masked_scatter(mask, entropy).cpu()


@torch.no_grad()
def logps_without_grad(
    policy: Policy, rollouts: Rollouts, temperature: float, tokens: int, cut: list[Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The same without gradient, in micro-batches of `tokens`, by all processes together: [N, T] each.

    The policy is the one that is trained, or the frozen reference. cut: rows [n] of mini-batches, so that each is
    computed as it will be with gradient; rows in none of them stay 0. None: all rows together.
    """
    both = torch.zeros(2, *rollouts.mask.shape)
    for mini in [torch.arange(len(rollouts))] if cut is None else cut:
        for rows, micro in my_micro_batches(rollouts.select(mini), tokens, policy.passes.prompts_shared):
            both[:, mini[rows], : micro.mask.shape[1]] += torch.stack(completion_logps(policy, micro, temperature))
    return tuple(all_reduce(both))


def token_logps(policy: Policy, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log softmax(head(hidden) / temperature)[target] and the entropy, in chunks.

    hidden: [M, D], targets: [M]. Returns two tensors [M].
    """
    with_entropy = bool(policy.trainable())  # that of a frozen model is of no interest
    return _TokenLogps.apply(
        hidden, policy.head.weight, policy.head.bias, policy.current_head(), targets, temperature, with_entropy
    )


class _TokenLogps(torch.autograd.Function):
    """The head and its log-softmax with the gradient written out, so that no logits outlive their chunk.

        logp = z_target - lse                          z: logits / temperature, lse = log sum_k exp z_k
        d logp / d z = onehot(target) - p              p = exp(z - lse)
        H = lse - sum_k p_k z_k                        entropy
        d H / d z = - p (log p + H)

    Forward a chunk of tokens at a time, backward a slice of the vocabulary: there each weight is touched once.
    hidden [M, D], weight [V, D], bias [V] or None, targets [M]; the gradients that come in are [M] each, or None.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, head, targets, temperature, with_entropy):
        logps, entropy, lse = torch.zeros(3, len(hidden), device=hidden.device)  # [M] each
        chunks = _slices(len(hidden), len(weight), hidden.device)
        # room for a chunk, used again: to get that memory again each time takes longer than to fill it
        room = hidden.new_empty(2, len(hidden[chunks[0]]) if chunks else 0, len(weight), dtype=torch.float32)
        for rows in chunks:
            z, p = room[:, : len(hidden[rows])]  # [C, V] each
            z = head.logits(hidden[rows], out=z)
            z = z if temperature == 1 else z.div_(temperature)
            z_target = z.gather(-1, targets[rows, None]).squeeze(-1)
            torch.softmax(z, dim=-1, out=p)
            top, log_top = z.amax(dim=-1), p.amax(dim=-1).log()
            lse[rows] = top - log_top  # as log max_k p_k = max_k z_k - lse
            logps[rows] = z_target - top + log_top  # in this order: the difference is small, lse is not
            if with_entropy:
                entropy[rows] = lse[rows] - p.mul_(z).sum(dim=-1)  # - sum p log p, with log p = z - lse
        ctx.save_for_backward(hidden, weight, bias, targets, lse, entropy)
        ctx.head, ctx.temperature = head, temperature
        ctx.set_materialize_grads(False)  # None, where the entropy is only logged
        return logps, entropy

    @staticmethod
    def backward(ctx, d_logps, d_entropy):
        (hidden, weight, bias, targets, lse, entropy), head = ctx.saved_tensors, ctx.head
        x = hidden.float()  # [M, D]
        g = (torch.zeros_like(lse) if d_logps is None else d_logps) / ctx.temperature  # [M]: of log-probs
        g_entropy = None if d_entropy is None else d_entropy / ctx.temperature  # [M]: of entropies
        d_hidden = torch.zeros_like(x)
        d_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        d_bias = torch.empty_like(bias) if ctx.needs_input_grad[2] else None
        row = torch.arange(len(x), device=x.device)
        for words in _slices(len(weight), len(x) * (1 if g_entropy is None else 2), x.device):  # S of the V words
            z = head.logits(hidden, words)  # [M, S]
            capped = z if head.cap is None else z.clone()
            z = z if ctx.temperature == 1 else z.div_(ctx.temperature)
            log_p = z.sub_(lse[:, None])
            if g_entropy is None:
                d_z = log_p.exp_().mul_(-g[:, None])
            else:
                d_z = log_p.exp().mul_(log_p.add_(entropy[:, None]).mul_(-g_entropy[:, None]).sub_(g[:, None]))
            here = (targets - words.start).clamp(0, z.shape[1] - 1)  # [M]
            d_z[row, here] += g * (here == targets - words.start)
            d_z = head.through_cap(d_z, capped)
            with head.gradient_precision():
                d_hidden.addmm_(d_z, weight[words])
                if d_weight is not None:
                    torch.mm(d_z.t(), x, out=d_weight[words])
            if d_bias is not None:
                d_bias[words] = d_z.sum(dim=0)
        return d_hidden.to(hidden.dtype), d_weight, d_bias, None, None, None, None


def _slices(length: int, width: int, device: torch.device) -> list[slice]:
    """Cut `length` rows or columns so that each piece, `width` numbers a row, holds at most CHUNK_LOGITS."""
    size = max(1, CHUNK_LOGITS * (1 if device.type == "cpu" else 10) // max(1, width))
    return [slice(first, first + size) for first in range(0, length, size)]
