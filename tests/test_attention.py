"""Attention over shared prompts: equal to its formula, and a token's bits are independent of what surrounds it."""

from __future__ import annotations

import pytest
import torch

from grpo import kernels
from grpo.model.attention import Layout, Padding, attend, padded
from grpo.model.cache import Grid, Slots
from grpo.model.policy import ModelConfig, load_policy
from grpo.sampling import SamplingConfig, sample_groups
from grpo.trainer import frozen_logps

HEADS = [(9, 3, 64), (4, 4, 16), (7, 1, 32), (12, 2, 128)]
"""Query heads, key-value heads, numbers in a head."""
LAYOUTS = {
    "ragged": ([4, 0, 1, 37], [5, 1, 19, 3, 2], [3, 0, 3, 2, 1]),
    "a prompt that nothing continues": ([3, 6, 2], [4, 2], [0, 2]),
    "a completion without a token": ([18], [2, 0, 3], [0, 0, 0]),
    "prompts only": ([17, 1, 40], [], []),
    "no prompt token": ([0, 0], [20, 3, 1], [0, 1, 1]),
}
compiled = pytest.mark.skipif(kernels.load() is None, reason="no compiler here")
WAYS = [pytest.param(attend, marks=compiled, id="C"), pytest.param(padded, id="padded")]


def layout_of(prompt_lengths, lengths, prompt_of) -> Layout:
    return Layout(*(torch.tensor(x, dtype=torch.long) for x in (prompt_lengths, lengths, prompt_of)))


def tokens_of(layout: Layout, shape, seed=0, scale=1.0):
    """Query, key and value of all tokens. Scores differ enough for the weights to be far from equal."""
    (heads, shared, size), count = shape, int(layout.prompt_lengths.sum() + layout.lengths.sum())
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(count, h, size, generator=generator) for h in (heads, shared, shared)]


def sequences(layout: Layout) -> list[tuple[range, range]]:
    """The tokens before each prompt and completion that it sees, and its own."""
    at, own = 0, []
    for length in layout.prompt_lengths.tolist() + layout.lengths.tolist():
        own.append(range(at, at + length))
        at += length
    prompts = len(layout.prompt_lengths)
    before = [range(0)] * prompts + [own[p] for p in layout.prompt_of.tolist()]
    return list(zip(before, own, strict=True))


