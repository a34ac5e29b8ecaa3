"""The head in two bf16 halves: within 2e-5 nats of the fp32 product, through sampling, log-probs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from grpo.logprobs import completion_logps, token_logps
from grpo.model import head
from grpo.model.head import Head, multiplies_to_fp32, split
from grpo.model.policy import ModelConfig, load_policy
from grpo.sampling import sample_groups
from grpo.types import SamplingConfig

NATS = 2e-5
"""What the halves may change the log-prob of a sampled token by, at most."""
PROMPTS, IDS = [[5, 7, 3], [9, 6], [4, 4, 8, 2, 15, 6, 11]], ["a", "b", "c"]


@pytest.fixture
def adds_up_in_fp32(monkeypatch):
    """A CPU that has a GPU's product: exact products of bf16 numbers, added up in fp32."""

    def matmul(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
        assert a.dtype == b.dtype == torch.bfloat16
        return torch.mm(a.float(), b.float(), out=out)

    monkeypatch.setattr(head, "matmul_to_fp32", matmul)
    monkeypatch.setattr(head, "multiplies_to_fp32", lambda device: True)


def random_head(width: int, vocabulary: int, bias: bool = False) -> tuple[nn.Linear, Tensor]:
    """A layer whose logits spread as those of a trained model do, and hidden states in bf16."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Linear(width, vocabulary, bias=bias)
        nn.init.normal_(layer.weight, std=2 * width**-0.5)
        return layer, torch.randn(100, width).bfloat16()


def test_the_halves_are_sixteen_bits_of_a_weight():
    weight = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    halves = split(weight)
    assert halves.shape == (40, 60) and halves.dtype == torch.bfloat16
    high, low = halves.double().chunk(2, dim=1)
    assert high.equal(weight.bfloat16().double())
    assert ((high + low - weight).abs() <= 2**-16 * weight.abs()).all()
    assert ((high - weight).abs() > 2**-10 * weight.abs()).any()  # the upper one alone would not do


@pytest.mark.parametrize("width, vocabulary", [(64, 500), (576, 4000), (1536, 3000)])
def test_log_probs_of_the_halves_are_those_of_fp32(width, vocabulary, adds_up_in_fp32):
    layer, hidden = random_head(width, vocabulary)
    exact = (hidden.double() @ layer.weight.double().t()).log_softmax(dim=-1)
    sampled = exact.exp().multinomial(1, generator=torch.Generator().manual_seed(0))
    fast = Head(layer, 1.0, None, torch.bfloat16).logits(hidden)
    plain = hidden @ layer.weight.bfloat16().t()
    fast, plain = ((z.double().log_softmax(dim=-1) - exact).gather(1, sampled).abs().max() for z in (fast, plain))
    assert fast < NATS and plain > 100 * NATS


@pytest.mark.parametrize("scale, cap", [(1.0, None), (0.5, None), (1.0, 3.0), (2.0, 5.0)])
def test_bias_scale_cap_and_slices_are_the_same(scale, cap, adds_up_in_fp32):
    layer, hidden = random_head(64, 500, bias=True)
    fast, exact = (Head(layer, scale, cap, dtype) for dtype in (torch.bfloat16, torch.float32))
    room = torch.empty(100, 500)
    assert fast.logits(hidden, out=room) is room
    torch.testing.assert_close(room, exact.logits(hidden), atol=1e-4, rtol=1e-4)
    some = slice(100, 230)
    torch.testing.assert_close(fast.logits(hidden, some), room[:, some], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype, states", [(torch.float32, torch.float32), (torch.bfloat16, torch.float32)])
def test_hidden_states_of_fp32_take_the_fp32_product(dtype, states, adds_up_in_fp32):
    layer, hidden = random_head(64, 500)
    hidden = hidden.to(states) + 1e-3
    assert Head(layer, 1.0, None, dtype).logits(hidden).equal(hidden @ layer.weight.t())


def test_sampler_and_trainer_stay_as_close(adds_up_in_fp32):
    """And log-probs and gradients are those of the fp32 head on the same hidden states."""
    policy = load_policy(ModelConfig(path="tiny", dtype="bfloat16"), training=False)
    rollouts = sample_groups(policy, PROMPTS, IDS, 4, SamplingConfig(max_new_tokens=30), seed=0)
    hidden = policy.completion_states(rollouts).detach().requires_grad_()
    targets = rollouts.completion_ids[rollouts.mask]
    results = {}
    for fast in (True, False):
        exact = Head(policy.head, policy.logit_scale, policy.logit_cap, torch.float32)
        policy.current_head = policy.__class__.current_head.__get__(policy) if fast else lambda exact=exact: exact
        logps, entropy = token_logps(policy, hidden, targets, 1.0)
        gradients = torch.autograd.grad((logps - 0.1 * entropy).sum(), [hidden, policy.head.weight])
        gap = (completion_logps(policy, rollouts, 1.0)[0].detach() - rollouts.sampler_logps).abs().max()
        results[fast] = logps.detach(), gradients, gap
    (ours, our_gradients, gap), (theirs, their_gradients, other_gap) = results[True], results[False]
    assert 0 < (ours - theirs).abs().max() < NATS
    for g, expected in zip(our_gradients, their_gradients, strict=True):
        assert (g - expected).float().norm() < 1e-3 * expected.float().norm()
    assert gap < other_gap + 10 * NATS


@pytest.mark.parametrize("fast", [True, False])
def test_only_gradients_of_the_halves_may_be_of_tf32_and_only_there(fast, adds_up_in_fp32):
    layer, _ = random_head(8, 10)
    one = Head(layer, 1.0, None, torch.bfloat16 if fast else torch.float32)
    before = torch.get_float32_matmul_precision()
    assert before == "highest"
    with pytest.raises(KeyError), one.gradient_precision():
        assert torch.get_float32_matmul_precision() == ("high" if fast else before)
        raise KeyError
    assert torch.get_float32_matmul_precision() == before


def test_a_device_without_that_product_keeps_fp32(monkeypatch):
    assert not multiplies_to_fp32(torch.device("cpu"))
    layer, hidden = random_head(64, 500)
    one = Head(layer, 1.0, None, torch.bfloat16)
    assert not one.fast and one.halves is None
    assert one.logits(hidden).equal(hidden.float() @ layer.weight.t())
