"""Norms, gates and rotations, in C and by PyTorch's operators: their equations, and the gradients of these."""

from __future__ import annotations

import pytest
import torch

from grpo import kernels
from grpo.pointwise import gated, gated_backward, norm, norm_backward, rotate, rotate_backward

compiled = pytest.mark.skipif(kernels.load() is None, reason="no compiler here")
DTYPES = [torch.float32, torch.bfloat16]
EPS = 0.1


@pytest.fixture(params=[pytest.param("C", marks=compiled), "PyTorch"])
def way(request, monkeypatch) -> str:
    if request.param == "PyTorch":
        monkeypatch.setattr(kernels, "take", lambda x: False)
    return request.param


def numbers(*shape, dtype=torch.float32, seed=0, scale=1.0):
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def close(ours, exact, dtype=torch.float32, roundings=2):
    """exact: fp64. bfloat16 has 8 bits: rounded to it once, a number is off by 1/512 of itself at most."""
    limits = {"rtol": 1e-5, "atol": 2e-5} if dtype == torch.float32 else {"rtol": roundings / 512, "atol": 1e-2}
    torch.testing.assert_close(ours.double(), exact.detach(), **limits)


def exact_norm(x, weight):
    rows = [w_n / (sum(v * v for v in row) / len(row) + EPS) ** 0.5 for row, w_n in zip(x, x * weight, strict=True)]
    return torch.stack(rows)


def exact_rotation(y, cos, sin, key_heads):
    """A pair of numbers at a time."""
    out = y.clone()
    for row, head, i in torch.cartesian_prod(*map(torch.arange, (len(y), y.shape[1] - key_heads, cos.shape[1]))):
        (x1, x2), c, s = y[row, head, [i, i + cos.shape[1]]], cos[row, i], sin[row, i]
        out[row, head, i], out[row, head, i + cos.shape[1]] = x1 * c - x2 * s, x2 * c + x1 * s
    return out.split([y.shape[1] - 2 * key_heads, key_heads, key_heads], dim=1)


