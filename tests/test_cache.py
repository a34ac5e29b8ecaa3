"""The caches: decoding in place equals concatenation, and training on a prompt leaves it as it was."""

from __future__ import annotations

import pytest
import torch
from grpo.cache import Continued, Decoding, Filling, empty_cache, pad_left, select
from transformers import DynamicCache

from grpo.logprobs import completion_logps


def filled(rows=3, length=5):
    cache = DynamicCache()
    cache.layers = [Filling(), Filling()]
    for index in range(2):
        keys, values = torch.randn(2, rows, 2, length, 4, generator=torch.Generator().manual_seed(index))
        cache.update(keys, values, index)
    return cache


@pytest.mark.parametrize("length, room", [(5, 40), (0, 20), (16, 1)])
def test_decoding_in_place_is_concatenation(length, room):
    prompt = filled(length=length) if length else None
    index = torch.tensor([2, 0, 0, 1])
    layer = select(prompt, index, room).layers[0] if prompt else Decoding(None, None, room)
    expected = prompt.layers[0].keys[index] if prompt else torch.zeros(4, 2, 0, 4)
    generator = torch.Generator().manual_seed(1)
    for step in range(room):
        new = torch.randn(4, 2, 1, 4, generator=generator)
        width, offset = layer.get_mask_sizes(1)
        keys, values = layer.update(new, -new)
        expected = torch.cat([expected, new], dim=2)
        assert keys.shape[2] == width >= layer.get_seq_length() == length + step + 1 and offset == 0
        assert keys[:, :, : length + step + 1].equal(expected)
        assert values[:, :, length : length + step + 1].equal(-expected[:, :, length:])
    assert not keys[:, :, layer.get_seq_length() :].any()  # no garbage: 0 * NaN would be NaN


def test_rows_leave_a_decoding_cache():
    layers = select(filled(), torch.tensor([0, 1, 2]), 4)
    layers.update(torch.ones(3, 2, 1, 4), torch.ones(3, 2, 1, 4), 0)
    fewer = select(layers, torch.tensor([2]))
    assert isinstance(fewer.layers[0], Decoding) and fewer.get_seq_length() == 6
    assert fewer.layers[0].keys.equal(layers.layers[0].keys[2:])


def test_training_keeps_nothing_of_a_completion():
    chosen = select(filled(), torch.tensor([1, 1]))
    assert isinstance(chosen.layers[1], Continued)
    new = torch.randn(2, 2, 7, 4)
    first, second = (chosen.update(new, new, 1)[0] for _ in range(2))
    assert first.equal(second) and first.shape[2] == 12 and chosen.get_seq_length(1) == 5


def test_slots_on_the_left():
    cache = filled()
    padded = pad_left(cache, 3)
    assert padded.get_seq_length() == 8 and not padded.layers[1].values[:, :, :3].any()
    assert padded.layers[1].values[:, :, 3:].equal(cache.layers[1].values)
    assert pad_left(cache, 0) is cache


def test_sliding_windows_keep_the_cache_of_transformers(make_policy):
    assert not any(isinstance(x, Filling) for x in empty_cache(make_policy("mistral-window").model.config).layers)
    assert all(isinstance(x, Filling) for x in empty_cache(make_policy().model.config).layers)


# ---- the prompts' own graph -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way, expected", [("none", ["1", "0"]), ("full", ["1", "0", "0"])])
def test_the_prompts_may_be_run_backward_after_the_completions(make_policy, make_rollouts, way, expected):
    """Then no weight's gradient waits for the prompts', but is added to `.grad` before the next layer's is known."""
    policy, plain, rollouts = make_policy("qwen2"), make_policy("qwen2"), make_rollouts([6, 3], [4, 2])
    policy.recompute, order = way, []
    for name, parameter in policy.model.named_parameters():
        if name.endswith("up_proj.weight"):
            parameter.register_post_accumulate_grad_hook(lambda p, name=name: order.append(name.split(".")[2]))
    for each in (policy, plain):
        completion_logps(each, rollouts, 1.0)[0].sum().backward()
    assert order == expected  # the keys and values of the prompts' last layer come before its MLP
    gradients = dict(plain.model.named_parameters())
    for name, parameter in policy.model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-5, atol=1e-6)


def test_a_frozen_prompt_needs_no_graph(make_policy, make_rollouts):
    policy, rollouts = make_policy(), make_rollouts([6], [4])
    policy.recompute = "full"
    for name, parameter in policy.model.named_parameters():
        parameter.requires_grad_("layers.1.mlp" in name)  # behind the last keys and values
    completion_logps(policy, rollouts, 1.0)[0].sum().backward()
    trained = {name for name, p in policy.model.named_parameters() if p.grad is not None}
    assert trained == {f"model.layers.1.mlp.{x}_proj.weight" for x in ("gate", "up", "down")}
