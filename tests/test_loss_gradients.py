"""The policy loss: where its gradient points, where it is zero, and what it is at the first step."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from grpo.loss import MAX_LOG_RATIO, PRESETS, LossConfig, policy_loss

# ---- gradient signs on both sides of the clip ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("advantage", "rho", "sign"),
    [  # the sign of d loss / d logp: negative makes the token more likely
        (+1.0, 0.50, -1), (+1.0, 0.79, -1), (+1.0, 1.00, -1), (+1.0, 1.19, -1), (+1.0, 1.21, 0), (+1.0, 3.00, 0),
        (-1.0, 0.50, 0), (-1.0, 0.79, 0), (-1.0, 0.81, +1), (-1.0, 1.00, +1), (-1.0, 1.21, +1), (-1.0, 3.00, +1),
        (0.0, 0.50, 0), (0.0, 1.00, 0), (0.0, 3.00, 0),
    ],
)  # fmt: skip
def test_gradient_sign_of_the_clip(advantage, rho, sign):
    old = torch.tensor([[-2.0]])
    logps = (old + math.log(rho)).requires_grad_()
    mask = torch.tensor([[True]])
    loss, metrics = policy_loss(logps, old, None, torch.tensor([advantage]), mask, LossConfig(beta=0.0))
    loss.backward()
    assert torch.sign(logps.grad).item() == sign
    if sign:  # not cut off: the whole policy gradient -rho A
        assert logps.grad.item() == pytest.approx(-rho * advantage, rel=1e-5)
    cut = {"clip_fraction_high": advantage > 0 and sign == 0, "clip_fraction_low": advantage < 0 and sign == 0}
    assert {name: bool(metrics[name]) for name in cut} == cut


@pytest.mark.parametrize(
    ("advantage", "rho", "sign"),
    [(-1.0, 1.9, +1), (-1.0, 2.1, 0), (-1.0, 1.0, +1), (+1.0, 1.1, -1), (+1.0, 0.5, -1), (+1.0, 2.1, 0)],
)
def test_gradient_sign_of_the_two_sided_clip(advantage, rho, sign):
    old = torch.tensor([[-2.0]])
    logps = (old + math.log(rho)).requires_grad_()
    config = LossConfig(beta=0.0, delta=2.0)
    loss, metrics = policy_loss(logps, old, None, torch.tensor([advantage]), torch.tensor([[True]]), config)
    loss.backward()
    assert torch.sign(logps.grad).item() == sign
    cut = {"clip_fraction_high": advantage > 0 and sign == 0, "clip_fraction_delta": advantage < 0 and sign == 0}
    assert {name: bool(metrics[name]) for name in cut} == cut and metrics["clip_fraction_low"] == 0


@pytest.mark.parametrize("rho", [0.1, 0.5, 1.0, 1.5, 4.0])
@pytest.mark.parametrize("surrogate", ["reinforce", "cispo", "sapo"])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_the_unclipped_surrogates_always_push_with_the_advantage(advantage, surrogate, rho):
    old = torch.tensor([[-2.0]])
    logps = (old + math.log(rho)).requires_grad_()
    config = LossConfig(surrogate=surrogate, beta=0.0)
    policy_loss(logps, old, None, torch.tensor([advantage]), torch.tensor([[True]]), config)[0].backward()
    assert torch.sign(logps.grad).item() == -advantage


@pytest.mark.parametrize("name", PRESETS)
def test_on_policy_every_preset_has_the_same_gradient_direction(make_loss_batch, name):
    # rho = 1, ref = policy: what remains is the policy gradient -A, times each token's weight
    logps, _, _, advantages, mask = make_loss_batch()
    config = replace(PRESETS[name], weight=tuple(w for w in PRESETS[name].weight if w != "top_entropy"))
    policy_loss(logps, logps.detach(), logps.detach(), advantages, mask, config)[0].backward()
    lengths = mask.sum(dim=1)
    weights = {  # of a token, by aggregation
        "sequence_mean": 1 / lengths / 4,
        "token_mean": 1 / lengths.sum().expand(4),
        "constant": torch.full((4,), 1 / (4 * 6)),
        "sequence_sum": torch.full((4,), 1 / 4),
    }
    weight = weights[PRESETS[name].aggregation]
    torch.testing.assert_close(logps.grad, -(weight * advantages)[:, None] * mask, rtol=1e-5, atol=1e-7)


# ---- why does the loss start at 0? ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grpo", "gspo"])
def test_the_loss_starts_at_zero_but_its_gradient_does_not(make_loss_batch, name):
    # rho = 1 and kl = 0, so the loss is minus the mean advantage, and the advantages of a group cancel
    logps, _, _, _, mask = make_loss_batch()
    advantages = torch.tensor([1.5, -0.5, -0.5, -0.5])
    loss, metrics = policy_loss(logps, logps.detach(), logps.detach(), advantages, mask, PRESETS[name])
    loss.backward()
    assert abs(loss.item()) < 1e-7
    assert metrics["ratio"] == metrics["ratio_max"] == 1
    assert metrics["clip_fraction_low"] == metrics["clip_fraction_high"] == metrics.get("kl", 0) == 0
    assert (logps.grad != 0).equal(mask)


@pytest.mark.parametrize("name", ["dr_grpo", "dapo"])
def test_the_loss_does_not_start_at_zero_where_long_completions_weigh_more(make_loss_batch, name):
    advantages = torch.tensor([1.5, -0.5, -0.5, -0.5])
    for lengths, zero in (([3, 6, 1, 4], False), ([4, 4, 4, 4], True)):
        logps, _, _, _, mask = make_loss_batch(lengths=lengths)
        loss, _ = policy_loss(logps, logps.detach(), None, advantages, mask, PRESETS[name])
        assert (abs(loss.item()) < 1e-7) == zero


# ---- far-off ratios ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [200.0, -200.0])
@pytest.mark.parametrize("name", PRESETS)
def test_log_ratios_that_would_overflow_stay_finite(name, gap):
    assert math.exp(MAX_LOG_RATIO) > 1e6  # far outside any clip range
    for advantage in (1.0, -1.0):
        old = torch.full((1, 2), -1.0)
        logps = (old + gap).requires_grad_()
        mask = torch.ones(1, 2, dtype=torch.bool)
        loss, metrics = policy_loss(logps, old, old, torch.tensor([advantage]), mask, PRESETS[name], entropy=-old)
        loss.backward()
        assert all(x.isfinite().all() for x in (loss, logps.grad, *metrics.values()))
