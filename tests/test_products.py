"""Products by C and by oneDNN, and packed weights: faster, and otherwise as PyTorch has it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from grpo import kernels, products
from grpo.products import Linear, outer, pack_for_good, pack_weight, packed, product, product_packed, use_onednn

here = pytest.mark.skipif(not products.available(), reason="this processor does not gain from oneDNN")
by_c = pytest.mark.skipif(not products.X86 or kernels.load() is None, reason="no compiler, or no x86 processor here")
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
    monkeypatch.setattr(products, "LEAST_PRODUCT", 0)
    ours = layer(x)
    assert type(ours.grad_fn).__name__ == "_ProductBackward"
    torch.testing.assert_close(ours, expected, **CLOSE)
    torch.testing.assert_close(torch.autograd.grad(ours, wanted, g), gradients, atol=1e-3, rtol=1e-4)


@here
@pytest.mark.parametrize("frozen", ["weight", "bias", "x"])
def test_what_is_frozen_gets_no_gradient(frozen, monkeypatch):
    monkeypatch.setattr(products, "LEAST_PRODUCT", 0)
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
    monkeypatch.setattr(products, "available", lambda: False)
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


# ---- in C ----------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """The functions of the library that are called."""
    made, call = [], kernels.call
    monkeypatch.setattr(kernels, "call", lambda name, *arguments: (made.append(name), call(name, *arguments))[1])
    return made


@by_c
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("width, out", [(16, 16), (48, 80), (64, 112), (160, 64), (32, 208)])
@pytest.mark.parametrize("rows", [0, 1, 5, 6, 97, 700])
def test_a_small_product_and_its_gradient(rows, width, out, bias, threads, calls):
    x, weight, g = torch.randn(rows, width), torch.randn(out, width), torch.randn(rows, out)
    bias, before = torch.randn(out) if bias else None, torch.get_num_threads()
    exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    torch.set_num_threads(threads)
    try:
        y, dx, dw = product(x, weight, bias), product(g, weight.t()), outer(g, x)
        packed_y = product_packed(x, pack_weight(weight), bias)
    finally:
        torch.set_num_threads(before)
    assert calls == ["multiply", "multiply", "outer", "multiply"] and packed_y.equal(y)
    torch.testing.assert_close(y, exact.float(), **CLOSE)
    torch.testing.assert_close(dx, (g.double() @ weight.double()).float(), **CLOSE)
    torch.testing.assert_close(dw, (g.double().T @ x.double()).float(), **CLOSE)


@by_c
def test_a_row_gets_the_same_bits_in_any_batch():
    x, weight = torch.randn(200, 160), torch.randn(320, 160)
    whole = product(x, weight)
    for rows in (slice(0, 1), slice(7, 8), slice(3, 10), slice(95, 98), slice(100, 200)):
        assert product(x[rows], weight).equal(whole[rows])
    assert product(x, weight[64:160]).equal(whole[:, 64:160])


@by_c
def test_what_is_not_contiguous_is_multiplied_as_well():
    x, weight, g = torch.randn(64, 50).t(), torch.randn(160, 80)[:, :64], torch.randn(50, 400)[:, 80:240]
    torch.testing.assert_close(product(x, weight), x @ weight.T, **CLOSE)
    torch.testing.assert_close(product(x.unflatten(0, (5, 10)), weight), (x @ weight.T).unflatten(0, (5, 10)), **CLOSE)
    torch.testing.assert_close(product(g, weight.t()), g @ weight, **CLOSE)
    torch.testing.assert_close(outer(g, x), g.T @ x, **CLOSE)


def test_large_weights_odd_widths_and_other_types_are_multiplied_otherwise(calls):
    for out, width, dtype in ((1024, 512, torch.float32), (64, 20, torch.float32), (20, 64, torch.float32),
                              (64, 64, torch.bfloat16), (64, 64, torch.float64)):  # fmt: skip
        x, weight, g = (torch.randn(*shape).to(dtype) for shape in ((9, width), (out, width), (9, out)))
        limits = {"atol": 0.5, "rtol": 0.1} if dtype == torch.bfloat16 else CLOSE
        torch.testing.assert_close(product(x, weight), F.linear(x, weight), **limits)
        if out % 16:  # a gradient's columns are the inputs
            continue
        torch.testing.assert_close(outer(g, x), g.T @ x, **limits)
    assert not calls


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
