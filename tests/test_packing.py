"""Packed weights and recomputed activations: other ways to the same numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from grpo import packing
from grpo.logprobs import completion_logps
from grpo.packing import is_packed, pack_for_good, packed, product
from grpo.policy import Policy
from grpo.recompute import recompute

here = pytest.mark.skipif(not packing.gains(torch.empty(1 << 18)), reason="this processor does not gain from packing")


@here
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_computes_the_same(dtype, tolerance, bias):
    model = nn.Sequential(nn.Linear(512, 640, bias=bias), nn.Linear(640, 3)).to(dtype)
    x = torch.randn(2, 5, 512).to(dtype)
    expected, small = model[0](x), model[1]
    with packed(model):
        assert is_packed(model[0]) and not is_packed(small)  # calling it would cost more than it gains
        torch.testing.assert_close(model[0](x), expected, atol=tolerance, rtol=0)
        with packed(model):  # inner use does not unpack what the outer one packed
            pass
        assert is_packed(model[0])
    assert not is_packed(model[0]) and model[0](x).equal(expected)
    torch.testing.assert_close(product(model[0], x), expected, atol=tolerance, rtol=0)
    assert not product(model[0], x).requires_grad


@here
def test_an_error_inside_unpacks():
    model = nn.Sequential(nn.Linear(512, 512))
    with pytest.raises(KeyError), packed(model):
        raise KeyError
    assert not is_packed(model[0])


@here
def test_a_packed_weight_is_the_one_of_the_moment():
    model = nn.Sequential(nn.Linear(512, 512, bias=False))
    x = torch.randn(3, 512)
    for _ in range(2):
        with torch.no_grad():
            model[0].weight.add_(1.0)
        with packed(model):
            torch.testing.assert_close(model(x), x @ model[0].weight.T, atol=1e-2, rtol=1e-4)


@here
@pytest.mark.parametrize("tied", [True, False])
def test_a_reference_lets_go_of_its_weights(tied):
    config = LlamaConfig(
        hidden_size=512, intermediate_size=520, num_hidden_layers=1, num_attention_heads=4, vocab_size=600,
        tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    ids = torch.arange(12)[None]
    expected = model(ids).logits
    frozen = copy.deepcopy(model)
    pack_for_good(frozen)
    torch.testing.assert_close(frozen(ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert frozen.model.layers[0].mlp.up_proj.weight.numel() == 0
    assert bool(frozen.lm_head.weight.numel()) == tied


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_recomputed_activations_give_the_same_gradient(make_policy, make_rollouts, kind):
    plain, other = make_policy(kind), make_policy(kind)
    recompute(other.model)
    rollouts = make_rollouts([6, 1, 3], [4, 2, 5, 3, 3, 1], group_size=2)
    sizes = {}
    for policy in (plain, other):
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):  # noqa: B023
            logps, _ = completion_logps(policy, rollouts, 1.0)
        sizes[id(policy)] = sum(x.numel() for x in kept)
        logps.sum().backward()
    gradients = [{n: p.grad for n, p in policy.model.named_parameters()} for policy in (plain, other)]
    for name, gradient in gradients[0].items():
        assert gradient.equal(gradients[1][name]), name
    assert sizes[id(other)] < 0.7 * sizes[id(plain)]


def test_without_gradient_nothing_is_recomputed(make_policy, make_rollouts):
    policy: Policy = make_policy()
    rollouts = make_rollouts([4], [3, 2], group_size=2)
    with torch.no_grad():
        expected = completion_logps(policy, rollouts, 1.0)[0]
        recompute(policy.model)
        assert completion_logps(policy, rollouts, 1.0)[0].equal(expected)
