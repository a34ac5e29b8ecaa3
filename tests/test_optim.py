"""The optimiser: fp32 masters, accumulated gradients, clipping and the schedule."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from grpo.model.optim import OptimConfig, Optimizer, lr_share


def parameter(values, dtype=torch.float32):
    return nn.Parameter(torch.tensor(values).to(dtype))


def push(p, *gradients):
    """One backward pass per gradient, as micro-batches do."""
    for gradient in gradients:
        (p * torch.tensor(gradient, dtype=p.dtype)).sum().backward()


# ---- one step against the equation ---------------------------------------------------------------------------


def plain_adamw(x, gradients, lr, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0):
    """AdamW of one number, in plain Python (arXiv:1711.05101, algorithm 2)."""
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        x -= lr * decay * x
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        x -= lr * (m / (1 - beta1**t)) / (math.sqrt(v / (1 - beta2**t)) + eps)
    return x


def test_steps_are_adamw():
    p = parameter([[0.5, -2.0]])
    config = OptimConfig(lr=0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1, max_grad_norm=1e9)
    optimizer = Optimizer({"p": p}, config, steps=3)
    gradients = [(0.3, -1.0), (-0.2, 0.5), (0.9, 0.1)]
    for step, gradient in enumerate(gradients):
        push(p, [gradient])
        optimizer.step(step)
    for i, start in enumerate((0.5, -2.0)):
        expected = plain_adamw(start, [g[i] for g in gradients], 0.01, 0.8, 0.9, 1e-3, 0.1)
        assert p[0, i].item() == pytest.approx(expected, rel=1e-5)


def test_weight_decay_is_for_matrices_only():
    matrix, vector = parameter([[1.0]]), parameter([1.0])
    optimizer = Optimizer({"m": matrix, "v": vector}, OptimConfig(lr=0.1, weight_decay=0.5), steps=1)
    push(matrix, [[0.0]])
    push(vector, [0.0])
    optimizer.step(0)
    assert matrix.item() == pytest.approx(0.95) and vector.item() == 1.0


def test_a_step_clears_the_gradients():
    p = parameter([1.0])
    optimizer = Optimizer({"p": p}, OptimConfig(lr=0.1), steps=2)
    push(p, [1.0])
    optimizer.step(0)
    assert p.grad is None and all(m.grad is None for m in optimizer.masters.values())


# ---- bf16 ----------------------------------------------------------------------------------------------------


def test_fp32_masters_move_where_bf16_alone_would_not():
    p, alone = parameter([1.0], torch.bfloat16), parameter([1.0], torch.bfloat16)
    optimizer = Optimizer({"p": p}, OptimConfig(lr=1e-4), steps=100)
    naive = torch.optim.AdamW([alone], lr=1e-4, weight_decay=0.0)
    for step in range(100):
        push(p, [1.0])
        push(alone, [1.0])
        optimizer.step(step)
        naive.step()
        naive.zero_grad()
    assert alone.item() == 1.0
    assert optimizer.masters["p"].item() == pytest.approx(0.99, abs=1e-5)
    assert p.dtype == torch.bfloat16
    assert p.item() == optimizer.masters["p"].to(torch.bfloat16).item() == 0.98828125


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_micro_batches_add_up_in_fp32(dtype):
    # 256 + 1 is 256 in bf16, and so is every sum of that kind
    p = parameter([1.0], dtype)
    optimizer = Optimizer({"p": p}, OptimConfig(lr=0.1), steps=1)
    push(p, [256.0], *[[1.0]] * 64)
    assert optimizer.masters["p"].grad.dtype == torch.float32
    assert optimizer.masters["p"].grad.item() == 320.0
    assert dtype == torch.float32 or p.grad is None  # no second copy in bf16
    assert optimizer.step(0)["grad_norm"] == 320.0


def test_fp32_parameters_are_their_own_masters():
    p = parameter([1.0])
    assert Optimizer({"p": p}, OptimConfig(), steps=1).masters["p"] is p


def test_copy_to_model_rounds_the_masters():
    p = parameter([1.0], torch.bfloat16)
    optimizer = Optimizer({"p": p}, OptimConfig(), steps=1)
    optimizer.masters["p"].data.fill_(2.013)
    optimizer.copy_to_model()
    assert p.item() == torch.tensor(2.013).to(torch.bfloat16).item()


# ---- clipping ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("scale", "expected"), [(1.0, 0.5), (0.01, 0.05)])
def test_the_global_norm_is_clipped(scale, expected, dtype):
    one, other = parameter([1.0, 1.0], dtype), parameter([[1.0]], dtype)
    optimizer = Optimizer({"a": one, "b": other}, OptimConfig(max_grad_norm=0.5), steps=1)
    push(one, [0.0, 3.0 * scale])
    push(other, [[4.0 * scale]])
    seen = []
    optimizer.adamw.register_step_pre_hook(lambda *_: seen.extend(m.grad.clone() for m in optimizer.masters.values()))
    norm = optimizer.step(0)["grad_norm"]
    assert norm == pytest.approx(5 * scale, rel=5e-3)  # before clipping
    clipped = math.sqrt(sum(g.square().sum().item() for g in seen))
    assert clipped == pytest.approx(expected, rel=5e-3)
    assert (seen[0][1] / seen[1][0, 0]).item() == pytest.approx(0.75, rel=5e-3)  # the direction stays


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_gradient_moves_nothing_and_leaves_no_trace(bad, dtype):
    p, fresh = parameter([1.0, 2.0], dtype), parameter([1.0, 2.0], dtype)
    optimizer = Optimizer({"p": p}, OptimConfig(lr=0.1, weight_decay=0.1), steps=2)
    push(p, [0.5, bad])
    metrics = optimizer.step(0)
    assert not math.isfinite(metrics["grad_norm"])
    assert p.tolist() == [1.0, 2.0] and optimizer.masters["p"].tolist() == [1.0, 2.0]

    other = Optimizer({"p": fresh}, OptimConfig(lr=0.1, weight_decay=0.1), steps=2)
    for q, o in ((p, optimizer), (fresh, other)):
        push(q, [0.5, -1.0])
        o.step(1)
    assert p.equal(fresh) and not p.equal(torch.tensor([1.0, 2.0]).to(dtype))


# ---- learning rate -------------------------------------------------------------------------------------------


def shares(steps=20, **options):
    return [lr_share(step, steps, OptimConfig(**options)) for step in range(steps)]


def test_warm_up_is_linear_and_reaches_the_peak():
    ours = shares(warmup_steps=4)
    assert ours[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert ours[4:] == [1.0] * 16
    assert shares() == [1.0] * 20


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_schedules_fall_from_the_peak(schedule, warmup, final):
    ours = shares(schedule=schedule, warmup_steps=warmup, final_lr_share=final)[warmup:]
    assert ours[0] == 1.0
    assert all(a > b for a, b in itertools.pairwise(ours))
    assert final <= ours[-1] < final + 0.1


def test_the_middle_of_the_schedules():
    assert shares(schedule="linear", final_lr_share=0.2)[10] == pytest.approx(0.6)
    assert shares(schedule="cosine", final_lr_share=0.2)[10] == pytest.approx(0.6)
    assert shares(schedule="linear")[5] == pytest.approx(0.75)
    assert shares(schedule="cosine")[5] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_a_warm_up_as_long_as_the_run():
    assert shares(steps=4, warmup_steps=4, schedule="cosine") == [0.25, 0.5, 0.75, 1.0]
    assert all(0 < share <= 1 for share in shares(steps=4, warmup_steps=10, schedule="linear"))


def test_the_share_scales_the_peak_and_is_reported():
    p = parameter([0.0])
    optimizer = Optimizer({"p": p}, OptimConfig(lr=0.01, warmup_steps=2), steps=2)
    for step, lr in ((0, 0.005), (1, 0.01)):
        before = p.item()
        push(p, [0.5])
        assert optimizer.step(step)["lr"] == pytest.approx(lr)
        assert before - p.item() == pytest.approx(lr, rel=1e-4)  # Adam's step under a constant gradient
