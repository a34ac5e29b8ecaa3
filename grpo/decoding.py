"""Decoding token by token: keys and values of a prompt are kept, and read, once for its whole group.

Reading keys and values is what bounds attention here. Where a prompt is read once for all of its completions, a group
of G costs little more than one (bifurcated attention, arXiv:2403.08845). Two ways to keep them:

    Slots     on a processor, for `attention.c`: a row's own keys stay where they are until the end, and the rows of a
              prompt follow each other, so that it is in the cache for all of them
    Grid      for PyTorch's kernels: P prompts x G rows in one product, closed up when a quarter of it is idle
"""

from __future__ import annotations

import torch
from torch import Tensor

from grpo import kernels
from grpo.attention import Layout, attend, pad
from grpo.policy import Policy

NEVER = -1e30  # added to the score of a key that may not be seen; its weight is exactly 0


class Decoding:
    """The state of N completions, G of each of P prompts. A of these rows go on."""

    def __init__(self, policy: Policy, prompts: list[list[int]], group_size: int, room: int):
        """Computes each prompt once, without its last token. room: how many tokens may be decoded."""
        self.policy = policy
        lengths = torch.tensor([len(prompt) - 1 for prompt in prompts])  # [P]
        layout, kept = Layout.of_prompts(lengths), []

        def attention(number: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            kept.append((key, value))
            return attend(query, key, value, layout)

        ids = torch.tensor([token for prompt in prompts for token in prompt[:-1]], dtype=torch.long)
        self._run(ids.to(policy.device), layout.positions.to(policy.device), attention)
        kind = Slots if kernels.take(kept[0][0]) else Grid
        self.memory = kind(kept, lengths, group_size, room, policy.decoder.layers[0].heads)
        self.position = lengths.to(policy.device).repeat_interleave(group_size)  # [A] of the next token

    @torch.no_grad()
    def _run(self, ids: Tensor, positions: Tensor, attention) -> Tensor:
        return self.policy.decoder(ids, positions, attention)

    def step(self, token: Tensor) -> Tensor:
        """Continue each row by a token [A]: hidden states [A, D], of which the next one's logits are."""
        hidden = self._run(token, self.position, self.memory.attend)
        self.memory.steps += 1
        self.position = self.position + 1
        return hidden

    def keep(self, index: Tensor) -> None:
        """Let only these of the A rows go on, in ascending order."""
        self.position = self.position[index]
        self.memory.keep(index)


class Slots:
    """Keys of a row in its slot, transposed a vector at a time; of a prompt likewise.

    A vector's length of tokens of all rows lies together: what is not filled yet takes no memory.
    """

    def __init__(self, prompts: list[tuple[Tensor, Tensor]], lengths: Tensor, group: int, room: int, heads: int):
        self.lengths, self.steps = lengths, 0
        self.slot = torch.arange(len(lengths) * group)  # [A]
        self.prompt = self.slot // group  # [A]
        w = kernels.vector()
        blocks, self.prompt_room = -(-room // w), -(-int(lengths.max()) // w) * w
        self.prompts, self.own = [], []
        for key, value in prompts:
            spare = (0, 0, 0, self.prompt_room - int(lengths.max()))
            k, v = (torch.nn.functional.pad(pad(x, lengths), spare) for x in (key, value))  # [P, H_kv, Lp, D]
            self.prompts.append((k.unflatten(2, (-1, w)).transpose(3, 4).contiguous(), v.contiguous()))
            self.own.append(key.new_empty(blocks, len(self.slot), key.shape[1], 2, w * key.shape[2]))

    def attend(self, number: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[A, H, D], [A, H_kv, D] twice -> [A, H, D]"""
        out = torch.empty_like(query)
        kernels.call(
            "attend_next", query.contiguous(), key.contiguous(), value.contiguous(), out, *self.prompts[number],
            self.own[number], self.slot, self.prompt, self.lengths, len(query), self.own[number].shape[1], self.steps,
            self.prompt_room, query.shape[1], *key.shape[1:],
        )  # fmt: skip
        return out

    def keep(self, index: Tensor) -> None:
        self.slot, self.prompt = self.slot[index], self.prompt[index]


class Grid:
    """Rows in a grid of P prompts x G, where one that has ended leaves a gap.

    scores    a group's queries at once against the keys of its prompt; each row's against its own keys
    softmax   over both
    output    p v of the prompt, again a group at once, plus p v of the row
    """

    def __init__(self, prompts: list[tuple[Tensor, Tensor]], lengths: Tensor, group: int, room: int, heads: int):
        device, self.steps, self.room = prompts[0][0].device, 0, room
        self.grid, self.key_heads = (len(lengths), group), prompts[0][0].shape[1]
        self.shared = heads // self.key_heads
        self.slot = torch.arange(len(lengths) * group, device=device)  # [A] where in the grid a row is
        self.prompts = [tuple(pad(x, lengths).flatten(0, 1) for x in layer) for layer in prompts]  # [P * H_kv, L, D]
        shape = (len(lengths) * self.key_heads * group, room, prompts[0][0].shape[2])
        self.own = [tuple(x.new_zeros(shape) for x in layer) for layer in prompts]
        there = torch.arange(self.prompts[0][0].shape[1]) < lengths[:, None, None, None]  # [P, 1, 1, L]
        self.bias = torch.where(there, 0.0, NEVER).to(device)  # of scores

    def attend(self, number: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[A, H, D], [A, H_kv, D] twice -> [A, H, D]"""
        (p, g), heads, shared, size = self.grid, self.key_heads, self.shared, query.shape[2]
        keys, values = (x[: p * heads * g].view(p, heads, g, self.room, size) for x in self.own[number])
        keys[..., self.steps, :] = self._in_grid(key).transpose(1, 2)
        values[..., self.steps, :] = self._in_grid(value).transpose(1, 2)
        seen = self.steps + 1
        keys, values = (x[..., :seen, :].flatten(0, 2) for x in (keys, values))  # [P * H_kv * G, C, D]
        rows = self._in_grid(query * size**-0.5).unflatten(2, (heads, shared)).transpose(1, 2).contiguous()
        own_rows, rows = rows.view(p * heads * g, shared, size), rows.view(p * heads, g * shared, size)

        prompt_keys, prompt_values = self.prompts[number]
        prompt = prompt_keys.shape[1]
        of_own = (own_rows @ keys.transpose(1, 2)).view(p * heads, g * shared, seen)
        scores = torch.cat([rows @ prompt_keys.transpose(1, 2), of_own], dim=2)  # [P * H_kv, G * H / H_kv, L + C]
        scores.view(p, heads, g * shared, -1)[..., :prompt] += self.bias
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(values.dtype)
        own = weights.view(p * heads * g, shared, -1)[..., prompt:]
        out = (own @ values).view(p * heads, g * shared, size) + weights[..., :prompt] @ prompt_values
        out = out.view(p, heads, g, shared, size).transpose(1, 2).reshape(p * g, heads * shared, size)
        return out if len(self.slot) == len(out) else out.index_select(0, self.slot)

    def _in_grid(self, x: Tensor) -> Tensor:
        """[A, H, D] -> [P, G, H, D], 0 where no row goes on."""
        p, g = self.grid
        if len(x) < p * g:
            x = x.new_zeros(p * g, *x.shape[1:]).index_copy_(0, self.slot, x)
        return x.view(p, g, *x.shape[1:])

    def keep(self, index: Tensor) -> None:
        self.slot = self.slot[index]
        p, g = self.grid
        if len(index) <= p * g * 3 // 4:
            self._close_ranks()

    def _close_ranks(self) -> None:
        """A grid of the prompts that still have rows, as wide as the most that one has."""
        (p, g), heads, device = self.grid, self.key_heads, self.slot.device
        prompt = self.slot // g  # [A]
        counts = prompt.bincount(minlength=p)  # [P]
        kept, width = counts.nonzero().squeeze(1), int(counts.max())  # [P'], G'
        column = torch.arange(len(prompt), device=device) - (counts.cumsum(0) - counts)[prompt]  # [A]
        slot = torch.searchsorted(kept, prompt) * width + column
        source = (kept * g).repeat_interleave(width)  # [P' * G']: any row of the prompt, where none goes on
        source[slot] = self.slot
        source = source.view(-1, 1, width)
        head = torch.arange(heads, device=device)[:, None]
        rows = ((source // g * heads + head) * g + source % g).flatten()  # [P' * H_kv * G']
        for x in (x for layer in self.own for x in layer):
            x[: len(rows), : self.steps] = x[:, : self.steps].index_select(0, rows)
        rows = (kept[:, None] * heads + head.T).flatten()  # [P' * H_kv]
        self.prompts = [tuple(x.index_select(0, rows) for x in layer) for layer in self.prompts]
        self.bias, self.slot, self.grid = self.bias[kept], slot, (len(kept), width)
