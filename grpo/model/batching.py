"""Micro-batches by token budget: how a batch is cut must not change what is learned from it.

The loss is normalised by counts of the whole batch, taken before it is cut (see `loss.py`), so any cut gives the same
gradient. The budget bounds the memory: a micro-batch of B completions of P prompts computes

    P * (longest prompt) + B * (longest completion)  tokens, padding included, where prompts are shared
    B * (longest prompt + longest completion)        where each row holds its prompt (`whole_rows.py`)

Attention alone copies the keys and values of a shared prompt for each completion, which is not counted. It is little
unless completions are far shorter than prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from grpo.distributed import round_robin
from grpo.types import Rollouts


def my_micro_batches(rollouts: Rollouts, tokens: int, prompts_shared: bool = True) -> Iterator[tuple[Tensor, Rollouts]]:
    """The micro-batches of this process: rows [B], and those rows of the batch.

    All processes get equally many; where there are too few, some get one whose mask is empty.
    """
    for rows, counts in round_robin(micro_batches(rollouts, tokens, prompts_shared)):
        micro = rollouts.select(rows)
        if not counts:  # a token at least must pass the layers, and a prompt's last one passes with its completion
            longer = [prompt if len(prompt) > 1 else prompt * 2 for prompt in micro.prompts]
            micro = replace(micro, prompts=longer, mask=torch.zeros_like(micro.mask))
        yield rows, micro


def micro_batches(rollouts: Rollouts, tokens: int, prompts_shared: bool = True) -> list[Tensor]:
    """Cut the rows [N] into lists of rows, each within `tokens` (or a single row, if that alone is more).

    Completions of a prompt stay together, so that it is forwarded once, and prompts are sorted by their longest
    completion, so that little is padding.
    """
    lengths = rollouts.lengths
    groups = [(rollouts.prompt_index == i).nonzero().squeeze(1) for i in range(len(rollouts.prompts))]
    groups = sorted((g for g in groups if len(g)), key=lambda g: int(lengths[g].max()))
    rows = [row for group in groups for row in group[lengths[group].argsort(stable=True)].tolist()]

    batches: list[list[int]] = []
    prompts: set[int] = set()
    prompt_width = width = 0
    for row in rows:
        prompt = int(rollouts.prompt_index[row])
        new_prompts = prompts | {prompt}
        new_prompt_width = max(prompt_width, len(rollouts.prompts[prompt]))
        new_width = max(width, int(lengths[row]))
        size = len(batches[-1]) + 1 if batches else 1
        copies = len(new_prompts) if prompts_shared else size
        if batches and copies * new_prompt_width + size * new_width <= tokens:
            batches[-1].append(row)
            prompts, prompt_width, width = new_prompts, new_prompt_width, new_width
        else:
            batches.append([row])
            prompts, prompt_width, width = {prompt}, len(rollouts.prompts[prompt]), int(lengths[row])
    return [torch.tensor(batch) for batch in batches]
