"""Micro-batches, and the cutting and joining of rollouts."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo.logprobs import completion_logps
from grpo.model import batching
from grpo.model.batching import micro_batches
from grpo.types import concat_rollouts


@st.composite
def shapes(draw):
    """(prompt lengths [P], completion lengths [P * G], G)"""
    size, prompts = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    prompt_lengths = draw(st.lists(st.integers(1, 12), min_size=prompts, max_size=prompts))
    lengths = draw(st.lists(st.integers(1, 20), min_size=size * prompts, max_size=size * prompts))
    return prompt_lengths, lengths, size


def cost(rollouts, rows):
    """P * (longest prompt) + B * (longest completion), from the rows themselves."""
    prompts = {int(rollouts.prompt_index[row]) for row in rows}
    return len(prompts) * max(len(rollouts.prompts[p]) for p in prompts) + len(rows) * max(
        int(rollouts.lengths[row]) for row in rows
    )


@given(shape=shapes(), tokens=st.integers(1, 200))
def test_every_row_once_and_within_the_budget(make_rollouts, shape, tokens):
    rollouts = make_rollouts(*shape)
    batches = [rows.tolist() for rows in micro_batches(rollouts, tokens)]
    assert sorted(row for rows in batches for row in rows) == list(range(len(rollouts)))
    assert all(len(rows) == 1 or cost(rollouts, rows) <= tokens for rows in batches)


@given(shape=shapes(), tokens=st.integers(1, 200))
def test_a_batch_ends_only_because_the_next_row_does_not_fit(make_rollouts, shape, tokens):
    rollouts = make_rollouts(*shape)
    batches = [rows.tolist() for rows in micro_batches(rollouts, tokens)]
    for rows, after in itertools.pairwise(batches):
        assert cost(rollouts, [*rows, after[0]]) > tokens


@given(shape=shapes(), tokens=st.integers(1, 200))
def test_completions_of_a_prompt_stay_together(make_rollouts, shape, tokens):
    rollouts = make_rollouts(*shape)
    order = [int(rollouts.prompt_index[row]) for rows in micro_batches(rollouts, tokens) for row in rows.tolist()]
    assert sum(a != b for a, b in itertools.pairwise(order)) == len(rollouts.prompts) - 1


def test_a_row_that_is_too_long_stands_alone(make_rollouts):
    rollouts = make_rollouts([3, 3], [2, 2, 50, 2], group_size=2)
    batches = [rows.tolist() for rows in micro_batches(rollouts, 12)]
    assert batches == [[0, 1, 3], [2]]


def test_a_large_budget_makes_one_batch(make_rollouts):
    rollouts = make_rollouts([3, 9], [2, 7, 5, 1], group_size=2)
    assert len(micro_batches(rollouts, 2 * 9 + 4 * 7)) == 1
    assert len(micro_batches(rollouts, 2 * 9 + 4 * 7 - 1)) == 2


def test_rows_that_hold_their_prompts_cost_these_each(make_rollouts):
    rollouts = make_rollouts([3, 9], [2, 7, 5, 1], group_size=2)
    assert len(micro_batches(rollouts, 4 * (9 + 7), prompts_shared=False)) == 1
    assert len(micro_batches(rollouts, 4 * (9 + 7) - 1, prompts_shared=False)) == 2


def test_prompts_with_long_completions_share_their_padding(make_rollouts):
    rollouts = make_rollouts([1, 1, 1, 1], [20, 1, 20, 1])
    batches = [sorted(rows.tolist()) for rows in micro_batches(rollouts, 42)]
    assert batches == [[1, 3], [0, 2]]


# ---- rollouts ------------------------------------------------------------------------------------------------


def contents(rollouts):
    """What a batch says, row by row, whatever its padding."""
    logps = [x[:n].tolist() for x, n in zip(rollouts.sampler_logps, rollouts.lengths.tolist(), strict=True)]
    prompts = [rollouts.prompts[i] for i in rollouts.prompt_index.tolist()]
    return list(zip(prompts, rollouts.token_lists(), logps, rollouts.truncated.tolist(), strict=True))


@given(shape=shapes(), data=st.data())
def test_select_keeps_what_the_rows_say(make_rollouts, shape, data):
    rollouts = make_rollouts(*shape)
    rollouts.truncated[::2] = True
    rows = data.draw(st.permutations(range(len(rollouts))))[: data.draw(st.integers(1, len(rollouts)))]
    part = rollouts.select(torch.tensor(rows))
    assert contents(part) == [contents(rollouts)[row] for row in rows]
    assert part.mask.shape[1] == max(rollouts.lengths[rows].tolist())
    assert set(part.prompt_index.tolist()) == set(range(len(part.prompts)))  # no prompt without a completion


@given(first=shapes(), second=shapes())
def test_concat_keeps_what_the_rows_say(make_rollouts, first, second):
    one, other = make_rollouts(*first), make_rollouts(*second, seed=1)
    both = concat_rollouts([one, other])
    assert contents(both) == contents(one) + contents(other)
    assert both.mask.dtype == torch.bool and len(both) == len(one) + len(other)


def test_a_selection_of_nothing(make_rollouts):
    rollouts = make_rollouts([3, 4], [2, 7])
    nothing = rollouts.select(torch.arange(0))
    assert len(nothing) == 0 and nothing.prompts == [] and nothing.token_lists() == []
    assert contents(concat_rollouts([nothing, rollouts])) == contents(rollouts)


def test_a_micro_batch_that_counts_for_nothing_still_passes_the_layers(make_policy, make_rollouts, monkeypatch):
    """With `fully_shard` all processes call every layer equally often, also for a prompt of one token."""
    monkeypatch.setattr(batching, "round_robin", lambda items: [(item, False) for item in items])
    policy = make_policy("qwen2")
    for _, part in batching.my_micro_batches(make_rollouts([1], [3, 2], group_size=2), 100):
        logps, _ = completion_logps(policy, part, 1.0)
        assert not part.mask.any() and not logps.any()
        logps.sum().backward()
