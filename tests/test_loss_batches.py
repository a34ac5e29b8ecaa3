"""The policy loss: how a batch is cut or padded must change neither its value nor its gradient."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo.loss import AGGREGATIONS, PRESETS, Counts, LossConfig, policy_loss, token_loss, token_means
from grpo.weights import Tokens

LENGTHS = (3, 6, 1, 4, 4, 2, 6, 5)


def run(batch, config, num_tokens=None, num_sequences=None, batch_entropy=None):
    """Loss, gradient by logps and metrics."""
    (_, old, reference, advantages, mask), logps = batch, batch[0].detach().clone().requires_grad_()
    values = {"logps": logps, "old": old, "sampler": old, "reference": reference, "advantages": advantages}
    num_tokens = mask.sum().clamp(min=1) if num_tokens is None else num_tokens
    counts = Counts(num_tokens, num_sequences or len(mask), config.length_divisor(mask.shape[1]))
    loss, values = token_loss(Tokens.of(mask, batch_entropy, entropy=-old, **values), config, counts)
    loss.backward()
    return loss.detach(), logps.grad, token_means(values, num_tokens)


def run_in_parts(batch, config, cuts):
    """The same from micro-batches, each with no more slots than it needs, with the whole batch's counts."""
    mask = batch[-1]
    counts = {"num_tokens": mask.sum(), "num_sequences": len(mask), "batch_entropy": -batch[1][mask]}
    loss, gradient, metrics = torch.zeros(()), torch.zeros(mask.shape), {}
    for rows in cuts:
        width = int(mask[rows].sum(dim=1).max())
        part = [x[rows, :width] if x.dim() == 2 else x[rows] for x in batch]
        one_loss, one_gradient, one_metrics = run(part, config, **counts)
        loss += one_loss
        gradient[rows, :width] += one_gradient
        for name, value in one_metrics.items():
            before = metrics.get(name, torch.zeros(()))
            metrics[name] = torch.maximum(before, value) if name == "ratio_max" else before + value
    return loss, gradient, metrics


@st.composite
def cuts(draw):
    """The 8 rows in any order, cut anywhere."""
    rows = draw(st.permutations(range(8)))
    ends = sorted(draw(st.sets(st.integers(1, 7))))
    return [list(rows[a:b]) for a, b in itertools.pairwise([0, *ends, 8])]


CONFIGS = {
    **{name: PRESETS[name] for name in PRESETS},
    # without a length of its own, `constant` divides by the width, which differs between micro-batches
    **{
        f"{aggregation}-{kl}": LossConfig(aggregation=aggregation, kl=kl, beta=0.5, ratio="sequence")
        for aggregation in AGGREGATIONS
        for kl in ("k1", "k2", "k3")
    },
}
CONFIGS = {
    name: LossConfig(**{**vars(c), "max_length": 10}) if c.aggregation == "constant" else c
    for name, c in CONFIGS.items()
}


@pytest.mark.parametrize("count", ["num_tokens", "num_sequences"])
def test_parts_of_a_batch_need_a_length_that_is_not_their_width(count, make_loss_batch):
    batch, config = make_loss_batch(lengths=LENGTHS), PRESETS["dr_grpo"]
    with pytest.raises(ValueError, match="constant over several micro-batches, whose widths differ, needs max_length"):
        policy_loss(*batch, config, **{count: 20})
    policy_loss(*batch, replace(config, max_length=10), **{count: 20})


@pytest.mark.parametrize("name", CONFIGS)
@given(cut=cuts(), per_token=st.booleans())
def test_any_cut_into_micro_batches_adds_up_to_the_whole(name, make_loss_batch, cut, per_token):
    batch = make_loss_batch(lengths=LENGTHS, per_token=per_token)
    torch.testing.assert_close(run_in_parts(batch, CONFIGS[name], cut), run(batch, CONFIGS[name]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_one_by_eight_is_eight_by_one(name, make_loss_batch):
    batch, config = make_loss_batch(lengths=LENGTHS), LossConfig(**{**vars(PRESETS[name]), "max_length": 10})
    whole = run(batch, config)
    torch.testing.assert_close(run_in_parts(batch, config, [[i] for i in range(8)]), whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(run_in_parts(batch, config, [list(range(8))]), whole, rtol=0, atol=0)


def test_the_mean_of_micro_batch_means_is_not_token_mean(make_loss_batch):
    # what this guards against: completions in a micro-batch of short ones would count for more
    batch, config = make_loss_batch(lengths=LENGTHS), PRESETS["dapo"]
    parts = [run([x[rows] for x in batch[:2]] + [None] + [x[rows] for x in batch[3:]], config)[0]
             for rows in ([0, 2], [1, 3, 4, 5, 6, 7])]  # fmt: skip
    assert abs(sum(parts) / 2 - run(batch, config)[0]) > 1e-3


# ---- padded slots --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e38])
@pytest.mark.parametrize("name", CONFIGS)
def test_garbage_in_padded_slots_reaches_neither_loss_nor_gradient(name, garbage, make_loss_batch):
    for per_token in (False, True):
        clean = make_loss_batch(lengths=LENGTHS, per_token=per_token)
        mask = clean[-1]
        expected = run(clean, CONFIGS[name])
        assert (expected[1][~mask] == 0).all()
        for which in ([0], [1], [2], [3], [0, 1, 2, 3]):
            dirty = [torch.where(mask, x, garbage) if i in which and x.dim() == 2 else x for i, x in enumerate(clean)]
            torch.testing.assert_close(run(dirty, CONFIGS[name]), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_wider_padding_changes_nothing(name, make_loss_batch):
    if CONFIGS[name].aggregation == "constant":
        assert CONFIGS[name].max_length
    batch = make_loss_batch(lengths=LENGTHS)
    wide = [torch.nn.functional.pad(x, (0, 3)) if x.dim() == 2 else x for x in batch]
    loss, gradient, metrics = run(wide, CONFIGS[name])
    torch.testing.assert_close((loss, gradient[:, :6], metrics), run(batch, CONFIGS[name]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_completion_without_tokens_adds_nothing(name, make_loss_batch):
    batch = make_loss_batch(lengths=(3, 0, 4))
    batch[3][1] = math.nan  # whatever its advantage
    loss, gradient, metrics = run(batch, CONFIGS[name], num_tokens=7, num_sequences=2)
    expected = run([x[[0, 2]] for x in batch], CONFIGS[name])
    torch.testing.assert_close((loss, gradient[[0, 2]], metrics), expected, rtol=1e-5, atol=1e-7)
    assert (gradient[1] == 0).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_without_tokens_has_loss_zero(name, make_loss_batch):
    loss, gradient, metrics = run(make_loss_batch(lengths=(0, 0)), CONFIGS[name])
    assert loss == 0 and (gradient == 0).all()
    assert all(value == 0 for value in metrics.values())


def test_counts_default_to_those_of_the_batch(make_loss_batch):
    batch = make_loss_batch(lengths=LENGTHS)
    for config in CONFIGS.values():
        counts = {"num_tokens": sum(LENGTHS), "num_sequences": 8}
        torch.testing.assert_close(run(batch, config), run(batch, config, **counts), rtol=1e-6, atol=1e-8)
