"""Attention to a shared prompt: equal to its formula in training and in decoding, in value and in every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from grpo.model.attention import Layout, Padding, attention
from grpo.model.cache import Cache, Prompts

CPU = torch.device("cpu")
HEADS = [(4, 4, 8, 8), (6, 2, 8, 8), (5, 1, 4, 4), (4, 4, 12, 8)]
"""Query heads, key-value heads, numbers in a query and in a value."""
LAYOUTS = {
    "one group": ([6], [3, 5, 1], [0, 0, 0]),
    "ragged": ([4, 1, 9], [5, 1, 7, 3, 2], [0, 0, 1, 2, 2]),
    "groups of one": ([3, 5], [4, 2], [0, 1]),
    "rows in any order": ([4, 0, 1, 7], [5, 1, 8, 3, 2], [3, 0, 3, 2, 1]),
    "a prompt that nothing continues": ([3, 6, 2], [4, 2], [0, 2]),
    "a completion without a token": ([8], [2, 0, 3], [0, 0, 0]),
    "prompts alone": ([7, 1, 4], [], []),
    "prompts of one token, so none before the completions": ([0, 0], [10, 3, 1], [0, 1, 1]),
}
WAYS = [(None, None), (1, None), (3, None), (100, None), (None, 0.5), (3, 0.5)]
"""Sliding window in tokens, soft cap of the scores."""


def layout_of(prompt_lengths: list[int], lengths: list[int], prompt_of: list[int]) -> Layout:
    return Layout(*(torch.tensor(x, dtype=torch.long) for x in (prompt_lengths, lengths, prompt_of)), CPU)


def random_tokens(count: int, shape: tuple[int, int, int, int], seed: int = 0) -> list[Tensor]:
    """Query, key and value of `count` tokens, [H, M, D]. Scores differ enough for the weights to be far from equal."""
    heads, shared, size, value_size = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = [(heads, size), (shared, size), (shared, value_size)]
    return [torch.randn(h, count, d, generator=generator) for h, d in sizes]


def sequences(prompt_lengths: list[int], lengths: list[int], prompt_of: list[int]) -> list[tuple[list[int], list[int]]]:
    """For each prompt and completion, the tokens before it that it continues, and its own, by number in the list."""
    at, own = 0, []
    for length in prompt_lengths + lengths:
        own.append(list(range(at, at + length)))
        at += length
    before = [[] for _ in prompt_lengths] + [own[p] for p in prompt_of]
    return list(zip(before, own, strict=True))


def formula(q, k, v, kind, scaling, window, softcap) -> Tensor:
    """sum_j softmax_j(scaling q_i k_j) v_j, a token and a head at a time, in fp64: [M, H, D]."""
    q, k, v = q.double(), k.double(), v.double()
    shared, out = q.shape[0] // k.shape[0], {}
    for before, own in sequences(*kind):
        for number, token in enumerate(own):
            seen = [*before, *own[: number + 1]][-(window or len(q[0])) :]
            for head in range(q.shape[0]):
                scores = scaling * (k[head // shared, seen] @ q[head, token])
                scores = scores if softcap is None else softcap * (scores / softcap).tanh()
                out[token, head] = scores.softmax(dim=0) @ v[head // shared, seen]
    rows = [torch.stack([out[token, head] for head in range(q.shape[0])]) for token in range(q.shape[1])]
    return torch.stack(rows)


# ---- training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window, softcap", WAYS)
@pytest.mark.parametrize("kind", LAYOUTS)
def test_value_and_gradient_are_those_of_the_formula(kind, window, softcap):
    kind = LAYOUTS[kind]
    tokens = [x.requires_grad_() for x in random_tokens(sum(kind[0] + kind[1]), (6, 2, 8, 8))]
    ours = layout_of(*kind).attend(0, *tokens, 0.4, window, softcap)
    expected = formula(*tokens, kind, 0.4, window, softcap)
    torch.testing.assert_close(ours.double(), expected, atol=2e-6, rtol=1e-5)
    g = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(expected, tokens, g.double())
    torch.testing.assert_close(torch.autograd.grad(ours, tokens, g), gradients, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("softcap", [None, 0.5])
@pytest.mark.parametrize("shape", HEADS, ids=str)
def test_heads_of_any_number_and_size(shape, softcap):
    kind = LAYOUTS["ragged"]
    tokens = random_tokens(sum(kind[0] + kind[1]), shape)
    ours = layout_of(*kind).attend(0, *tokens, 0.4, None, softcap)
    torch.testing.assert_close(ours.double(), formula(*tokens, kind, 0.4, None, softcap), atol=2e-6, rtol=1e-5)


def test_layers_may_have_windows_of_their_own():
    kind = LAYOUTS["ragged"]
    layout, tokens = layout_of(*kind), random_tokens(sum(kind[0] + kind[1]), (4, 2, 8, 8))
    for layer, window in enumerate([2, None, 2, 4]):
        ours = layout.attend(layer, *tokens, 0.4, window, None)
        torch.testing.assert_close(ours.double(), formula(*tokens, kind, 0.4, window, None), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("softcap", [None, 50.0])
def test_scores_of_hundreds_do_not_overflow(softcap):
    kind = ([5], [9, 4], [0, 0])
    tokens = [20 * x for x in random_tokens(18, (4, 2, 8, 8))]
    ours = layout_of(*kind).attend(0, *tokens, 1.0, None, softcap)
    torch.testing.assert_close(ours.double(), formula(*tokens, kind, 1.0, None, softcap), atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["query", "key", "value"])
def test_a_nan_is_not_lost_and_stays_in_its_sequence(which):
    """A model that has diverged is found by its log-probs."""
    tokens = random_tokens(20, (4, 2, 8, 8))
    tokens[which][:, 8] = torch.nan  # in the first completion
    nan = layout_of([5], [9, 6], [0, 0]).attend(0, *tokens, 0.4, None, None).isnan().flatten(1).any(dim=1)
    assert nan[8] and (which == 0 or nan[8:14].all())
    assert not nan[:5].any() and not nan[14:].any()


def test_positions_go_on_behind_the_prompt():
    layout = layout_of([2, 0, 3], [2, 1, 3], [2, 1, 0])
    assert layout.positions.tolist() == [0, 1, 0, 1, 2, 3, 4, 0, 2, 3, 4]
    assert Layout.of_prompts(torch.tensor([2, 0, 3]), CPU).positions.tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("lengths", [[2, 0, 3, 1], [3, 3], [0, 0], []], ids=str)
def test_padding_is_zero_and_on_the_right(lengths):
    count = sum(lengths)
    x = torch.arange(1.0, 1 + count)[None, :, None].expand(2, -1, 3)  # [H, m, D]
    padding = Padding(torch.tensor(lengths, dtype=torch.long), CPU)
    padded = padding.pad(x)  # [N, H, width, D]
    width = max(lengths, default=0)
    assert padded.shape == (len(lengths), 2, width, 3) and padding.width == width
    numbers = iter(range(1, 1 + count))
    expected = [[next(numbers) if t < length else 0 for t in range(width)] for length in lengths]
    assert padded[:, 1, :, 2].tolist() == expected
    assert padding.unpad(padded).equal(x.transpose(0, 1))


# ---- decoding ------------------------------------------------------------------------------------------------


def decoded(kind, tokens: list[Tensor], group: int, leaves, **how) -> Tensor:
    """Attention of the completions' tokens, a step at a time in two layers, [2, M, H, D]; nan where a row has left.

    The second layer has keys for values and the other way round. leaves(step, rows): which rows go on.
    """
    (prompt_lengths, lengths, _), (q, k, v) = kind, tokens
    at, width, count = sum(prompt_lengths), max(lengths), len(lengths)
    assert lengths == [width] * count
    memory = Prompts(torch.tensor(prompt_lengths), CPU)
    for layer, (keys, values) in enumerate([(k, v), (v, k)] if at else []):
        memory.attend(layer, q[:, :at], keys[:, :at], values[:, :at], 0.4, how["window"], how["softcap"])
    cache, alive, outs = Cache(memory, group, width), torch.arange(count), torch.full((2, *q.shape), torch.nan)
    for step in range(width):
        now = at + alive * width + step
        positions = [prompt_lengths[row // group] + step for row in alive.tolist()]
        assert cache.positions.tolist() == positions
        for layer, (keys, values) in enumerate([(k, v), (v, k)]):
            out = cache.attend(layer, q[:, now], keys[:, now], values[:, now], 0.4, how["window"], how["softcap"])
            outs[layer][:, now] = out.transpose(0, 1)
        cache.next()
        rows = leaves(step, alive)
        if len(rows) < len(alive):
            cache.keep(rows)
            alive = alive[rows]
        if not len(alive):
            break
    return outs[:, :, at:].transpose(1, 2)


def nobody(step: int, rows: Tensor) -> Tensor:
    return torch.arange(len(rows))


def at_random(seed: int):
    """Rows that leave in any order: the last of a group, a whole group, the first."""
    generator = torch.Generator().manual_seed(seed)

    def leaves(step: int, rows: Tensor) -> Tensor:
        return (torch.rand(len(rows), generator=generator) > 0.3).nonzero().squeeze(1)

    return leaves


def first_group(step: int, rows: Tensor) -> Tensor:
    return (rows >= 3).nonzero().squeeze(1) if step == 1 else nobody(step, rows)


def all_but_one_of_the_last_group(step: int, rows: Tensor) -> Tensor:
    return (rows <= 6).nonzero().squeeze(1) if step == 1 else nobody(step, rows)


LEAVES = {
    "nobody": nobody,
    "a group": first_group,
    "part of a group": all_but_one_of_the_last_group,
    **{f"at random {seed}": seed for seed in range(3)},
}


@pytest.mark.parametrize("leaves", LEAVES)
@pytest.mark.parametrize("window, softcap", WAYS)
@pytest.mark.parametrize("prompts", [[4, 1, 9], [5, 5, 5], [0, 0, 0], [0, 6, 2]], ids=str)
def test_a_decoded_token_is_that_of_the_formula(prompts, window, softcap, leaves):
    group, width = 3, 6
    kind = (prompts, [width] * 9, [0] * 3 + [1] * 3 + [2] * 3)
    q, k, v = random_tokens(sum(prompts) + 9 * width, (4, 2, 8, 8))
    leaves = LEAVES[leaves]
    leaves = at_random(leaves) if isinstance(leaves, int) else leaves
    outs = decoded(kind, [q, k, v], group, leaves, window=window, softcap=softcap)
    for out, keys, values in ((outs[0], k, v), (outs[1], v, k)):
        expected = formula(q, keys, values, kind, 0.4, window, softcap)[sum(prompts) :]
        there = ~out.isnan().flatten(1).any(dim=1)
        assert there[::width].all() and (leaves is not nobody or there.all())
        torch.testing.assert_close(out[there].double(), expected[there], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("group", [1, 2, 5])
@pytest.mark.parametrize("shape", HEADS[:3], ids=str)
def test_groups_and_heads_of_any_size(shape, group):
    kind = ([3, 7], [4] * (2 * group), [0] * group + [1] * group)
    tokens = random_tokens(10 + 8 * group, shape)
    out = decoded(kind, tokens, group, nobody, window=None, softcap=None)[0]
    torch.testing.assert_close(out.double(), formula(*tokens, kind, 0.4, None, None)[10:], atol=2e-6, rtol=1e-5)


def test_the_grid_shrinks_to_the_rows_that_are_left():
    memory = Prompts(torch.tensor([3, 2]), CPU)
    _, k, v = random_tokens(5, (4, 2, 8, 8))
    memory.kept[0] = memory.prompts.pad(k), memory.prompts.pad(v)
    cache = Cache(memory, 4, room=4)
    assert cache.grid == (2, 4) and cache.full
    cache.keep(torch.tensor([0, 2, 4, 5, 6, 7]))
    assert cache.grid == (2, 4) and not cache.full and cache.cell.tolist() == [0, 1, 4, 5, 6, 7]
    cache.keep(torch.tensor([0, 1, 2, 5]))
    assert cache.grid == (2, 2) and cache.full
    cache.keep(torch.tensor([3]))
    assert cache.grid == (1, 1) and cache.lengths.tolist() == [2] and cache.prompt_of.tolist() == [0]
    assert cache.prompts[0][0].equal(memory.kept[0][0][1:])


def test_what_is_not_there_yet_is_not_seen(monkeypatch):
    """Whatever the memory of a row holds behind its tokens."""
    kind = ([3, 1], [5] * 4, [0, 0, 1, 1])
    tokens, outs = random_tokens(24, (4, 2, 8, 8)), []
    new_empty = torch.Tensor.new_empty
    for number in (0.0, torch.nan):
        monkeypatch.setattr(torch.Tensor, "new_empty", lambda x, *shape: new_empty(x, *shape).fill_(number))  # noqa: B023
        outs.append(decoded(kind, tokens, 2, nobody, window=3, softcap=None))
    assert outs[0].isfinite().all() and outs[0].equal(outs[1])


# ---- what transformers calls ---------------------------------------------------------------------------------


class SomeLayer(nn.Module):
    layer_idx = 0


@pytest.mark.parametrize("keyword", ["s_aux", "sinks", "position_bias", "indices", "block_indices"])
def test_attention_that_is_not_computed_here_is_refused(keyword):
    q, k, v = (x[None] for x in random_tokens(5, (4, 2, 8, 8)))
    layout = Layout.of_prompts(torch.tensor([5]), CPU)
    out, _ = attention(SomeLayer(), q, k, v, None, memory=layout, **{keyword: None})
    assert out.shape == (1, 5, 4, 8)
    with pytest.raises(ValueError, match="SomeLayer asks for attention with"):
        attention(SomeLayer(), q, k, v, None, memory=layout, **{keyword: torch.zeros(4)})


def test_a_mask_that_the_model_made_itself_is_refused():
    q, k, v = (x[None] for x in random_tokens(5, (4, 2, 8, 8)))
    layout = Layout.of_prompts(torch.tensor([5]), CPU)
    with pytest.raises(ValueError, match="SomeLayer asks for attention with a mask of its own"):
        attention(SomeLayer(), q, k, v, torch.zeros(5, 5), memory=layout)
    with pytest.raises(ValueError, match="SomeLayer is not handed the keyword arguments of the model's call"):
        attention(SomeLayer(), q, k, v, None)


def test_scores_are_scaled_by_the_root_of_the_size_where_the_layer_does_not_say():
    q, k, v = random_tokens(5, (4, 2, 16, 16))
    layout = Layout.of_prompts(torch.tensor([5]), CPU)
    out, weights = attention(SomeLayer(), q[None], k[None], v[None], None, memory=layout)
    assert weights is None
    torch.testing.assert_close(out[0], layout.attend(0, q, k, v, 0.25, None, None))