def angles(rows, size):
    at = torch.arange(rows)[:, None] * 7.0 / (1 + torch.arange(size // 2))
    return at.cos(), at.sin()


# ---- equations and gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [16, 48, 20])  # of these, 20 is never whole vectors
def test_a_norm(way, dtype, width):
    x, weight = numbers(5, width, dtype=dtype), numbers(width, dtype=dtype, seed=1)
    y = norm(x, weight, EPS)
    assert y.dtype == dtype
    close(y, exact_norm(x.double(), weight.double()), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rest", [True, False])
@pytest.mark.parametrize("shape", [(5, 48), (1, 16), (9, 20), (70, 512)], ids=str)
def test_the_gradient_of_a_norm(way, dtype, rest, shape):
    g, x, weight = numbers(*shape, dtype=dtype), numbers(*shape, dtype=dtype, seed=1), numbers(shape[1], seed=2)
    weight, more = weight.to(dtype), numbers(*shape, dtype=dtype, seed=3) if rest else None
    wanted = [x.double().requires_grad_(), weight.double().requires_grad_()]
    dx, dw = torch.autograd.grad(exact_norm(*wanted), wanted, g.double())
    ours = norm_backward(g, x, weight, EPS, more)
    assert [t.dtype for t in ours] == [dtype] * 2
    close(ours[0], dx + (more.double() if rest else 0), dtype)
    close(ours[1], dw, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [16, 48, 20])
def test_a_gate_and_its_gradient(way, dtype, width):
    x, dy = numbers(5, 2 * width, dtype=dtype, scale=4.0), numbers(5, width, dtype=dtype, seed=1)
    exact = x.double().requires_grad_()
    gate, up = exact.split(width, dim=1)
    expected = gate / (1 + (-gate).exp()) * up
    close(gated(x), expected, dtype, roundings=4)
    close(gated_backward(dy, x), torch.autograd.grad(expected, exact, dy.double())[0], dtype, roundings=4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("heads, key_heads, size", [(4, 2, 16), (3, 1, 64), (2, 2, 4)])
def test_a_rotation_and_its_gradient(way, dtype, heads, key_heads, size):
    y, (cos, sin) = numbers(3, heads + 2 * key_heads, size, dtype=dtype), angles(3, size)
    exact = y.double().requires_grad_()
    expected = exact_rotation(exact, cos.double(), sin.double(), key_heads)
    ours = rotate(y, cos, sin, key_heads)
    assert {t.dtype for t in ours} == {torch.float32}
    for some, those in zip(ours, expected, strict=True):
        close(some, those)
    gs = [numbers(*t.shape, seed=1) for t in ours]
    backward = rotate_backward(*gs, cos, sin, dtype)
    assert backward.dtype == dtype
    close(backward, torch.autograd.grad(expected, exact, [g.double() for g in gs])[0], dtype)
    close(rotate_backward(*ours, cos, sin, dtype), y.double(), dtype)  # turned back


def test_heads_of_any_size_are_turned_back(way):
    y, (cos, sin) = numbers(2, 3, 1 << 15), angles(2, 1 << 15)
    close(rotate_backward(*rotate(y, cos, sin, 1), cos, sin, torch.float32), y.double())


def test_gradients_of_heads_need_not_be_contiguous(way):
    (cos, sin), gs = angles(5, 16), [numbers(h, 5, 16) for h in (4, 2, 2)]
    ours = rotate_backward(*(g.transpose(0, 1) for g in gs), cos, sin, torch.float32)
    assert ours.equal(rotate_backward(*(g.transpose(0, 1).contiguous() for g in gs), cos, sin, torch.float32))


# ---- what can go wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_numbers_do_not_overflow(way, dtype):
    gate = torch.tensor([[-1e30, -1e4, -100.0, -88.0, 88.0, 100.0, 1e4, 1e30] * 2]).to(dtype)
    ones = torch.ones_like(gate)
    x = torch.cat([gate, ones], dim=1)
    close(gated(x), gate.double().clamp(min=0), dtype)
    d_gate, d_up = gated_backward(ones, x).chunk(2, dim=1)
    close(d_gate, (gate > 0).double(), dtype)
    close(d_up, gate.double().clamp(min=0), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_nan_is_not_lost(way, dtype, bad):
    x, ones = torch.ones(2, 32, dtype=dtype), torch.ones(32, dtype=dtype)
    x[1, 5] = bad
    (cos, sin), heads = angles(2, 32), x[:, None].expand(2, 3, 32).contiguous()
    results = {
        "norm": norm(x, ones, EPS), "its gradient": norm_backward(x, x, ones, EPS, None)[0],
        "gate": gated(torch.cat([x, x], dim=1)), "rotation": rotate(heads, cos, sin, 1)[1][:, 0],
    }  # fmt: skip
    for name, y in results.items():
        assert y[0].isfinite().all(), name
        assert not y[1].isfinite().all(), name


@compiled
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_gets_the_same_bits_alone_and_in_any_batch(dtype):
    x, g, up = (numbers(160, 512, dtype=dtype, seed=seed) for seed in range(3))
    (cos, sin), weight = angles(160, 64), numbers(512, dtype=dtype, seed=4)

    def all_of_it(rows):
        heads = rotate(x[rows].unflatten(1, (8, 64)), cos[rows], sin[rows], 2)
        yield from heads
        yield rotate_backward(*heads, cos[rows], sin[rows], dtype)
        yield norm(x[rows], weight, EPS)
        yield norm_backward(g[rows], x[rows], weight, EPS, up[rows])[0]
        yield gated(x[rows])
        yield gated_backward(g[rows, :256].contiguous(), x[rows])

    try:
        for threads in (1, 2):  # from some size on, they share the work
            torch.set_num_threads(threads)
            whole = list(all_of_it(slice(None)))
            for rows in (slice(0, 1), slice(33, 38), slice(159, 160)):
                assert all(y[rows].equal(some) for y, some in zip(whole, all_of_it(rows), strict=True))
    finally:
        torch.set_num_threads(1)