def formula(query, key, value, layout):
    """softmax(q k^T / sqrt D) v, a token and a head at a time, differentiably and in fp64. [M, H, D]"""
    query, key, value = query.double(), key.double(), value.double()
    (heads, size), shared = query.shape[1:], query.shape[1] // key.shape[1]
    out = []
    for before, own in sequences(layout):
        for number, token in enumerate(own):
            seen = [*before, *own[: number + 1]]
            for h in range(heads):
                scores = key[seen, h // shared] @ query[token, h] / size**0.5
                out.append(scores.exp() / scores.exp().sum() @ value[seen, h // shared])
    return torch.stack(out).view(query.shape)


# ---- the formula ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", HEADS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_value_and_gradient_are_those_of_the_formula(way, shape, layout):
    layout = layout_of(*LAYOUTS[layout])
    wanted = [x.requires_grad_() for x in tokens_of(layout, shape)]
    assert way is padded or kernels.take(wanted[0])
    ours, expected = way(*wanted, layout), formula(*wanted, layout)
    torch.testing.assert_close(ours.double(), expected, atol=2e-6, rtol=1e-5)
    g = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(expected, wanted, g.double())
    torch.testing.assert_close(torch.autograd.grad(ours, wanted, g), gradients, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_scores_of_hundreds_do_not_overflow(way):
    layout = layout_of([5], [30], [0])
    query, key, value = tokens_of(layout, (4, 2, 16), scale=30.0)
    exact = padded(query.double(), key.double(), value.double(), layout)
    torch.testing.assert_close(way(query, key, value, layout).double(), exact, atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("which", [0, 1, 2], ids=["query", "key", "value"])
def test_a_nan_is_not_lost(way, which):
    """A model that has diverged is found by its log-probs."""
    layout = layout_of([5], [30, 4], [0, 0])
    tokens = tokens_of(layout, (4, 2, 16))
    tokens[which][12] = torch.nan
    nan = way(*tokens, layout).isnan().any(dim=2).any(dim=1)
    assert nan[12] and (which == 0 or nan[12:35].all())
    assert not nan[:5].any() and not nan[35:].any()  # other sequences; beside it, 0 * NaN may be added


def test_heads_of_any_size_may_be_padded():
    layout = layout_of(*LAYOUTS["ragged"])
    wanted = tokens_of(layout, (4, 2, 4))
    assert not kernels.take(wanted[0])  # not whole vectors
    torch.testing.assert_close(attend(*wanted, layout).double(), formula(*wanted, layout), atol=2e-6, rtol=1e-5)


def test_a_gradient_that_is_not_contiguous_is_read_as_it_is():
    layout = layout_of(*LAYOUTS["ragged"])
    wanted = [x.requires_grad_() for x in tokens_of(layout, (4, 2, 16))]
    g = torch.randn(4, len(wanted[0]), 16, generator=torch.Generator().manual_seed(1)).transpose(0, 1)
    ours, copied = (torch.autograd.grad(attend(*wanted, layout), wanted, x) for x in (g, g.contiguous()))
    assert all(a.equal(b) for a, b in zip(ours, copied, strict=True))


def test_positions_go_on_behind_the_prompt():
    assert layout_of([2, 0, 3], [2, 1, 3], [2, 1, 0]).positions.tolist() == [0, 1, 0, 1, 2, 3, 4, 0, 2, 3, 4]


def test_padding_is_zero_and_on_the_right():
    x = torch.arange(1.0, 7.0)[:, None, None].expand(6, 2, 3)
    padding = Padding(torch.tensor([2, 0, 3, 1]), x.device)
    out = padding.pad(x)  # [N, H, longest, D]
    assert out.shape == (4, 2, 3, 3)
    assert out[:, 1, :, 2].tolist() == [[1, 2, 0], [0, 0, 0], [3, 4, 5], [6, 0, 0]]
    assert padding.unpad(out).equal(x)


# ---- the same bits, whatever surrounds a token ---------------------------------------------------------------


def group_layout() -> Layout:
    """Three prompts, four completions of each, as they are sampled."""
    lengths = [5, 1, 70, 3, 2, 2, 8, 1, 33, 20, 17, 40]
    return layout_of([37, 0, 16], lengths, [p for p in range(3) for _ in range(4)])


def decoded(kind, query, key, value, layout, group=4):
    """Attention of the completions' tokens, a step at a time in two layers; rows that have ended leave."""
    # a row that has ended and stays is given numbers all the same, which must not matter
    query, key, value = (torch.cat([x, torch.full_like(x[:1], 7.0)]) for x in (query, key, value))
    at, lengths = int(layout.prompt_lengths.sum()), layout.lengths
    first, width = at + lengths.cumsum(0) - lengths, int(lengths.max())
    prompts = [(key[:at], value[:at]), (value[:at], key[:at])]
    memory = kind(prompts, layout.prompt_lengths, group, width, query.shape[1])
    alive, outs = torch.arange(len(lengths)), torch.full((2, *query.shape), torch.nan)
    for step in range(width):
        going = lengths[alive] > step
        if not going.all():
            alive = alive[memory.keep(going)]
        now = torch.where(lengths[alive] > step, first[alive] + step, -1)
        memory.begin()
        outs[0, now] = memory.attend(0, query[now], key[now], value[now])
        outs[1, now] = memory.attend(1, query[now], value[now], key[now])
        memory.steps += 1
    return memory, outs[:, at:-1]


@compiled
@pytest.mark.parametrize("shape", HEADS, ids=str)
def test_a_token_gets_the_same_bits_alone_and_in_any_batch(shape):
    layout = group_layout()
    tokens = tokens_of(layout, shape)
    whole = attend(*tokens, layout)
    for (before, own), prompt in zip(sequences(layout), [*[None] * 3, *layout.prompt_of.tolist()], strict=True):
        for length in {len(own) and 1, len(own) // 2, len(own)} - {0}:  # cut short, it is the same
            alone = layout_of([len(before)], [length], [0]) if prompt is not None else layout_of([length], [], [])
            some = [*before, *own[:length]]
            assert attend(*(x[some] for x in tokens), alone)[len(before) :].equal(whole[own[:length]])


@compiled
@pytest.mark.parametrize("shape", HEADS, ids=str)
def test_a_token_gets_the_same_bits_decoded_and_trained_on(shape):
    layout = group_layout()
    query, key, value = tokens_of(layout, shape)
    at = int(layout.prompt_lengths.sum())
    outs = decoded(Slots, query, key, value, layout)[1]
    assert outs[0].equal(attend(query, key, value, layout)[at:])
    assert outs[1].equal(attend(query, value, key, layout)[at:])


@compiled
def test_threads_and_what_memory_held_before_do_not_matter():
    layout = group_layout()
    wanted = [x.requires_grad_() for x in tokens_of(layout, (9, 3, 64))]

    def all_of_it():
        out = attend(*wanted, layout)
        gradients = torch.autograd.grad(out, wanted, torch.ones_like(out))
        return [out, *gradients, decoded(Slots, *(x.detach() for x in wanted), layout)[1]]

    expected = all_of_it()
    try:
        torch.use_deterministic_algorithms(True)  # fills new tensors with NaN
        longer = layout_of([300], [60], [0])
        nan = [torch.full_like(x, torch.nan).requires_grad_() for x in tokens_of(longer, (9, 3, 64))]
        attend(*nan, longer).sum().backward()  # leaves NaN in the threads' own memory
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert all(a.equal(b) for a, b in zip(all_of_it(), expected, strict=True))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(1)


# ---- decoding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [*HEADS, (4, 2, 4)], ids=str)
def test_the_grid_computes_the_same_and_closes_its_ranks(shape):
    layout = group_layout()
    query, key, value = tokens_of(layout, shape)
    at = int(layout.prompt_lengths.sum())
    memory, outs = decoded(Grid, query, key, value, layout)
    assert memory.grid == (1, 1)  # at last one row of one prompt is left
    for out, (k, v) in zip(outs, ((key, value), (value, key)), strict=True):
        torch.testing.assert_close(out, padded(query, k, v, layout)[at:], atol=1e-5, rtol=0)


def test_rows_that_have_ended_stay_until_they_are_a_quarter_and_then_leave_gaps():
    layout = layout_of([3, 2], [4] * 8, [0] * 4 + [1] * 4)
    _, key, value = tokens_of(layout, (4, 2, 16))
    memory = Grid([(key[:5], value[:5])], layout.prompt_lengths, 4, 4, 4)
    assert memory.keep(torch.tensor([1, 0, 1, 1, 1, 1, 1, 1]).bool()).tolist() == list(range(8))
    assert memory.grid == (2, 4) and memory.slot.tolist() == list(range(8))
    assert memory.keep(torch.tensor([1, 0, 1, 0, 1, 1, 1, 1]).bool()).tolist() == [0, 2, 4, 5, 6, 7]
    assert memory.grid == (2, 4) and memory.slot.tolist() == [0, 2, 4, 5, 6, 7]
    assert memory.keep(torch.tensor([1, 1, 1, 0, 0, 1]).bool()).tolist() == [0, 1, 2, 5]
    assert memory.grid == (2, 2) and memory.slot.tolist() == [0, 1, 2, 3]
    assert memory.keep(torch.tensor([0, 0, 0, 1]).bool()).tolist() == [3]
    assert memory.grid == (1, 1) and memory.slot.tolist() == [0]


@pytest.mark.parametrize("kind", [pytest.param(Slots, marks=compiled), Grid])
def test_what_is_not_there_yet_is_not_seen(kind, monkeypatch):
    """Whatever the memory of a row holds behind its tokens."""
    layout = layout_of([3, 1], [5] * 4, [0, 0, 1, 1])
    tokens, outs = tokens_of(layout, (4, 2, 16)), []
    new_empty = torch.Tensor.new_empty
    for number in (0.0, 1e3):
        for name in ("new_zeros", "new_empty"):
            monkeypatch.setattr(torch.Tensor, name, lambda x, *shape: new_empty(x, *shape).fill_(number))  # noqa: B023
        outs.append(decoded(kind, *tokens, layout, group=2)[1])
    assert outs[0].isfinite().all() and outs[0].equal(outs[1])


# ---- sampler and trainer -------------------------------------------------------------------------------------


def gaps(policy, prompts, group, tokens):
    """The mean gap between a token's log-prob as sampled and as trained on, in batches cut three ways."""
    policy.eos_ids = []
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 60, (n,), generator=generator).tolist() for n in prompts]
    names, n = list("abcdefgh"[: len(prompts)]), len(prompts) * group
    rollouts = sample_groups(policy, prompts, names, group, SamplingConfig(max_new_tokens=tokens), seed=0)
    for cut in ([torch.arange(n)], list(torch.arange(n).split(1)), [torch.arange(group), torch.arange(group, n)]):
        yield (frozen_logps(policy, rollouts, cut, 1.0) - rollouts.sampler_logps).abs()[rollouts.mask].mean()


@pytest.mark.parametrize("dtype, limit", [("float32", 1e-5), ("bfloat16", 5e-3)])
def test_sampler_and_trainer_see_the_same_numbers(dtype, limit):
    policy = load_policy(ModelConfig("tiny", dtype=dtype))
    assert max(gaps(policy, prompts=(1, 7, 40, 90), group=4, tokens=120)) < limit


@pytest.mark.parametrize("dtype, limit", [("float32", 1e-5), ("bfloat16", 5e-3)])
def test_sampler_and_trainer_see_the_same_numbers_with_thirty_layers(dtype, limit, smollm2_folder):
    policy = load_policy(ModelConfig(str(smollm2_folder), dtype=dtype))
    assert max(gaps(policy, prompts=(1, 60), group=2, tokens=24)) < limit
