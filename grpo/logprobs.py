"""Teacher-forced log-probs of sampled completions, on the same shared-prefix path as sampling.

    logp_it = log softmax(z_it / temperature)[o_it]        z: logits; the temperature that the tokens were sampled at

Each prompt is forwarded once per micro-batch, with gradient, and its completions run on the replicated cache. The
head touches completion tokens only, a chunk at a time, and each chunk's logits are computed again in the backward
pass: no [B, T, V] tensor exists.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from grpo.policy import Policy
from grpo.prefix import extend, prefill
from grpo.types import Rollouts

CHUNK_LOGITS = 1 << 24  # logits held at a time: 64 MiB of fp32, whatever the vocabulary


def completion_logps(policy: Policy, rollouts: Rollouts, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-prob of each sampled token, and the entropy of the distribution that it was drawn from.

    Returns logps [B, T] with gradient (where autograd is on) and entropy [B, T] without, both fp32 in nats, 0 where
    the mask is false.
    """
    mask = rollouts.mask.to(policy.device)  # [B, T]
    ids = rollouts.completion_ids.to(policy.device)  # [B, T]
    prefix = prefill(policy, rollouts.prompts).rows(rollouts.prompt_index.to(policy.device))
    inputs = torch.cat([prefix.last[:, None], ids[:, :-1]], dim=1)  # [B, T]: the token before each completion token
    # completions are padded on the right, where causal attention already keeps the padding out
    attend = torch.cat([prefix.mask, torch.ones_like(inputs)], dim=1)  # [B, L + T]
    hidden = extend(policy, prefix, inputs, attend, start=prefix.mask.sum(dim=1))  # [B, T, D]

    logps, entropy = token_logps(policy, hidden[mask], ids[mask], temperature)  # [M] each, M = mask.sum()
    empty = torch.zeros(mask.shape, device=policy.device)
    return empty.masked_scatter(mask, logps), empty.masked_scatter(mask, entropy)


def token_logps(policy: Policy, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log softmax(head(hidden) / temperature)[target] and the entropy, in chunks.

    hidden: [M, D], targets: [M]. Returns two tensors [M].
    """

    def one_chunk(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logps = (policy.logits(hidden) / temperature).log_softmax(dim=-1)  # [C, V] fp32
        entropy = -(logps.detach().exp() * logps.detach()).sum(dim=-1)  # [C]
        return logps.gather(-1, targets[:, None]).squeeze(-1), entropy

    chunk = max(1, CHUNK_LOGITS // policy.model.config.vocab_size)
    parts = [
        checkpoint(one_chunk, h, t, use_reentrant=False) if torch.is_grad_enabled() else one_chunk(h, t)
        for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True)
    ]
    logps, entropy = zip(*parts, strict=True)
    return torch.cat(logps), torch.cat(entropy)
