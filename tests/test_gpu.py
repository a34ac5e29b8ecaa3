"""On a GPU everything is as on the CPU, up to rounding. Skipped where there is none.

python -m pytest tests/test_gpu.py                          on a machine with a GPU; gpu_check.sh runs it too
GPU_TEST_DEVICE=cpu python -m pytest tests/test_gpu.py      tries the tests themselves
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_models import random_model
from test_architectures import SHARED
from torch import Tensor

import grpo.trainer
from grpo import cli
from grpo.commands import bench
from grpo.experience import Batch
from grpo.logprobs import completion_logps
from grpo.loss import PRESETS
from grpo.model import cache, graphs
from grpo.model.compute import cast, compute_in
from grpo.model.head import Head
from grpo.model.lora import LoraConfig
from grpo.model.optim import OptimConfig, Optimizer
from grpo.model.policy import ModelConfig, Policy, load_policy
from grpo.runs.config import Config, GRPOConfig
from grpo.runs.settings import load_config
from grpo.sampling import SamplingConfig, sample_groups
from grpo.trainer import update

DEVICE = os.environ.get("GPU_TEST_DEVICE", "cuda")
if DEVICE.startswith("cuda") and not torch.cuda.is_available():
    pytest.skip("no GPU here", allow_module_level=True)

BENCH = Path(__file__).parent.parent / "experiments" / "bench" / "tiny.yaml"
PROMPTS = [[5, 7, 3], [9, 6], [4, 4, 8, 2, 15, 6, 11], [20, 3]]
IDS = ["a", "b", "c", "d"]
SAMPLING = SamplingConfig(max_new_tokens=24)
GAP = {"float32": 1e-4, "bfloat16": 0.1}
"""Nats between the sampler's log-probs and the trainer's, at most."""


def on_both(**model: object) -> list:
    """The embedded model, trained and so with an opinion on the next token, on the CPU and on the GPU."""
    return [load_policy(ModelConfig(path="tiny", device=device, **model)) for device in ("cpu", DEVICE)]


def sampled_by_replay(policy, monkeypatch, prompts=PROMPTS, **config) -> tuple[list, list, int]:
    """Rollouts without and with graphs, and how many graphs there were."""
    made, capture = [], graphs.capture
    monkeypatch.setattr(graphs, "capture", lambda *how: made.append(1) or capture(*how))
    monkeypatch.setattr(cache, "BLOCK", 16)  # several blocks, so several graphs, in few tokens
    config = replace(SAMPLING, **{"max_new_tokens": 56, **config})
    policy.graphs = False
    plain = sample_groups(policy, prompts, IDS, 8, config, seed=0)
    assert not made
    policy.graphs = True
    return plain, sample_groups(policy, prompts, IDS, 8, config, seed=0), len(made)


@pytest.mark.skipif(not DEVICE.startswith("cuda"), reason="CUDA graphs")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("prompts", [PROMPTS, [[5], [9], [4], [20]]], ids=["ragged", "of one token"])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3_text", "mistral", "qwen2", "qwen3_moe", "cohere"])
def test_a_graph_gives_the_bits_of_the_plain_step(kind, prompts, dtype, monkeypatch):
    """With rows that leave, windows, soft caps, experts, prompts of unequal length and of one token."""
    dtype = getattr(torch, dtype)
    policy = Policy(random_model(kind, **SHARED[kind]).to(DEVICE), None, [1, 2, 13], kind, dtype)
    cast(policy.model, dtype)
    compute_in(policy.model, dtype)
    plain, replayed, graphs_made = sampled_by_replay(policy, monkeypatch, prompts)
    # experts in fp32 are a loop in PyTorch, which reads their loads on the host: no graph, then, and the same samples
    assert (graphs_made > 2 and policy.graphs) or kind == "qwen3_moe"
    assert len({len(tokens) for tokens in plain.token_lists()}) > 3  # rows left
    assert replayed.token_lists() == plain.token_lists()
    assert replayed.sampler_logps.equal(plain.sampler_logps)


@pytest.mark.skipif(not DEVICE.startswith("cuda"), reason="CUDA graphs")
@pytest.mark.parametrize(
    "config", [{"temperature": 0}, {"temperature": 0.7}, {"top_p": 0.8}, {"stop": (" = 1",)}, {"max_rows": 8}], ids=str
)
def test_so_it_does_however_tokens_are_drawn(config, monkeypatch):
    _, policy = on_both(dtype="bfloat16")
    plain, replayed, graphs_made = sampled_by_replay(policy, monkeypatch, **config)
    assert graphs_made > 2 and policy.graphs
    assert replayed.token_lists() == plain.token_lists() and replayed.sampler_logps.equal(plain.sampler_logps)


@pytest.mark.skipif(not DEVICE.startswith("cuda"), reason="CUDA graphs")
def test_after_an_update_samples_are_those_of_the_new_weights(monkeypatch):
    _, policy = on_both(dtype="bfloat16")
    rollouts = sample_groups(policy, PROMPTS, IDS, 4, SAMPLING, seed=1)
    one_step(policy, rollouts)
    plain, replayed, _ = sampled_by_replay(policy, monkeypatch)
    assert replayed.token_lists() == plain.token_lists() and replayed.sampler_logps.equal(plain.sampler_logps)


@pytest.mark.skipif(not DEVICE.startswith("cuda"), reason="CUDA graphs")
@pytest.mark.parametrize("fault", ["a number read on the host", "a capture that fails"])
def test_where_no_graph_can_be_captured_the_plain_step_is_done(fault, monkeypatch):
    _, policy = on_both()
    expected = sample_groups(policy, PROMPTS, IDS, 4, SAMPLING, seed=1)
    if fault == "a number read on the host":
        policy.model.model.norm.register_forward_hook(lambda module, inputs, output: output * bool(output.any()))
    else:
        monkeypatch.setattr(torch.cuda.graph, "__enter__", lambda self: (_ for _ in ()).throw(RuntimeError("no graph")))
    with pytest.warns(UserWarning, match="NOTE: sampling is slow: no CUDA graph of a decoding step") as caught:
        for _ in range(2):
            rollouts = sample_groups(policy, PROMPTS, IDS, 4, SAMPLING, seed=1)
            assert rollouts.token_lists() == expected.token_lists()
            assert rollouts.sampler_logps.equal(expected.sampler_logps)
    assert sum("NOTE" in str(w.message) for w in caught) == 1 and not policy.graphs
    assert torch.cuda.get_sync_debug_mode() == 0 and torch.cuda.current_stream() == torch.cuda.default_stream()


@pytest.mark.skipif(not DEVICE.startswith("cuda"), reason="the bf16 product that is added up in fp32")
def test_the_head_of_bf16_has_the_digits_of_fp32():
    torch.manual_seed(0)
    layer = torch.nn.Linear(896, 5000, bias=False, device=DEVICE)
    hidden = torch.randn(64, 896, device=DEVICE).bfloat16()
    fast = Head(layer, 1.0, None, torch.bfloat16)
    assert fast.fast
    exact = hidden.double() @ layer.weight.double().t()
    for z, most in ((fast.logits(hidden), 2e-5), (hidden @ layer.weight.bfloat16().t(), None)):
        error = (z.double().log_softmax(-1) - exact.log_softmax(-1)).abs().max()
        assert error < most if most else error > 1e-3
    before = torch.get_float32_matmul_precision()
    with fast.gradient_precision():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "mistral-window"])
def test_samples_and_log_probs_are_those_of_the_cpu(kind, make_policy):
    here, there = make_policy(kind, eos_ids=(1, 2)), make_policy(kind, eos_ids=(1, 2)).to(DEVICE)
    assert there.device.type == torch.device(DEVICE).type
    ours, theirs = (sample_groups(policy, PROMPTS, IDS, 4, SAMPLING, seed=0) for policy in (here, there))
    assert ours.token_lists() == theirs.token_lists() and len({len(x) for x in ours.token_lists()}) > 3
    torch.testing.assert_close(theirs.sampler_logps, ours.sampler_logps, rtol=0, atol=1e-4)
    for policy in (here, there):
        for got, expected in zip(completion_logps(policy, ours, 1.0), completion_logps(here, ours, 1.0), strict=True):
            torch.testing.assert_close(got.detach(), expected.detach(), rtol=0, atol=1e-4)


def test_the_trained_model_writes_the_same_texts():
    ours, theirs = (sample_groups(p, PROMPTS, IDS, 8, replace(SAMPLING, max_new_tokens=100), seed=3) for p in on_both())
    same = sum(a == b for a, b in zip(ours.token_lists(), theirs.token_lists(), strict=True))
    assert same >= 31  # of 32: a number so close to the border of two tokens that rounding decides is rare


class Watched(Optimizer):
    """Keeps the gradient of its last step."""

    def step(self, step: int, loss: float) -> dict[str, float]:
        self.gradient = {name: master.grad.cpu().clone() for name, master in self.masters.items()}
        return super().step(step, loss)


def one_step(policy, rollouts) -> tuple[dict[str, float], dict[str, Tensor], dict[str, Tensor]]:
    """Metrics, gradient and the fp32 weights after one step on these completions."""
    config = Config(
        loss=replace(PRESETS["grpo"], beta=0.04),
        tokens_per_micro_batch=100,
        sampling=SAMPLING,
        grpo=GRPOConfig(group_size=4),
        optim=OptimConfig(lr=1e-3),
    )
    policy.freeze_reference()
    optimizer = Watched(policy.trainable(), config.optim, 1)
    rewards = torch.rand(len(rollouts), 1, generator=torch.Generator().manual_seed(0))
    metrics = update(config, policy, optimizer, Batch(rollouts, rewards, {}), torch.ones(1), 0)
    return metrics, optimizer.gradient, {name: x.detach().cpu() for name, x in optimizer.masters.items()}


@pytest.mark.parametrize(
    "model",
    [{}, {"recompute": "full"}, {"lora": LoraConfig(rank=2)}, {"dtype": "bfloat16"}],
    ids=["fp32", "recompute", "lora", "bf16"],
)
def test_a_step_is_the_cpus(model):
    here, there = on_both(**model)
    dtype = model.get("dtype", "float32")
    before = {name: p.detach().cpu().float().clone() for name, p in there.trainable().items()}
    rollouts = sample_groups(there, PROMPTS, IDS, 4, SAMPLING, seed=1)
    (ours, our_gradient, _), (theirs, their_gradient, weights) = (one_step(p, rollouts) for p in (here, there))
    assert theirs["sampler_gap"] < GAP[dtype] and theirs["skipped"] == 0
    tight = 1e-3 if dtype == "float32" else 0.2
    assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=tight) and theirs["grad_norm"] > 0
    flat = [torch.cat([g[name].flatten() for name in before]) for g in (our_gradient, their_gradient)]
    assert (flat[0] - flat[1]).norm() < tight * flat[0].norm()
    assert all(x.dtype == torch.float32 for x in weights.values())
    moved = max((weights[name] - before[name]).abs().max().item() for name in before)
    assert 0 < moved < 1.1e-3  # AdamW's first step moves nothing by more than the learning rate


def test_a_run_goes_on_after_a_stop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pays_odd.py").write_text(
        "def odd(completions, completion_ids, **columns):\n    return [float(ids[0] % 2) for ids in completion_ids]\n"
    )
    settings = ["model.path=tiny-init", f"model.device={DEVICE}", "data.count=6", "prompt.style=plain"]
    settings += ["prompt.template='{question}\\n'", "sampling.max_new_tokens=6", "eval.at_end=false", "grpo.steps=4"]
    settings += ["grpo.prompts_per_step=2", "grpo.group_size=4", "log.save_every=1", "sandbox.enabled=false"]
    settings += ["rewards.pays_odd:odd.weight=1", "optim.lr=1e-3"]
    assert cli.main(["grpo", "run=whole", *settings]) == 0

    def interrupted(*arguments):
        metrics = update(*arguments)
        if arguments[-1] == 2:
            raise KeyboardInterrupt
        return metrics

    monkeypatch.setattr(grpo.trainer, "update", interrupted)
    assert cli.main(["grpo", "run=stopped", *settings]) == 130
    monkeypatch.setattr(grpo.trainer, "update", update)
    assert cli.main(["grpo", "run=stopped", *settings]) == 0
    whole, stopped = (
        [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
        for run in ("whole", "stopped")
    )
    assert [row["step"] for row in stopped] == [row["step"] for row in whole] == [1, 2, 3, 4]
    for a, b in zip(whole, stopped, strict=True):
        for key in ("loss", "reward", "grad_norm", "kl", "entropy"):
            assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bench_measures_the_gpu(dtype):
    settings = ["grpo.prompts_per_step=2", "grpo.group_size=3", "sampling.max_new_tokens=9", "data.count=4"]
    figures = bench.bench(load_config(str(BENCH), [*settings, f"model.device={DEVICE}", f"model.dtype={dtype}"]), 1)
    assert max(figures["sampler_gap"]) < GAP[dtype] and figures["tflops"][0] > 0
    if DEVICE.startswith("cuda"):
        assert figures["processor"] == torch.cuda.get_device_name(DEVICE)
        assert figures["peak_gb"] == pytest.approx(torch.cuda.max_memory_allocated(DEVICE) / 1e9)
