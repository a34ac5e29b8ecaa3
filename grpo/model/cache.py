"""Keys and values while decoding: a prompt's are kept, and read, once for its whole group.

To read keys and values is what attention costs here. A prompt's are read once for all its completions, so that a group
of G costs little more than one (bifurcated attention, arXiv:2403.08845):

    scores    a group's queries at once against the keys of its prompt, each row's against its own keys
    softmax   over both
    output    weights times values, again of the prompt for the group at once, and of each row

A row has a slot for each token that it may write. On a CPU it attends to the slots in use. On a GPU it attends to whole
blocks of them, and a bias hides those that are not in use yet. So a step has the same operations and shapes as the one
before it, but for the first of a block, and a graph can replay it (`graphs.py`). Its position is a number on the GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grpo.model.attention import Layout

NEVER = -1e30  # added to the score of a key that may not be seen; its weight is exactly 0
BLOCKS = {"cpu": 1}
"""How many slots come into use at a time, by type of device."""
BLOCK = 256
"""The same for other devices: to begin a block costs a GPU as much as dozens of tokens, empty slots next to nothing."""


class Prompts(Layout):
    """The layout of prompts alone, which keeps the keys and values of each layer as it passes: [P, H_kv, Lp, D]."""

    def __init__(self, lengths: Tensor, device: torch.device):
        none = torch.empty(0, dtype=torch.long)
        super().__init__(lengths, none, none, device)
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *how: float | None) -> Tensor:
        self.kept[layer] = self.prompts.pad(k).contiguous(), self.prompts.pad(v).contiguous()
        return super().attend(layer, q, k, v, *how)


class Cache:
    """What A completions attend to; they stand in a grid of P prompts x G, where one that has left leaves a gap."""

    def __init__(self, prompts: Prompts, group_size: int, room: int):
        """room: how many tokens may be decoded, so many slots has a row."""
        self.prompts, self.lengths, self.room, self.steps = prompts.kept, prompts.prompts.lengths, room, 0
        self.at = torch.zeros(1, dtype=torch.long, device=self.lengths.device)  # `steps`, on the device
        self.block = BLOCKS.get(self.lengths.device.type, BLOCK)
        self.width = prompts.prompts.width  # Lp, to which all prompts are padded
        self.own: dict[int, tuple[Tensor, Tensor]] = {}  # [A, H_kv, room, D] each
        self.prompt_of = torch.arange(len(self.lengths), device=self.lengths.device).repeat_interleave(
            group_size
        )  # [A]
        self._make_grid()

    def _make_grid(self) -> None:
        """A grid of the prompts that still have rows, as wide as the most that one has."""
        used, self.prompt_of, counts = self.prompt_of.unique_consecutive(return_inverse=True, return_counts=True)
        if len(used) < len(self.lengths):
            self.lengths = self.lengths[used]
            self.prompts = {layer: (k[used], v[used]) for layer, (k, v) in self.prompts.items()}
        self.grid = len(used), max(counts.tolist(), default=0)  # P, G
        first = counts.cumsum(0) - counts  # [P]
        column = torch.arange(len(self.prompt_of), device=used.device) - first[self.prompt_of]
        self.cell = self.prompt_of * self.grid[1] + column  # [A] where in the grid a row stands
        self.full = len(self.cell) == self.grid[0] * self.grid[1]
        self.padded = bool((self.lengths < self.width).any())  # a short prompt may be the last that is left
        self.biases: dict[int | None, Tensor] = {}  # of the prompts' tokens, by sliding window
        self.own_biases: dict[int | None, Tensor] = {}  # of the slots

    @property
    def positions(self) -> Tensor:
        """[A] of the tokens that come next."""
        return self.lengths[self.prompt_of] + self.at

    @property
    def span(self) -> int:
        """How many slots a row attends to, the next token's among them."""
        return min(self.room, -(-(self.steps + 1) // self.block) * self.block)

    @property
    def shape(self) -> tuple[int, int]:
        """Two steps with the same are the same operations on tensors of the same shapes."""
        return len(self.prompt_of), self.span

    def next(self) -> None:
        """All layers have seen a token of each row."""
        self.steps += 1
        self.at += 1
        self.forget()

    def forget(self) -> None:
        """Let go of what was computed for the present step alone."""
        self.biases = {window: bias for window, bias in self.biases.items() if window is None}
        self.own_biases = {}

    def keep(self, rows: Tensor) -> None:
        """Let the others leave. rows: [A'] in order."""
        for kept in (x for both in self.own.values() for x in both):
            kept[: len(rows), :, : self.steps] = kept[rows, :, : self.steps]
        self.own = {layer: (k[: len(rows)], v[: len(rows)]) for layer, (k, v) in self.own.items()}
        self.prompt_of = self.prompt_of[rows]
        self._make_grid()

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float, window: int | None, softcap: float | None
    ) -> Tensor:
        """The next token of each row: q [H, A, D], k and v [H_kv, A, D] -> [A, H, D]"""
        (heads, rows, size), key_heads = q.shape, len(k)
        if layer not in self.own:
            self.own[layer] = tuple(self._slots(x, rows) for x in (k, v))
            if layer not in self.prompts:  # all prompts are of one token, so nothing was computed of them
                self.prompts[layer] = tuple(x.new_empty(len(self.lengths), key_heads, 0, x.shape[-1]) for x in (k, v))
        own_keys, own_values = (self._append(*x, window) for x in zip(self.own[layer], (k, v), strict=True))
        prompt_keys, prompt_values = self.prompts[layer]  # [P, H_kv, Lp, D]

        q = (q.transpose(0, 1) * scaling).view(rows, key_heads, -1, size)  # [A, H_kv, H / H_kv, D]
        of_own = q @ own_keys.transpose(2, 3)  # [A, H_kv, H / H_kv, C]
        of_prompt = self._to_grid(q) @ prompt_keys.transpose(2, 3)  # [P, H_kv, G * H / H_kv, Lp]
        if softcap:
            of_own, of_prompt = ((x / softcap).tanh() * softcap for x in (of_own, of_prompt))
        if self.padded or window:
            of_prompt += self._bias(window)
        if self.block > 1:
            of_own += self._own_bias(window, of_own.dtype)
        of_prompt = self._from_grid(of_prompt)  # [P, G, ...] where no row has left, [A, ...] otherwise
        of_own = of_own.view(*of_prompt.shape[:-1], -1)
        weights = torch.cat([of_prompt, of_own], dim=-1).softmax(dim=-1, dtype=torch.float32).to(v.dtype)
        weights = weights.view(rows, key_heads, -1, weights.shape[-1])  # [A, H_kv, H / H_kv, Lp + C]
        prompt_weights, own_weights = weights.split([prompt_keys.shape[2], own_keys.shape[2]], dim=-1)
        out = self._from_grid(self._to_grid(prompt_weights) @ prompt_values)
        return (out + (own_weights @ own_values).view(out.shape)).reshape(rows, heads, -1)

    def _slots(self, x: Tensor, rows: int) -> Tensor:
        """Room for the keys or values of a layer, [A, H_kv, room, D]. What is hidden must be a number, too."""
        make = x.new_empty if self.block == 1 else x.new_zeros
        return make(rows, len(x), self.room, x.shape[-1])

    def _append(self, slots: Tensor, new: Tensor, window: int | None) -> Tensor:
        """Put the next token, [H_kv, A, D], into its slot; the slots that rows attend to, [A, H_kv, C, D]."""
        if self.block == 1:
            slots[:, :, self.steps] = new.transpose(0, 1)
            return slots[:, :, max(0, self.steps + 1 - window) if window else 0 : self.steps + 1]
        slots.index_copy_(2, self.at, new.transpose(0, 1)[:, :, None])
        return slots[:, :, : self.span]

    def _own_bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[C]: which of its slots a row may see."""
        if window not in self.own_biases:
            slot = torch.arange(self.span, device=self.at.device)
            hidden = slot > self.at
            if window:
                hidden |= slot <= self.at - window
            bias = torch.zeros(self.span, dtype=dtype, device=slot.device)
            self.own_biases[window] = bias.masked_fill_(hidden, NEVER)
        return self.own_biases[window]

    def _bias(self, window: int | None) -> Tensor:
        """[P, 1, 1, Lp]: which tokens of its prompt a row may see; all rows of a prompt are at the same position."""
        if window not in self.biases:
            k = next(iter(self.prompts.values()))[0]
            at = torch.arange(k.shape[2], device=k.device)
            there = at < self.lengths[:, None]  # [P, Lp]
            if window:
                there &= self.lengths[:, None] + self.at - at < window
            bias = torch.zeros(there.shape, dtype=k.dtype, device=k.device).masked_fill_(~there, NEVER)
            self.biases[window] = bias[:, None, None]
        return self.biases[window]

    def _to_grid(self, x: Tensor) -> Tensor:
        """[A, H_kv, R, X] -> [P, H_kv, G * R, X], 0 in gaps."""
        p, g = self.grid
        if not self.full:
            x = x.new_zeros(p * g, *x.shape[1:]).index_copy_(0, self.cell, x)
        return x.view(p, g, *x.shape[1:]).transpose(1, 2).flatten(2, 3)

    def _from_grid(self, x: Tensor) -> Tensor:
        """[P, H_kv, G * R, X] -> [A, H_kv, R, X], or [P, G, H_kv, R, X] where there are no gaps"""
        x = x.unflatten(2, (self.grid[1], -1)).transpose(1, 2)
        return x if self.full else x.flatten(0, 1)[self.cell]
