"""The length and repetition rewards against their equations."""

from __future__ import annotations

import random
import time
from types import SimpleNamespace

import pytest

from rewards import RewardError, length_reward, repetition_reward
from rewards.length import soft_overlong
from rewards.repetition import repeated_share
from rewards.sandbox import Sandbox


def test_soft_overlong_is_dapo_equation_13():
    longest, cache = 100, 20
    for length in range(0, 140):
        if length <= longest - cache:
            expected = 0.0
        elif length <= longest:
            expected = ((longest - cache) - length) / cache
        else:
            expected = -1.0
        assert soft_overlong(length, longest, cache) == pytest.approx(expected)
    assert [soft_overlong(n, 100, 0) for n in (100, 101)] == [0.0, -1.0]


def test_length_is_in_tokens_where_there_are_any():
    assert length_reward(["a b c"], completion_ids=[[1] * 8], max_length=8, cache=4) == [-1.0]
    assert length_reward(["a b c"], max_length=8, cache=4) == [0.0]
    with pytest.raises(RewardError, match="cache"):
        length_reward(["a"], max_length=4, cache=5)


def test_length_knows_the_samplers_limit_or_asks_for_it():
    state, ids = SimpleNamespace(max_new_tokens=40), [[1] * n for n in (30, 35, 40)]
    assert length_reward(["a"] * 3, completion_ids=ids, trainer_state=state) == [0.0, -0.5, -1.0]
    assert length_reward(["a"] * 3, completion_ids=ids, trainer_state=state, cache=20) == [-0.5, -0.75, -1.0]
    assert length_reward(["a"] * 3, completion_ids=ids, trainer_state=state, max_length=80) == [0.0] * 3
    for unknown in (None, SimpleNamespace(global_step=1)):
        with pytest.raises(RewardError, match="set max_length to the limit of the sampler"):
            length_reward(["a"], completion_ids=[[1]], trainer_state=unknown)
    sandbox = Sandbox("length", seconds=20.0)
    assert sandbox(["a"] * 3, completion_ids=ids, trainer_state=state) == [0.0, -0.5, -1.0]
    sandbox.close()


def test_repeated_share_counts_ngrams():
    rng = random.Random(0)
    for _ in range(200):
        units = [rng.choice("ab") for _ in range(rng.randrange(0, 12))]
        size = rng.randrange(1, 5)
        grams = [tuple(units[i : i + size]) for i in range(len(units) - size + 1)]
        expected = 1 - len(set(grams)) / len(grams) if grams else 0.0
        assert repeated_share(units, size) == pytest.approx(expected)


def test_repetition_reward():
    assert repetition_reward(["a b c d e f"], ngram_size=2) == [0.0]
    assert repetition_reward(["a B A b a b"], ngram_size=2, max_penalty=-0.5) == [pytest.approx(-0.3)]
    assert repetition_reward(["a b c"], completion_ids=[[1, 1, 1, 1]], ngram_size=1) == [-0.75]
    with pytest.raises(RewardError):
        repetition_reward(["a"], max_penalty=1.0)


def test_repetition_time_is_linear():
    start = time.process_time()
    repetition_reward(["wait " * 200_000], ngram_size=10)
    assert time.process_time() - start < 5.0
