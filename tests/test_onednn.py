"""oneDNN's products and packed weights: faster, and otherwise as PyTorch has it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from grpo import onednn
from grpo.onednn import Linear, pack_for_good, packed, product, use_onednn

here = pytest.mark.skipif(not onednn.available(), reason="this processor does not gain from oneDNN")
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


def linears(*shapes: tuple[int, int], bias: bool = True) -> nn.Sequential:
    model = nn.Sequential(*(nn.Linear(*shape, bias=bias) for shape in shapes))
    use_onednn(model)
    return model


@here
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(5,), (4, 700), (1, 3, 800)], ids=str)
def test_value_and_gradient_are_those_of_the_plain_product(rows, bias, monkeypatch):
    layer = linears((64, 96), bias=bias)[0]
    x, g = torch.randn(*rows, 64, requires_grad=True), torch.randn(*rows, 96)
    wanted = [x, *layer.parameters()]
    expected = F.linear(x, layer.weight, layer.bias)
    gradients = torch.autograd.grad(expected, wanted, g)
    monkeypatch.setattr(onednn, "LEAST_PRODUCT", 0)
    ours = layer(x)
    assert type(ours.grad_fn).__name__ == "_ProductBackward"
    torch.testing.assert_close(ours, expected, **CLOSE)
    torch.testing.assert_close(torch.autograd.grad(ours, wanted, g), gradients, atol=1e-3, rtol=1e-4)


@here
@pytest.mark.parametrize("frozen", ["weight", "bias", "x"])
def test_what_is_frozen_gets_no_gradient(frozen, monkeypatch):
    monkeypatch.setattr(onednn, "LEAST_PRODUCT", 0)
    layer, x = linears((64, 96))[0], torch.randn(3, 64, requires_grad=True)
    tensors = {"weight": layer.weight, "bias": layer.bias, "x": x}
    tensors[frozen].requires_grad_(False)
    layer(x).sum().backward()
    assert [name for name, tensor in tensors.items() if tensor.grad is None] == [frozen]


@here
def test_small_products_and_other_types_stay_pytorchs():
    layer = linears((64, 96))[0]
    assert type(layer(torch.randn(2, 64)).grad_fn).__name__ == "AddmmBackward0"
    assert type(layer(torch.randn(2048, 64)).grad_fn).__name__ == "_ProductBackward"
    assert type(layer.bfloat16()(torch.randn(2048, 64).bfloat16()).grad_fn).__name__ == "AddmmBackward0"


def test_where_it_does_not_pay_nothing_is_replaced(monkeypatch):
    monkeypatch.setattr(onednn, "available", lambda: False)
    model, x = linears((512, 512)), torch.randn(64, 512)
    assert type(model[0]) is nn.Linear
    with packed(model):
        assert model(x).equal(product(x, model[0].weight, model[0].bias))


@here
def test_other_kinds_of_layer_are_left_alone():
    class Own(nn.Linear):
        pass

    model = nn.Sequential(Own(4, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    use_onednn(model)
    assert [type(layer) for layer in model] == [Own, Linear, nn.LayerNorm]


@pytest.mark.parametrize("shape", [(3, 5), (2, 600, 256)], ids=str)
def test_a_product_without_gradient(shape):
    x, weight, bias = torch.randn(shape), torch.randn(700, shape[-1], requires_grad=True), torch.randn(700)
    ours = product(x, weight, bias)
    assert not ours.requires_grad
    torch.testing.assert_close(ours, (x.double() @ weight.double().T + bias).float(), atol=1e-3, rtol=1e-4)
    assert product(x, weight, bias).equal(ours)


# ---- packed weights -----------------------------------------------------------------------------------------


@here
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_computes_the_same(dtype, tolerance, bias):
    model = linears((512, 640), (640, 3), bias=bias).to(dtype)
    x = torch.randn(2, 5, 512).to(dtype)
    expected, small = model[0](x), model[1]
    with packed(model):
        assert model[0].packed_weight is not None
        assert small.packed_weight is None  # calling it would cost more than it gains
        torch.testing.assert_close(model[0](x), expected, atol=tolerance, rtol=0)
        assert not model[0](x).requires_grad
        with packed(model):  # inner use does not unpack what the outer one packed
            pass
        assert model[0].packed_weight is not None
    assert model[0].packed_weight is None and model[0](x).equal(expected)


@here
def test_an_error_inside_unpacks():
    model = linears((512, 512))
    with pytest.raises(KeyError), packed(model):
        raise KeyError
    assert model[0].packed_weight is None


@here
def test_a_packed_weight_is_the_one_of_the_moment():
    model = linears((512, 512), bias=False)
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
    use_onednn(frozen)
    pack_for_good(frozen)
    torch.testing.assert_close(frozen(ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert frozen.model.layers[0].mlp.up_proj.weight.numel() == 0
    assert bool(frozen.lm_head.weight.numel()) == tied
