"""k1, k2 and k3 against the exact KL of a small softmax: expectations over all tokens, enumerated.

pi = softmax(theta) over V tokens, ref another distribution; E is over tokens drawn from pi, which is where
on-policy samples come from. In the loss (differentiated per token, the sampling held fixed):

    estimator    E[k]          E[d k / d theta]
    k1           KL(pi||ref)   0                        (E[d log pi] = 0: it does not pull at all)
    k2           biased        d KL(pi||ref) / d theta  (reverse KL, what the penalty is meant to be)
    k3           KL(pi||ref)   d KL(ref||pi) / d theta  (forward KL)
    rho k3       KL(pi||ref)   d KL(pi||ref) / d theta  (reverse KL; `kl_ratio`)

In the reward (not differentiated, through the policy gradient) k1 gives the reverse KL's gradient.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo.loss import KL_ESTIMATORS, MAX_LOG_RATIO, LossConfig, k1, k2, k3, policy_loss

POLICY = torch.tensor([5.0, 1.0, 2.0, 8.0, 4.0], dtype=torch.float64) / 20  # [V]
REF = torch.tensor([0.1, 0.4, 0.2, 0.05, 0.25], dtype=torch.float64).log()  # [V] log-probs


def theta():
    return POLICY.log().requires_grad_()


def gradient(f):
    """d f(log softmax(theta)) / d theta."""
    t = theta()
    return torch.autograd.grad(f(t.log_softmax(dim=0)), t)[0]


def reverse_kl(logp):
    return sum(logp[v].exp() * (logp[v] - REF[v]) for v in range(len(REF)))


def forward_kl(logp):
    return sum(REF[v].exp() * (REF[v] - logp[v]) for v in range(len(REF)))


def expected(estimator):
    """E over tokens of the estimator; the probabilities are those that the tokens were drawn with, so constants."""
    return lambda logp: sum(POLICY[v] * estimator(logp[v], REF[v]) for v in range(len(REF)))


GRADIENTS = {"k1": lambda logp: 0.0 * logp.sum(), "k2": reverse_kl, "k3": forward_kl}


def test_the_three_gradients_differ():
    reverse, forward = gradient(reverse_kl), gradient(forward_kl)
    assert reverse.abs().max() > 0.1 and forward.abs().max() > 0.1
    assert (reverse - forward).abs().max() > 0.1


@pytest.mark.parametrize("name", KL_ESTIMATORS)
def test_expected_gradient(name):
    torch.testing.assert_close(
        gradient(expected(KL_ESTIMATORS[name])), gradient(GRADIENTS[name]), rtol=1e-9, atol=1e-12
    )


def test_expected_value():
    logp = POLICY.log()
    for estimator in (k1, k3):
        torch.testing.assert_close(expected(estimator)(logp), reverse_kl(logp))
    assert abs(expected(k2)(logp) - reverse_kl(logp)) > 0.01


@pytest.mark.parametrize("name", KL_ESTIMATORS)
def test_expected_gradient_of_the_whole_loss(name):
    # 20 one-token completions in the policy's own proportions make the expectation exact
    t = theta()
    tokens = torch.arange(5).repeat_interleave(torch.tensor([5, 1, 2, 8, 4]))
    logps = t.log_softmax(dim=0)[tokens][:, None]  # [20, 1]
    mask = torch.ones(20, 1, dtype=torch.bool)
    config = LossConfig(kl=name, beta=0.3)
    policy_loss(logps, logps.detach(), REF[tokens][:, None], torch.zeros(20), mask, config)[0].backward()
    torch.testing.assert_close(t.grad, 0.3 * gradient(GRADIENTS[name]), rtol=1e-9, atol=1e-12)


def test_k3_weighted_by_the_ratio_gives_the_reverse_kl():
    """arXiv:2512.02556, section 3.1: E over the old policy of rho k3 is the KL itself, so its gradient is the KL's."""
    t = theta()
    tokens = torch.arange(5).repeat_interleave(torch.tensor([5, 1, 2, 8, 4]))
    logps = t.log_softmax(dim=0)[tokens][:, None]  # [20, 1]
    mask, config = torch.ones(20, 1, dtype=torch.bool), LossConfig(kl_ratio=True, beta=0.3)
    loss, _ = policy_loss(logps, logps.detach(), REF[tokens][:, None], torch.zeros(20), mask, config)
    loss.backward()
    torch.testing.assert_close(t.grad, 0.3 * gradient(reverse_kl), rtol=1e-9, atol=1e-12)
    assert (t.grad - 0.3 * gradient(forward_kl)).abs().max() > 0.03


@pytest.mark.parametrize("name", ["clip", "reinforce", "cispo"])
def test_k1_in_the_reward_gives_the_reverse_kl(name):
    t = theta()
    tokens = torch.arange(5).repeat_interleave(torch.tensor([5, 1, 2, 8, 4]))
    logps = t.log_softmax(dim=0)[tokens][:, None]
    penalty = -k1(logps.detach(), REF[tokens][:, None])  # [20, 1]: the advantage of a reward that is only the KL
    mask = torch.ones(20, 1, dtype=torch.bool)
    policy_loss(logps, logps.detach(), None, penalty, mask, LossConfig(surrogate=name, beta=0.0))[0].backward()
    torch.testing.assert_close(t.grad, gradient(reverse_kl), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["k2", "k3"])
def test_the_penalty_pulls_towards_the_reference(name):
    for gap in (-1.0, 1.0):
        logps = torch.tensor([[-2.0]], requires_grad=True)
        loss, _ = policy_loss(
            logps, logps.detach(), logps.detach() + gap, torch.zeros(1), torch.tensor([[True]]), LossConfig(kl=name)
        )
        loss.backward()
        assert loss > 0
        assert torch.sign(-logps.grad).item() == gap  # a descent step goes where the reference is


@given(logp=st.floats(-30, 0), ref=st.floats(-30, 0))
def test_equation(logp, ref):
    x, r = torch.tensor(logp, dtype=torch.float64), torch.tensor(ref, dtype=torch.float64)
    assert k1(x, r).item() == pytest.approx(logp - ref)
    assert k2(x, r).item() == pytest.approx((logp - ref) ** 2 / 2)
    gap = min(ref - logp, MAX_LOG_RATIO)
    assert k3(x, r).item() == pytest.approx(math.exp(gap) - gap - 1, abs=1e-9)
    assert k2(x, r) >= 0 and k3(x, r) >= -1e-12


@pytest.mark.parametrize("estimator", KL_ESTIMATORS.values(), ids=KL_ESTIMATORS)
def test_no_divergence_from_oneself(estimator):
    x = torch.tensor([-0.1, -5.0, -40.0])
    assert estimator(x, x).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("estimator", KL_ESTIMATORS.values(), ids=KL_ESTIMATORS)
def test_a_token_that_the_policy_has_forgotten_does_not_overflow(estimator):
    x = torch.tensor([-500.0], requires_grad=True)
    value = estimator(x, torch.tensor([-0.5]))
    value.sum().backward()
    assert value.isfinite().all() and x.grad.isfinite().all()


def test_a_kl_in_the_loss_needs_a_reference(make_loss_batch):
    logps, old, _, advantages, mask = make_loss_batch()
    with pytest.raises(ValueError, match=r"beta = 0\.04 .* needs ref_logps"):
        policy_loss(logps, old, None, advantages, mask, LossConfig())
