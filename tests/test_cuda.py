"""What a GPU would be asked to do, without one.

Two stand-ins. The device `meta`, whose tensors have shapes and no numbers, shows what would wait for a GPU: there it is
an error to look at a number. And a recording of PyTorch's operators, repeated on the same memory, is a CUDA graph.
"""

from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grpo import attention, cuda, decoding, kernels, logprobs, prefix, runs, sampling
from grpo.config import Config, to_dict
from grpo.cuda import Replay, send
from grpo.logprobs import completion_logps
from grpo.policy import ModelConfig, ModelError, load_policy
from grpo.prefix import start_decoding
from grpo.sampling import SamplingConfig, draw, sample_groups
from grpo.validate import check

PROMPTS = [[5, 7, 3], [9], [4, 4, 8, 2, 15, 6, 11], [20, 3]]
IDS = ["a", "b", "c", "d"]

# ---- pinned transfers ----------------------------------------------------------------------------------------


def test_what_goes_to_a_gpu_is_pinned_and_not_waited_for(monkeypatch):
    x, pinned = torch.arange(3), torch.arange(3)
    copies = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda given: pinned if given is x else None)
    monkeypatch.setattr(torch.Tensor, "to", lambda given, *args, **kwargs: copies.append((given, args, kwargs)))
    send(x, torch.device("cuda:1"))
    ((given, args, kwargs),) = copies
    assert given is pinned and args == (torch.device("cuda:1"),) and kwargs == {"non_blocking": True}


def test_on_a_processor_nothing_is_copied():
    x = torch.arange(3)
    assert send(x, torch.device("cpu")) is x


# ---- nothing waits -------------------------------------------------------------------------------------------


class Strict(TorchDispatchMode):
    """Tensors of the device and of the host do not mix, and one becomes the other by `send` alone."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.sending, self.sent = False, 0
        for module in (attention, decoding, logprobs, prefix, sampling):
            monkeypatch.setattr(module, "send", self.send)

    def send(self, x, device):
        self.sending, self.sent = True, self.sent + 1
        try:
            return send(x, device)
        finally:
            self.sending = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        if not self.sending and {x.device.type for x in tensors if x.dim()} == {"cpu", "meta"}:
            raise AssertionError(f"{func} mixes host and device")
        return out


@pytest.fixture
def on_device(make_policy, monkeypatch):
    """on_device(kind): a policy whose tensors have no numbers, and the mode that watches them."""

    def make(kind="llama"):
        policy = make_policy(kind)
        policy.model.to("meta")
        return policy, Strict(monkeypatch)

    return make


@pytest.mark.parametrize("kind", ["llama", "qwen2", "llama-biased"])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_eight_tokens_are_drawn_before_the_host_looks(kind, temperature, on_device, monkeypatch):
    (policy, strict), drawn = on_device(kind), []
    monkeypatch.setattr(sampling, "draw", lambda *a: drawn.append(1) or draw(*a))
    with strict, pytest.raises(RuntimeError, match="meta"):
        sample_groups(policy, PROMPTS, IDS, 4, SamplingConfig(temperature, max_new_tokens=20), seed=0)
    assert len(drawn) == 8 and strict.sent >= 6


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "llama-biased"])
def test_log_probs_and_their_gradient_wait_for_nothing(kind, recompute, on_device, make_rollouts):
    (policy, strict), rollouts = on_device(kind), make_rollouts([5, 1, 9], [4, 1, 7, 2, 5, 3], group_size=2)
    policy.decoder.recompute = recompute
    with strict:
        logps, entropy = completion_logps(policy, rollouts, 0.9)
        logps.sum().backward()
    assert logps.shape == entropy.shape == rollouts.mask.shape and logps.device.type == "meta"
    assert all(p.grad is not None for p in policy.model.parameters())


def test_a_layout_is_padded_once_for_all_layers(on_device, make_rollouts):
    policy, strict = on_device()
    counts = []
    for layers in (policy.decoder.layers, policy.decoder.layers * 4):
        policy.decoder.layers, strict.sent = layers, 0
        with strict, torch.no_grad():
            completion_logps(policy, make_rollouts([5, 1], [4, 1, 7, 2], group_size=2), 1.0)
        counts.append(strict.sent)
    assert counts[0] == counts[1]


# ---- CUDA graphs ---------------------------------------------------------------------------------------------

LOOKS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "repeat_interleave"}


class Recording(TorchDispatchMode):
    """Operators as they are called, with what they read and wrote. Repeated, they do so in the same places."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in LOOKS, f"{func} looks at a number"
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def again(self):
        for func, args, kwargs, out in self.calls:
            for place, x in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(place, torch.Tensor) and place.data_ptr() != x.data_ptr():
                    place.copy_(x)


