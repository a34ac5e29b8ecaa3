"""A decoding step that a CUDA graph can replay: static shapes, no host read, and the tokens of the plain step.

The graph itself is tried on a GPU (tests/test_gpu.py). Here a step is recorded operator by operator and replayed on the
same tensors, which is what a graph does.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from helpers_graphs import Operations, Replay, on_a_gpu
from helpers_models import random_model
from test_architectures import SHARED

from data import make_problems
from grpo.logprobs import completion_logps
from grpo.model import cache, graphs
from grpo.model.graphs import Replayed
from grpo.model.policy import ModelConfig, Policy, load_policy
from grpo.sampling import sample_groups
from grpo.types import Rollouts, SamplingConfig

QUICK = ("llama", "gemma2", "mistral", "qwen3_moe")
KINDS = [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in SHARED]
"""All architectures whose prompts are shared; in a short run those with soft caps, windows and experts."""
READS = ("gpt2",)
"""Models whose own code reads a number on the host."""
PROMPTS = [[5, 7, 3, 9, 12, 40, 33], [9], [4, 4, 8, 50, 15, 6, 11, 61, 23, 17, 42, 30], [20, 31, 3]]
NAMES = ["a", "b", "c", "d"]


def policy_of(kind: str) -> Policy:
    return Policy(random_model(kind, **SHARED[kind]), None, [1, 2, 13, 27, 35], kind)


def sample(policy: Policy, limit: int = 24, prompts=PROMPTS, **config) -> Rollouts:
    return sample_groups(policy, prompts, NAMES, 4, SamplingConfig(max_new_tokens=limit, **config), seed=0)


def same(ours: Rollouts, theirs: Rollouts) -> None:
    assert ours.token_lists() == theirs.token_lists() and ours.truncated.equal(theirs.truncated)
    torch.testing.assert_close(ours.sampler_logps, theirs.sampler_logps, rtol=0, atol=2e-5)


# ---- spans ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [16, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_do_not_depend_on_how_many_slots_are_attended_to(kind, block, monkeypatch):
    policy = policy_of(kind)
    expected = sample(policy)
    assert len({len(tokens) for tokens in expected.token_lists()}) > 2  # rows leave
    monkeypatch.setitem(cache.BLOCKS, "cpu", block)
    same(sample(policy), expected)


@pytest.mark.parametrize("block", [16, 64])
def test_nor_do_those_of_the_trained_model(block, monkeypatch):
    policy = load_policy(ModelConfig(path="tiny"))
    prompts = [policy.tokenizer(p.question + "\n")["input_ids"] for p in make_problems("train", 4, seed=1)]
    expected = sample(policy, 100, prompts)
    monkeypatch.setitem(cache.BLOCKS, "cpu", block)
    same(sample(policy, 100, prompts), expected)


# ---- replay --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", [PROMPTS, [[5], [9], [4], [20]]], ids=["ragged", "of one token"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_replayed_step_is_the_step(kind, prompts, monkeypatch):
    """Nothing that changes from step to step is in Python: with rows that leave, windows, soft caps, short prompts."""
    policy = policy_of(kind)
    expected = sample(policy, prompts=prompts)
    on_a_gpu(monkeypatch)
    same(sample(policy, prompts=prompts), expected)
    assert Replay.count > 5


@pytest.mark.parametrize(
    "config", [{"temperature": 0}, {"temperature": 0.7}, {"top_p": 0.8}, {"stop": ("</think>", " = 1")}], ids=str
)
def test_however_tokens_are_drawn(config, monkeypatch):
    policy = load_policy(ModelConfig(path="tiny"))
    prompts = [policy.tokenizer(p.question + "\n")["input_ids"] for p in make_problems("train", 4, seed=1)]
    expected = sample(policy, 60, prompts, **config)
    on_a_gpu(monkeypatch)
    same(sample(policy, 60, prompts, **config), expected)
    assert Replay.count > 20


def test_no_graph_outlives_its_rows(monkeypatch):
    """After other weights were loaded, samples are of those."""
    policy = policy_of("llama")
    with monkeypatch.context() as patched:
        on_a_gpu(patched)
        before = sample(policy)
        for weight in policy.model.parameters():
            weight.data = weight.data.flip(0).clone()
        after = sample(policy)
    same(after, sample(policy))
    assert after.token_lists() != before.token_lists()


# ---- what a graph asks for -----------------------------------------------------------------------------------


def watched_steps(policy: Policy, monkeypatch, **config) -> list[tuple[tuple, Operations]]:
    """Shape and operators of each decoding step."""
    steps = []

    def watched(replayed: Replayed) -> None:
        shape = replayed.memory.shape
        with Operations() as operations:
            replayed.step()
        replayed.memory.next()
        steps.append((shape, operations))

    monkeypatch.setattr(Replayed, "__call__", watched)
    sample(policy, **config)
    return steps


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_one_shape_have_the_same_operators_and_read_nothing_on_the_host(kind, monkeypatch):
    monkeypatch.setitem(cache.BLOCKS, "cpu", 8)
    policy = policy_of(kind)
    policy.eos_ids = [1, 2]  # some rows leave, and not at every step
    steps = watched_steps(policy, monkeypatch)
    assert len({shape for shape, _ in steps}) >= 3  # rows leave, blocks come into use
    compared = 0
    for number, (shape, operations) in enumerate(steps[1:], 1):
        assert bool(operations.host_reads()) == (kind in READS)
        if number > 1 and steps[number - 2][0] == shape:  # the first of a shape may make what the others use
            assert operations.shapes() == steps[number - 1][1].shapes()
            compared += 1
    assert compared > 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_forward_reads_nothing_on_the_host(kind, monkeypatch):
    policy = policy_of(kind)
    rollouts, forward, reads = sample(policy), Policy.forward, []

    def watched(policy, ids, memory):
        with Operations() as operations:
            out = forward(policy, ids, memory)
        reads.append(operations.host_reads())
        return out

    monkeypatch.setattr(Policy, "forward", watched)
    completion_logps(policy, rollouts, 1.0)
    assert len(reads) == 1 and bool(reads[0]) == (kind in READS)


# ---- which steps are replayed --------------------------------------------------------------------------------


class Memory:
    """Of rows that hold `shape`."""

    def __init__(self):
        self.shape, self.log = None, []

    def next(self) -> None:
        self.log.append("next")

    def forget(self) -> None:
        self.log.append("forget")


@pytest.fixture
def steps(make_policy, monkeypatch):
    """steps(shapes): what was done for steps of these shapes."""

    def run(shapes, policy=None):
        memory = Memory()

        class Graph:
            def replay(self):
                memory.log.append("replay")

        def capture(step, last):
            memory.log.append("capture" if last is None else "capture again")
            return Graph()

        monkeypatch.setattr(graphs, "can_replay", lambda device: True)
        monkeypatch.setattr(graphs, "without_waiting", lambda step: step())
        monkeypatch.setattr(graphs, "capture", capture)
        one_more = Replayed(lambda: memory.log.append("step"), policy or make_policy(), memory)
        for memory.shape in shapes:
            one_more()
        return [x for x in memory.log if x != "next"], memory.log.count("next")

    return run


def test_the_first_step_of_a_shape_is_done_the_second_captured_the_others_replayed(steps):
    done, moved = steps([(4, 8)] * 4 + [(2, 8)] + [(2, 16)] * 2)
    assert done == ["step", "capture", "replay", "replay", "replay", "step", "step", "capture again", "replay"]
    assert moved == 7


def test_steps_without_a_shape_and_of_gathered_shards_are_done_as_they_are(steps, make_policy):
    assert steps([None] * 3)[0] == ["step"] * 3
    policy = make_policy()
    policy.graphs = False
    assert steps([(4, 8)] * 3, policy)[0] == ["step"] * 3


@pytest.mark.parametrize("when", ["captured", "looked at"])
def test_where_no_graph_can_be_captured_one_note_says_so_and_the_plain_step_is_done(when, monkeypatch):
    """It fails in the middle of the model, and is done again from its beginning."""
    policy, without_waiting, mode = policy_of("mistral"), graphs.without_waiting, [0]
    expected = sample(policy)
    on_a_gpu(monkeypatch)

    def failing(module, inputs):
        if mode[0] == "error":
            raise RuntimeError("called a synchronizing operation\nmore")

    def own_bias(memory, *how):
        biases.append(make_bias(memory, *how))
        return biases[-1]

    def capture(step, last):
        biases.clear()
        mode[0] = "error"
        try:
            step()
        except RuntimeError as error:
            for bias in biases:  # no kernel ran
                bias.fill_(torch.nan)
            raise graphs.NoGraph("called a synchronizing operation") from error
        finally:
            mode[0] = 0

    biases, make_bias = [], cache.Cache._own_bias
    monkeypatch.setattr(cache.Cache, "_own_bias", own_bias)

    policy.model.model.norm.register_forward_pre_hook(failing)
    if when == "captured":
        monkeypatch.setattr(graphs, "capture", capture)
    else:
        monkeypatch.setattr(graphs, "without_waiting", without_waiting)
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: mode[0])
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda to: mode.__setitem__(0, to))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        same(sample(policy), expected)
        same(sample(policy), expected)
    assert [str(w.message) for w in caught] == [
        "NOTE: sampling is slow: no CUDA graph of a decoding step (called a synchronizing operation)"
    ]
    assert Replay.count == 0 and policy.graphs is False and mode == [0]


def test_a_model_that_fails_in_a_step_fails(monkeypatch):
    policy = policy_of("llama")
    on_a_gpu(monkeypatch)
    policy.model.model.norm.register_forward_pre_hook(lambda *how: (_ for _ in ()).throw(RuntimeError("of its own")))
    with pytest.raises(RuntimeError, match="of its own"):
        sample(policy)


def test_a_cpu_captures_nothing(monkeypatch):
    monkeypatch.setattr(graphs, "capture", lambda *how: pytest.fail("captured"))
    sample(policy_of("llama"))
