"""Decoding token by token: keys and values of a prompt are kept, and read, once for its whole group.

Reading keys and values is what bounds attention here. Where a prompt is read once for all of its completions, a group
of G costs little more than one (bifurcated attention, arXiv:2403.08845). Two ways to keep them:

    Slots     on a processor, for `attention.c`: a row's own keys stay where they are until the end, and the rows of a
              prompt follow each other, so that it is in the cache for all of them
    Grid      for PyTorch's kernels: P prompts x G rows in one product, closed up when a quarter of the rows has
              ended; in between shapes stay the same, so that a step can be a CUDA graph
"""

from __future__ import annotations

import torch
from torch import Tensor

from grpo import kernels
from grpo.attention import Layout, Padding, attend
from grpo.cuda import Replay, send
from grpo.policy import Policy

NEVER = -1e30  # added to the score of a key that may not be seen; its weight is exactly 0
BLOCK = 64
"""Tokens for which the shapes of a grid stay the same: the keys of as many are read, whether they are there or not."""


class Decoding:
    """The state of N completions, G of each of P prompts, of which A rows are in the batch."""

    def __init__(self, policy: Policy, prompts: list[list[int]], group_size: int, room: int):
        """Computes each prompt once, without its last token. room: how many tokens may be decoded."""
        self.policy = policy
        lengths = torch.tensor([len(prompt) - 1 for prompt in prompts])  # [P]
        layout, kept = Layout.of_prompts(lengths), []

        def attention(number: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            kept.append((key, value))
            return attend(query, key, value, layout)

        ids = torch.tensor([token for prompt in prompts for token in prompt[:-1]], dtype=torch.long)
        self._run(send(ids, policy.device), send(layout.positions, policy.device), attention)
        kind = Slots if kernels.take(kept[0][0]) else Grid
        self.memory = kind(kept, lengths, group_size, room, policy.decoder.layers[0].heads)
        self.position = send(lengths, policy.device).repeat_interleave(group_size)  # [A] of the next token
        self.replay = Replay() if policy.cuda_graphs else None

    @torch.no_grad()
    def _run(self, ids: Tensor, positions: Tensor, attention) -> Tensor:
        return self.policy.decoder(ids, positions, attention)

    def _continue(self, token: Tensor, position: Tensor) -> Tensor:
        return self._run(token, position, self.memory.attend)

    def step(self, token: Tensor) -> Tensor:
        """Continue each row by a token [A]: hidden states [A, D], of which the next one's logits are."""
        shapes = self.memory.begin()
        if self.replay is None:
            hidden = self._continue(token, self.position)
        else:
            hidden = self.replay(self._continue, shapes, token, self.position)
        self.memory.steps += 1
        self.position = self.position + 1
        return hidden

    def keep(self, going: Tensor) -> Tensor:
        """Let rows leave that have ended. going: [A] bool. Returns those that stay, [A'] in order: all that go on, and
        maybe more."""
        rows = self.memory.keep(going)
        self.position = self.position[rows]
        return rows


class Slots:
    """Keys of a row in its slot, transposed a vector at a time; of a prompt likewise.

    A vector's length of tokens of all rows lies together: what is not filled yet takes no memory.
    """

    def __init__(self, prompts: list[tuple[Tensor, Tensor]], lengths: Tensor, group: int, room: int, heads: int):
        self.lengths, self.steps = lengths, 0
        self.slot = torch.arange(len(lengths) * group)  # [A]
        self.prompt = self.slot // group  # [A]
        w, padding = kernels.vector(), Padding(lengths, prompts[0][0].device)
        blocks, self.prompt_room = -(-room // w), -(-int(lengths.max()) // w) * w
        self.prompts, self.own = [], []
        for key, value in prompts:
            spare = (0, 0, 0, self.prompt_room - int(lengths.max()))
            k, v = (torch.nn.functional.pad(padding.pad(x), spare) for x in (key, value))  # [P, H_kv, Lp, D]
            self.prompts.append((k.unflatten(2, (-1, w)).transpose(3, 4).contiguous(), v.contiguous()))
            self.own.append(key.new_empty(blocks, len(self.slot), key.shape[1], 2, w * key.shape[2]))

    def begin(self) -> None:
        """Before each step."""

    def attend(self, number: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[A, H, D], [A, H_kv, D] twice -> [A, H, D]"""
        out = torch.empty_like(query)
        kernels.call(
            "attend_next", query.contiguous(), key.contiguous(), value.contiguous(), out, *self.prompts[number],
            self.own[number], self.slot, self.prompt, self.lengths, len(query), self.own[number].shape[1], self.steps,
            self.prompt_room, query.shape[1], *key.shape[1:],
        )  # fmt: skip
        return out

    def keep(self, going: Tensor) -> Tensor:
        rows = going.nonzero().squeeze(1)
        self.slot, self.prompt = self.slot[rows], self.prompt[rows]
        return rows


class Grid:
    """Rows in a grid of P prompts x G, where one that has left leaves a gap. They leave when a quarter has ended.

    scores    a group's queries at once against the keys of its prompt; each row's against its own keys
    softmax   over both
    output    p v of the prompt, again a group at once, plus p v of the row

    What a step changes is in tensors (where to write, what may be seen), so that the next one is the same operations.
    """

    def __init__(self, prompts: list[tuple[Tensor, Tensor]], lengths: Tensor, group: int, room: int, heads: int):
        device, padding = prompts[0][0].device, Padding(lengths, prompts[0][0].device)
        self.steps, self.room, self.grid, self.key_heads = 0, room, (len(lengths), group), prompts[0][0].shape[1]
        self.shared = heads // self.key_heads
        self.slot = torch.arange(len(lengths) * group, device=device)  # [A] where in the grid a row is
        self.prompts = [tuple(padding.pad(x).flatten(0, 1) for x in layer) for layer in prompts]  # [P * H_kv, L, D]
        shape = (len(lengths) * self.key_heads * group, room, prompts[0][0].shape[2])
        self.own = [tuple(x.new_zeros(shape) for x in layer) for layer in prompts]
        self.place = torch.zeros(1, dtype=torch.long, device=device)  # of the present token, among those of its row
        self.bias = torch.full((len(lengths), 1, 1, padding.shape[1] + room), NEVER, device=device)  # of scores
        self.bias[..., : padding.shape[1]].masked_fill_(padding.there[:, None, None], 0.0)

    def begin(self) -> tuple[int, ...]:
        """Before each step. Returns what its shapes depend on."""
        self.place.fill_(self.steps)
        self.bias[..., self.prompts[0][0].shape[1] + self.steps] = 0.0
        return len(self.slot), *self.grid, self.seen

    @property
    def seen(self) -> int:
        """C: keys of a row that a step reads, in whole blocks; those that are not there yet have no weight."""
        return min(self.room, (self.steps // BLOCK + 1) * BLOCK)

    def attend(self, number: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[A, H, D], [A, H_kv, D] twice -> [A, H, D]"""
        (p, g), heads, shared, size = self.grid, self.key_heads, self.shared, query.shape[2]
        keys, values = (self._own(*both) for both in zip(self.own[number], (key, value), strict=True))
        rows = self._in_grid(query * size**-0.5).unflatten(2, (heads, shared)).transpose(1, 2).contiguous()
        own_rows, rows = rows.view(p * heads * g, shared, size), rows.view(p * heads, g * shared, size)

        prompt_keys, prompt_values = self.prompts[number]
        prompt = prompt_keys.shape[1]
        of_own = (own_rows @ keys.transpose(1, 2)).view(p * heads, g * shared, self.seen)
        scores = torch.cat([rows @ prompt_keys.transpose(1, 2), of_own], dim=2)  # [P * H_kv, G * H / H_kv, L + C]
        scores.view(p, heads, g * shared, -1).add_(self.bias[..., : prompt + self.seen])
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(values.dtype)
        own = weights.view(p * heads * g, shared, -1)[..., prompt:]
        out = (own @ values).view(p * heads, g * shared, size) + weights[..., :prompt] @ prompt_values
        out = out.view(p, heads, g, shared, size).transpose(1, 2).reshape(p * g, heads * shared, size)
        return out if len(self.slot) == len(out) else out.index_select(0, self.slot)

    def _own(self, kept: Tensor, new: Tensor) -> Tensor:
        """Write [A, H_kv, D] at the present place; all that is kept of the rows, [P * H_kv * G, C, D]."""
        (p, g), heads, size = self.grid, self.key_heads, new.shape[2]
        kept = kept[: p * heads * g].view(p, heads, g, self.room, size)
        kept.index_copy_(3, self.place, self._in_grid(new).transpose(1, 2).unsqueeze(3))
        return kept[..., : self.seen, :].flatten(0, 2)

    def _in_grid(self, x: Tensor) -> Tensor:
        """[A, H, D] -> [P, G, H, D], 0 in gaps."""
        p, g = self.grid
        if len(x) < p * g:
            x = x.new_zeros(p * g, *x.shape[1:]).index_copy_(0, self.slot, x)
        return x.view(p, g, *x.shape[1:])

    def keep(self, going: Tensor) -> Tensor:
        if int(going.sum()) > len(going) * 3 // 4:
            return torch.arange(len(going), device=going.device)
        rows = going.nonzero().squeeze(1)
        self.slot = self.slot[rows]
        self._close_ranks()
        return rows

    def _close_ranks(self) -> None:
        """A grid of the prompts that still have rows, as wide as the most that one has."""
        (p, g), heads, device = self.grid, self.key_heads, self.slot.device
        prompt = self.slot // g  # [A]
        counts = prompt.bincount(minlength=p)  # [P]
        kept, width = counts.nonzero().squeeze(1), int(counts.max())  # [P'], G'
        if (len(kept), width) == self.grid:
            return
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
