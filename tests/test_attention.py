"""Attention without copies: equal to its formula, and in bfloat16 independent of what surrounds a token."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from grpo import attention
from grpo.attention import BLOCK, PIECE, attend, exact_attention, padded_width, slots
from grpo.policy import ModelConfig, load_policy
from grpo.sampling import SamplingConfig, sample_groups
from grpo.trainer import frozen_logps


def formula(query, key, value, mask, scaling):
    """softmax(q k^T * scaling + mask) v, head by head. [B, S, H, D]"""
    out = torch.zeros(query.shape[0], query.shape[2], query.shape[1], query.shape[3], dtype=torch.float64)
    groups = query.shape[1] // key.shape[1]
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            k, v = key[b, h // groups].double(), value[b, h // groups].double()
            scores = query[b, h].double() @ k.T * scaling
            out[b, :, h] = scores.masked_fill(~mask[b, 0], -torch.inf).softmax(dim=-1) @ v
    return out


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("heads, shared", [(6, 2), (4, 4), (7, 1)])
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("scaling", [0.2, 0.35])
def test_attend_is_its_formula(dtype, tolerance, heads, shared, steps, scaling):
    generator = torch.Generator().manual_seed(heads + steps)
    query = torch.randn(2, heads, steps, 8, generator=generator).to(dtype)
    key, value = (torch.randn(2, shared, 70, 8, generator=generator).to(dtype) for _ in range(2))
    mask = torch.ones(2, 1, steps, 70, dtype=torch.bool).tril(70 - steps)
    mask[1, :, :, :9] = False  # padding on the left
    ours, _ = attend(None, query, key, value, mask, scaling=scaling)
    assert ours.shape == (2, steps, heads, 8) and ours.dtype == dtype
    torch.testing.assert_close(ours.double(), formula(query, key, value, mask, scaling), atol=tolerance, rtol=0)


def test_without_a_mask_it_is_causal():
    query, key, value = torch.randn(3, 1, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    ours, _ = attend(None, query, key, value, None, scaling=0.5)
    torch.testing.assert_close(ours.double(), formula(query, key, value, mask, 0.5), atol=1e-5, rtol=0)


def test_whole_blocks_hold_what_they_must():
    for dtype in (torch.float32, torch.bfloat16):
        for length in range(1, 1500):
            assert 0 <= slots(length) - length < BLOCK and slots(length) % BLOCK == 0
            width, cached = padded_width(length, dtype)
            assert length <= width <= cached
            assert dtype == torch.float32 or not (width % BLOCK or cached % PIECE)
    assert padded_width(0, torch.bfloat16) == (0, 0)


def exact_inputs(rows=3, heads=6, shared=2, steps=40, length=400, size=16):
    torch.manual_seed(0)
    query = torch.randn(rows, heads, steps, size, requires_grad=True)
    key, value = (torch.randn(rows, shared, length, size, requires_grad=True) for _ in range(2))
    return query, key, value, torch.ones(rows, 1, steps, length, dtype=torch.bool).tril(length - steps)


@pytest.mark.parametrize("heads, shared", [(6, 2), (4, 4), (3, 1)])
def test_exact_attention_gives_a_query_the_same_bits_in_any_batch(heads, shared):
    query, key, value, mask = exact_inputs(heads=heads, shared=shared)
    whole = exact_attention(query, key, value, ~mask, 0.25)
    torch.testing.assert_close(
        whole.transpose(1, 2).double(), formula(query, key, value, mask, 0.25), atol=1e-5, rtol=0
    )
    for step in (0, 7, 23, 39):
        seen, some = slots(361 + step), slice(1, 3)
        once = exact_attention(
            query[some, :, step : step + 1], key[some, :, :seen], value[some, :, :seen],
            ~mask[some, :, step : step + 1, :seen], 0.25,
        )  # fmt: skip
        assert once[:, :, 0].equal(whole[some, :, step])


def test_exact_attention_has_the_gradient_of_the_kernel(monkeypatch):
    query, key, value, mask = exact_inputs()
    wanted, g = (query, key, value), torch.randn(query.shape)
    kernel = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.25, enable_gqa=True)
    expected = torch.autograd.grad(kernel, wanted, g)
    for chunk in (1, 1 << 30):
        monkeypatch.setattr(attention, "CHUNK", chunk)
        gradients = torch.autograd.grad(exact_attention(query, key, value, ~mask, 0.25), wanted, g)
        for ours, theirs in zip(gradients, expected, strict=True):
            assert (ours - theirs).norm() < 0.01 * theirs.norm()  # products in bfloat16


@pytest.mark.parametrize("dtype, limit", [("float32", 1e-5), ("bfloat16", 5e-3)])
def test_sampler_and_trainer_see_the_same_numbers(dtype, limit):
    """The mean gap between a token's log-prob as sampled and as trained on, prompts and batches of many lengths."""
    policy = load_policy(ModelConfig("tiny", dtype=dtype))
    policy.eos_ids = []
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 60, (n,), generator=generator).tolist() for n in (1, 7, 40, 90)]
    rollouts = sample_groups(policy, prompts, list("abcd"), 4, SamplingConfig(max_new_tokens=120), seed=0)
    whole, single = [torch.arange(16)], list(torch.arange(16).split(1))
    for cut in (whole, single, [torch.arange(4), torch.arange(4, 16)]):
        gap = (frozen_logps(policy, rollouts, cut, 1.0) - rollouts.sampler_logps).abs()
        assert gap[rollouts.mask].mean() < limit
