"""The shared-prefix forward pass: a prompt is computed once, however many completions continue it.

Sampling and training both go this way, so they see the same numbers:

    prompt      p_0 ... p_{L-2}  p_{L-1}
                |-- computed --|    |
    then             once        p_{L-1}  c_0  c_1 ... c_{T-2}        inputs of each completion
                                    |      |    |         |
    logits of                      c_0    c_1  c_2 ... c_{T-1}        one completion token per position

The last prompt token belongs to the completions' inputs, so that each of these predicts exactly one completion token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grpo import anymodel
from grpo.attention import Layout, attend
from grpo.cuda import send
from grpo.decoding import Decoding
from grpo.policy import Policy
from grpo.types import Rollouts


def start_decoding(
    policy: Policy, prompts: list[list[int]], group_size: int, room: int
) -> Decoding | anymodel.Decoding:
    """Compute the prompts; `step(token)` then continues `group_size` completions of each, at most `room` times."""
    _check(prompts)
    return (Decoding if policy.decoder else anymodel.Decoding)(policy, prompts, group_size, room)


def completion_states(policy: Policy, rollouts: Rollouts) -> Tensor:
    """Hidden states of the positions that predict the sampled tokens, with gradient: [M, D], M = mask.sum().

    All tokens of a micro-batch are one list, without padding: first those of the prompts, then the completions' inputs.
    """
    _check(rollouts.prompts)
    last = torch.tensor([prompt[-1] for prompt in rollouts.prompts])[rollouts.prompt_index]  # [B]
    inputs = torch.cat([last[:, None], rollouts.completion_ids[:, :-1]], dim=1)  # [B, T]
    if policy.decoder is None:
        return anymodel.completion_states(policy, rollouts, send(inputs, policy.device))
    lengths = torch.tensor([len(prompt) - 1 for prompt in rollouts.prompts])
    layout = Layout(lengths, rollouts.lengths, rollouts.prompt_index)
    prompt_ids = torch.tensor([i for prompt in rollouts.prompts for i in prompt[:-1]], dtype=torch.long)
    ids = send(torch.cat([prompt_ids, inputs[rollouts.mask]]), policy.device)
    positions = send(layout.positions, policy.device)
    hidden = policy.decoder(ids, positions, lambda _, q, k, v: attend(q, k, v, layout))
    return hidden[len(prompt_ids) :]


def _check(prompts: list[list[int]]) -> None:
    if not all(prompts):
        raise ValueError("a prompt holds no token: it needs at least one to continue from")
