"""The first of two ways through a model: a prompt is computed once for all its completions, and only attention pads.

    training   prompts and completions are one list of tokens; a `Layout` says who attends to whom (`attention.py`)
    sampling   a `Cache` keeps the keys and values of a prompt once for its group (`cache.py`)

It serves models in which every layer is plain attention; `checks.py` looks for that when a model is loaded. The other
way, with the same three methods, is `whole_rows.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grpo.model import attention
from grpo.model.attention import Layout
from grpo.model.cache import Cache, Prompts
from grpo.types import Rollouts

Forward = Callable[[Tensor, Any], Tensor]
"""The policy: token ids, and the memory that knows which of them may see which -> hidden states [M, D]."""


class SharedPrefix:
    """Both passes on lists of tokens without padding."""

    prompts_shared = True
    note = ""

    def prepare(self, model: PreTrainedModel) -> None:
        """From now on the model's layers call our attention function."""
        model.set_attn_implementation(attention.NAME)

    def hidden_states(self, model: PreTrainedModel, ids: Tensor, memory: Layout | Cache) -> Tensor:
        """ids [M] -> [M, D]"""
        positions = memory.positions[None]
        output = model.base_model(input_ids=ids[None], position_ids=positions, use_cache=False, memory=memory)
        return output.last_hidden_state[0]

    def completion_states(self, policy: Forward, rollouts: Rollouts, device: torch.device) -> Tensor:
        """Hidden states of the positions that predict the sampled tokens, with gradient: [M, D], M = mask.sum().

        The last token of a prompt belongs to the completions' inputs, so that each of these predicts one sampled token.
        """
        last = torch.tensor([prompt[-1] for prompt in rollouts.prompts])[rollouts.prompt_index]  # [B]
        inputs = torch.cat([last[:, None], rollouts.completion_ids[:, :-1]], dim=1)  # [B, T]
        prompt_ids = torch.tensor([i for prompt in rollouts.prompts for i in prompt[:-1]], dtype=torch.long)
        lengths = torch.tensor([len(prompt) - 1 for prompt in rollouts.prompts])
        layout = Layout(lengths, rollouts.lengths, rollouts.prompt_index, device)
        ids = torch.cat([prompt_ids, inputs[rollouts.mask]]).to(device)
        return policy(ids, layout)[len(prompt_ids) :]

    def start_decoding(
        self, policy: Forward, prompts: list[list[int]], group_size: int, room: int, device: torch.device
    ) -> Cache:
        """Compute each prompt once, without its last token, for `room` tokens of `group_size` completions."""
        memory = Prompts(torch.tensor([len(prompt) - 1 for prompt in prompts]), device)
        ids = torch.tensor([token for prompt in prompts for token in prompt[:-1]], dtype=torch.long, device=device)
        if len(ids):  # not all prompts are of one token
            policy(ids, memory)
        return Cache(memory, group_size, room)

    def one_token(self, policy: Forward, device: torch.device) -> Tensor:
        """Hidden states of a token by itself, [1, D]: each layer is called once."""
        return policy(torch.zeros(1, dtype=torch.long, device=device), Layout.of_prompts(torch.tensor([1]), device))
