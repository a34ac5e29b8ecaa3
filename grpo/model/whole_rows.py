"""The second way through a model, for every causal one: transformers' own forward pass and its own cache.

    training   whole rows, prompt and completion, padded on the right, without a cache: causal layers of every kind,
               attention, convolution, state space, see nothing of what comes after
    sampling   prompts padded on the left and computed once; their cache is copied for each row of the group; then a
               token of each row at a time

A prompt is computed again for each completion that is trained on, padding is computed too, and a step of decoding is as
fast as transformers makes it. `shared_prefix.py` is the way without this cost, and has the same methods.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache

from grpo.model.shared_prefix import Forward
from grpo.types import Rollouts


class WholeRows:
    """Both passes on rows of tokens, padded to the longest."""

    prompts_shared = False

    def __init__(self, model: PreTrainedModel, implementation: str, note: str = ""):
        """implementation: of attention, one of transformers'. note: what to say of this choice."""
        self.config, self.implementation, self.note = model.config, implementation, note
        self.takes = inspect.signature(body(model).forward).parameters.keys()

    def prepare(self, model: PreTrainedModel) -> None:
        """From now on the model computes attention as transformers does."""
        model.set_attn_implementation(self.implementation)

    def hidden_states(self, model: PreTrainedModel, ids: Tensor, memory: Rows | RowCache) -> Tensor:
        """ids [B, L] in training, [A] in decoding -> [M, D] where a token is predicted, [A, D]"""
        return memory.pick(body(model)(**memory.arguments(ids)).last_hidden_state)

    def completion_states(self, policy: Forward, rollouts: Rollouts, device: torch.device) -> Tensor:
        """Hidden states of the positions that predict the sampled tokens, with gradient: [M, D], M = mask.sum()."""
        prompts = [rollouts.prompts[i] for i in rollouts.prompt_index.tolist()]  # [B]
        rows = [prompt + completion for prompt, completion in zip(prompts, rollouts.token_lists(), strict=True)]
        # the last token predicts nothing; a row of one token stays, as a model needs one
        ids = pad_sequence([torch.tensor(row[:-1] or row) for row in rows], batch_first=True)  # [B, L]
        row, column = rollouts.mask.nonzero(as_tuple=True)  # [M] of each token that is predicted
        column = column + torch.tensor([len(prompt) - 1 for prompt in prompts])[row]
        return policy(ids.to(device), Rows(row.to(device), column.to(device)))

    def start_decoding(
        self, policy: Forward, prompts: list[list[int]], group_size: int, room: int, device: torch.device
    ) -> RowCache:
        """Compute each prompt once, without its last token, for `room` tokens of `group_size` completions."""
        lengths = torch.tensor([len(prompt) - 1 for prompt in prompts])  # [P]
        width = int(lengths.max())
        if width == 1 and int(lengths.min()) == 0:
            width = 2  # layers with a state ignore the mask of a single token, which they take for a step of decoding
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) + 1 :] = torch.tensor(prompt[:-1], dtype=torch.long)
        mask = torch.arange(width + room) >= width - lengths[:, None]  # [P, W + room]
        memory = RowCache(DynamicCache(config=self.config), mask.long().to(device), self.takes)
        if width:  # not all prompts are of one token
            policy(ids.to(device), memory)
        memory.steps = width
        memory.keep(torch.arange(len(prompts), device=device).repeat_interleave(group_size))
        return memory

    def one_token(self, policy: Forward, device: torch.device) -> Tensor:
        """Hidden states of a token by itself, [1, D]: each layer is called once."""
        zero = torch.zeros(1, dtype=torch.long, device=device)
        return policy(zero[None], Rows(zero, zero))


def body(model: PreTrainedModel) -> nn.Module:
    """The model without its head."""
    bodies = model.base_model, model.get_decoder(), getattr(model, "model", model)  # Llama 4 has it in the last alone
    return next((found for found in bodies if found is not model), model)


class Rows:
    """Which states of B rows are asked for: those at these rows and columns, [M] each."""

    def __init__(self, row: Tensor, column: Tensor):
        self.row, self.column = row, column

    def arguments(self, ids: Tensor) -> dict[str, object]:
        """What the model is called with, for ids [B, L]; without a mask: what is padding comes last."""
        return {"input_ids": ids, "use_cache": False}

    def pick(self, states: Tensor) -> Tensor:
        """[B, L, D] -> [M, D]"""
        return states[self.row, self.column]


class RowCache:
    """What rows have seen so far, in transformers' own cache."""

    def __init__(self, cache: Cache, mask: Tensor, takes: Collection[str]):
        """mask: [A, W + room], 0 where a row is padded, on the left of its prompt. takes: the model's arguments."""
        self.cache, self.mask, self.takes = cache, mask, takes
        self.name = "cache_params" if "cache_params" in takes else "past_key_values"
        self.steps = 0  # tokens of each row in the cache, padding included

    def arguments(self, ids: Tensor) -> dict[str, object]:
        """What the model is called with, for ids [P, W] of prompts, then for [A]."""
        ids = ids.view(len(ids), -1)
        mask = self.mask[:, : self.steps + ids.shape[1]]
        arguments = {"input_ids": ids, "attention_mask": mask, "use_cache": True, self.name: self.cache}
        if "position_ids" in self.takes:
            arguments["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, self.steps :]
        return arguments

    def pick(self, states: Tensor) -> Tensor:
        """[A, 1, D] -> [A, D]"""
        return states[:, -1]

    def next(self) -> None:
        """The model has seen a token of each row."""
        self.steps += 1

    def keep(self, rows: Tensor) -> None:
        """Let the other rows leave, or copy some. rows: [A']"""
        self.mask = self.mask[rows]
        self.cache.reorder_cache(rows)