@pytest.fixture
def recordings(monkeypatch):
    """The recordings that are made, each in place of a CUDA graph."""
    made = []

    def record(function, inputs):
        with Recording() as recording:
            output = function(*inputs)
        made.append(recording)
        return recording.again, output

    monkeypatch.setattr(cuda, "record", record)
    monkeypatch.setattr(kernels, "load", lambda: None)
    return made


def test_a_function_is_run_recorded_and_replayed(recordings):
    runs, total = [], torch.zeros(2)

    def function(x):
        runs.append(1)
        y = x * 2  # of other memory at each call, but not when it is replayed
        total.copy_(y)
        return y + 1

    replay, given = Replay(), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    for n, x in enumerate(given):
        assert replay(function, "key", x).tolist() == (2 * x + 1).tolist() and total.tolist() == (2 * x).tolist()
        assert len(runs) == min(n + 1, 2) and len(recordings) == min(n, 1)
    assert given.flatten().tolist() == list(range(1, 9))
    assert replay(function, "other", torch.ones(1)[0]).item() == 3 and len(runs) == 3
    assert replay(function, "other", torch.ones(1)[0]).item() == 3 and len(recordings) == 2


@pytest.mark.parametrize("block", [1, 3, 64])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "llama-biased"])
def test_samples_are_the_same_when_steps_are_replayed(kind, block, make_policy, recordings, monkeypatch):
    monkeypatch.setattr(decoding, "BLOCK", block)
    policy, samples, shapes, begin = make_policy(kind, eos_ids=(1, 2)), [], [], decoding.Grid.begin
    monkeypatch.setattr(decoding.Grid, "begin", lambda self: shapes.append(begin(self)) or shapes[-1])
    for policy.cuda_graphs in (False, True):
        shapes.clear()
        samples.append(sample_groups(policy, PROMPTS, IDS, 6, SamplingConfig(max_new_tokens=25), seed=0))
    one, other = samples
    assert one.completion_ids.equal(other.completion_ids) and one.sampler_logps.equal(other.sampler_logps)
    assert one.mask.equal(other.mask) and one.truncated.equal(other.truncated)
    assert len({(p, g) for _, p, g, _ in shapes}) > 3 and one.truncated.any()  # rows leave, and some last
    assert len(recordings) == sum(len(list(steps)) > 1 for _, steps in groupby(shapes))
    assert not recordings if block == 1 else len(recordings) > 3


@torch.no_grad()
def test_a_recorded_step_is_no_longer_where_there_is_more_room(make_policy, recordings):
    policy = replace(make_policy(), cuda_graphs=True)
    for room in (3, 64):
        state = start_decoding(policy, PROMPTS, 4, room)
        for _ in range(3):
            state.step(torch.full((16,), 5))
    first, second = recordings
    assert len(first.calls) == len(second.calls) > 20


@torch.no_grad()
def test_memory_is_let_go_of_with_the_state(make_policy, recordings):
    state = start_decoding(replace(make_policy(), cuda_graphs=True), PROMPTS, 4, 9)
    for _ in range(3):
        state.step(torch.full((16,), 5))
    keys = weakref.ref(state.memory.own[0][0])
    recordings.clear()
    gc.disable()  # at once, not when Python next looks for cycles
    try:
        del state
        assert keys() is None
    finally:
        gc.enable()


def test_a_cuda_graph_is_what_records(monkeypatch):
    """`record` itself, of which only the calls can be seen here."""
    events = []

    class Graph:
        def replay(self):
            events.append("replayed")

    @contextmanager
    def recorded(graph, **options):
        events.append((type(graph), options["capture_error_mode"]))
        yield
        events.append("recorded")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recorded)
    again, output = cuda.record(lambda x: events.append("run") or x + 1, [torch.ones(1)])
    again()
    assert events == [(Graph, "thread_local"), "run", "recorded", "replayed"] and output.item() == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("kind", ["llama", "qwen2", "llama-biased"])
def test_on_a_gpu_samples_are_the_same_when_steps_are_replayed(kind, make_policy):
    policy, samples = make_policy(kind, eos_ids=(1, 2)), []
    policy.model.to("cuda")
    for policy.cuda_graphs in (False, True):
        samples.append(sample_groups(policy, PROMPTS, IDS, 6, SamplingConfig(max_new_tokens=25), seed=0))
    one, other = samples
    assert one.token_lists() == other.token_lists()
    torch.testing.assert_close(one.sampler_logps, other.sampler_logps, atol=1e-5, rtol=0)
    with torch.no_grad():
        logps = completion_logps(policy, one, 1.0)[0].cpu()
    torch.testing.assert_close(logps, one.sampler_logps, atol=1e-4, rtol=0)


# ---- rows that have ended ------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["C", "PyTorch"])
@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_to_look_at_rows_seldom_changes_no_sample(kind, by, make_policy, monkeypatch):
    if by == "PyTorch":
        monkeypatch.setattr(kernels, "load", lambda: None)
    policy, samples = make_policy(kind, eos_ids=(1, 2)), []
    for every in (1, 8):
        monkeypatch.setattr(sampling, "_look_every", lambda device: every)  # noqa: B023
        samples.append(sample_groups(policy, PROMPTS, IDS, 6, SamplingConfig(max_new_tokens=25), seed=0))
    one, other = samples
    assert one.completion_ids.equal(other.completion_ids) and one.truncated.equal(other.truncated)
    torch.testing.assert_close(one.sampler_logps, other.sampler_logps, atol=1e-5, rtol=0)
    assert one.lengths.unique().numel() > 4


# ---- the setting ---------------------------------------------------------------------------------------------


def test_graphs_without_a_gpu_are_refused_in_one_line():
    config = Config()
    assert not check(config)
    ((key, what),) = check(replace(config, model=replace(config.model, cuda_graphs=True)))
    assert key == "model.cuda_graphs" and "model.device=cuda, not cpu" in what
    assert not check(replace(config, model=replace(config.model, cuda_graphs=True, device="cuda:1")))


def test_a_run_may_go_on_with_graphs_or_come_from_before_them():
    before = to_dict(Config())
    for value in ("absent", True):
        before["model"] = {k: v for k, v in before["model"].items() if k != "cuda_graphs"}
        before["model"] |= {} if value == "absent" else {"cuda_graphs": value}
        assert not runs._differing(Config(), "sft", {"stage": "sft"}, before)
    assert runs._differing(Config(seed=1), "sft", {"stage": "sft"}, before)


def test_graphs_of_another_architecture_are_refused(tmp_path, make_policy):
    make_policy("gpt2").model.save_pretrained(tmp_path)
    load_policy(ModelConfig("tiny-init")).tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"model\.cuda_graphs: .* GPT2LMHeadModel"):
        load_policy(ModelConfig(str(tmp_path), cuda_graphs=True))
    assert load_policy(ModelConfig("tiny-init", cuda_graphs=True)).cuda_graphs
