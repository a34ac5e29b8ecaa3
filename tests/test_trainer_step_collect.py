"""Collecting a batch: groups without a spread are dropped and replaced, and everything sampled is counted."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from data import Problem, PromptConfig
from data.embedded.tiny_model import build_model, build_tokenizer
from data.stream import Stream
from grpo.experience import collect
from grpo.loss import PRESETS, LossConfig
from grpo.model.policy import Policy
from grpo.records import record_step
from grpo.runs.config import Config, GRPOConfig
from grpo.runs.log import RunLog
from grpo.sampling import SamplingConfig
from grpo.scoring import RewardSet

SIZE = 4


@pytest.fixture(scope="module")
def policy():
    tokenizer = build_tokenizer()
    return Policy(build_model(0).eval(), tokenizer, [tokenizer.eos_token_id], "tiny-init")


def alternate(completions, spread, **columns):
    """Every second completion of a problem with a spread earns 1, all others 0."""
    return [float(wide and i % 2) for i, wide in enumerate(spread)]


def sometimes(completions, **columns):
    """Applies to the first completion of each group only."""
    return [0.25 if i % SIZE == 0 else None for i in range(len(completions))]


REWARDS = RewardSet({"alternate": alternate, "sometimes": sometimes}, torch.tensor([2.0, 0.0]))


def run(policy, folder, spread, rewards=REWARDS, loss=PRESETS["grpo"], **grpo):
    """Collect step 0 from problems that have a spread or not, in the order of the stream."""
    config = Config(
        sampling=SamplingConfig(max_new_tokens=6),
        prompt=PromptConfig(style="plain", template="{question}"),
        grpo=GRPOConfig(**{"prompts_per_step": 3, "group_size": SIZE, "max_refills": 2, **grpo}),
        loss=loss,
    )
    problems = [
        Problem(id=f"test/{i}", question=f"Mia has {i} apples.", answer=str(i), solution="", columns={})
        for i in range(len(spread))
    ]
    order = Stream(problems, seed=0).take(len(problems))
    known = {p.id: wide for p, wide in zip(order, spread, strict=True)}
    stream = Stream([replace(p, columns={"spread": known[p.id]}) for p in problems], seed=0)
    log = RunLog(folder)
    batch = collect(config, policy, rewards, stream, 0)
    record_step(log, 0, batch, rewards, policy, config)
    log.keep_samples(1)
    log.close()
    return batch, stream, [p.question for p in order]


def questions(policy, batch):
    return [policy.tokenizer.decode(ids) for ids in batch.rollouts.prompts]


def test_flat_groups_are_dropped_and_others_sampled_in_their_place(policy, tmp_path):
    batch, stream, order = run(policy, tmp_path, [True, False, True, False, True, True])
    assert questions(policy, batch) == [order[0], order[2], order[4]]  # round 1: 0 and 2; round 2: none; round 3: 4
    assert len(batch.rollouts) == 3 * SIZE and stream.position == 5
    assert batch.rollouts.prompt_index.tolist() == [i for i in range(3) for _ in range(SIZE)]
    assert batch.rewards[:, 0].tolist() == [0.0, 1.0, 0.0, 1.0] * 3
    assert batch.metrics["refills"] == 2 and batch.metrics["groups"] == 3
    assert batch.metrics["zero_spread"] == pytest.approx(2 / 5)


def test_refills_are_bounded(policy, tmp_path):
    batch, stream, order = run(policy, tmp_path, [False, True] + [False] * 8, max_refills=1)
    assert questions(policy, batch) == [order[1]]
    assert stream.position == 3 + 2
    assert batch.metrics["groups"] == 1 and batch.metrics["refills"] == 1


def test_without_dropping_everything_is_kept(policy, tmp_path):
    batch, stream, order = run(policy, tmp_path, [False, True, False, True], drop_zero_spread=False)
    assert questions(policy, batch) == order[:3] and stream.position == 3
    assert batch.metrics["zero_spread"] == pytest.approx(2 / 3) and batch.metrics["refills"] == 0


def test_nothing_with_a_spread(policy, tmp_path):
    batch, stream, _ = run(policy, tmp_path, [False] * 10)
    assert len(batch.rollouts) == 0 and batch.rewards.shape == (0, 2)
    assert stream.position == 9 and batch.metrics["zero_spread"] == 1 and batch.metrics["groups"] == 0


def test_metrics_count_dropped_groups_too(policy, tmp_path):
    batch, _, _ = run(policy, tmp_path, [True, False, True, False, True, True])
    metrics = batch.metrics
    assert metrics["reward_alternate"] == pytest.approx(3 / 5 * 0.5)
    assert metrics["reward"] == pytest.approx(2 * 3 / 5 * 0.5)
    assert metrics["reward_sometimes"] == pytest.approx(0.25)  # over those that it applies to
    assert metrics["spread"] == pytest.approx(3 / 5 * math.sqrt(4 / 3))
    assert metrics["sampled_tokens"] == metrics["length"] * 5 * SIZE
    assert 1 <= metrics["length"] <= metrics["length_max"] <= 6
    assert 0 <= metrics["truncated"] <= 1


def test_rewards_keep_their_own_columns(policy, tmp_path):
    batch, _, _ = run(policy, tmp_path, [True] * 3)
    assert batch.rewards.shape == (12, 2)
    assert batch.rewards[::SIZE, 1].tolist() == [0.25] * 3
    assert batch.rewards[1::SIZE, 1].isnan().all()
    lines = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert [line["rewards"] for line in lines] == [
        {"alternate": 0.0, "sometimes": 0.25}, {"alternate": 1.0, "sometimes": None},
        {"alternate": 0.0, "sometimes": None}, {"alternate": 1.0, "sometimes": None},
    ] * 3  # fmt: skip
    assert [line["total"] for line in lines] == [0.0, 2.0] * 6


def test_a_prompt_without_room_in_the_context_is_refused(policy, tmp_path):
    long = Problem("test/long", "apples " * 300, "1", "", {"spread": True})
    config = Config(
        prompt=PromptConfig(style="plain", template="{question}"), sampling=SamplingConfig(max_new_tokens=8)
    )
    with pytest.raises(ValueError, match=r"max_new_tokens=8 exceeds the model's context of 256"):
        collect(config, policy, REWARDS, Stream([long], 0), 0)


def telling(completions, trainer_state, log_metric, log_extra, **columns):
    log_metric("letters", sum(map(len, completions)))
    log_metric("epoch", trainer_state.epoch)
    log_extra("first", [text[:1] for text in completions])
    return alternate(completions, **columns)


def test_what_rewards_log_is_logged(policy, tmp_path):
    """TRL's hooks: a figure as its mean over the step, a column beside each completion."""
    rewards = RewardSet({"telling": telling}, torch.ones(1))
    batch, _, _ = run(policy, tmp_path, [True, False, True, False, True, True], rewards=rewards)
    assert batch.metrics["epoch"] == pytest.approx((3 / 6 + 4 / 6 + 5 / 6) / 3)  # passes over the data, as in TRL
    lines = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert batch.metrics["letters"] > 0
    assert all(line["extras"] == {"first": line["completion"][:1]} for line in lines)


def test_groups_are_dropped_by_the_rewards_that_are_named(policy, tmp_path):
    """DAPO drops by correctness: a group that is all right stays out, whatever else its completions earn."""
    whole, _, order = run(policy, tmp_path, [True, False, True], max_refills=0)
    assert questions(policy, whole) == [order[0], order[2]]
    for by, kept in ((("alternate",), [0, 2]), (("sometimes",), []), (("alternate", "sometimes"), [0, 1, 2])):
        batch, _, _ = run(policy, tmp_path, [True, False, True], max_refills=0, drop_by=by)
        assert questions(policy, batch) == [order[i] for i in kept]  # `sometimes` counts, though its weight is 0


def half_right(completions, **columns):
    """The second half of each group is right, in every other group; in the rest all are."""
    return [float(i % SIZE >= SIZE // 2 or i // SIZE % 2) for i in range(len(completions))]


def taste(completions, **columns):
    return [float(i % 2) for i in range(len(completions))]


def test_shaping_only_is_the_share_of_groups_that_other_rewards_decide_alone(policy, tmp_path):
    rewards = RewardSet({"accuracy": half_right, "taste": taste}, torch.tensor([1.0, 0.01]))
    batch, *_ = run(policy, tmp_path, [True] * 4, rewards=rewards, prompts_per_step=4)
    assert batch.metrics["shaping_only"] == 0.5
    batch, *_ = run(policy, tmp_path, [True] * 4, rewards=rewards, prompts_per_step=4, drop_by=("accuracy",))
    assert batch.metrics["shaping_only"] == 0 and len(batch.rollouts) == 2 * SIZE
    # a group that is flat in all rewards teaches nothing, so it does not count
    alone = replace(rewards, weights=torch.tensor([1.0, 0.0]))
    batch, *_ = run(policy, tmp_path, [True] * 4, rewards=alone, prompts_per_step=4, drop_zero_spread=False)
    assert batch.metrics["shaping_only"] == 0 and len(batch.rollouts) == 4 * SIZE
    batch, *_ = run(policy, tmp_path, [True] * 3)  # no reward here says what is right
    assert "shaping_only" not in batch.metrics


def test_with_the_kl_in_the_reward_no_group_is_flat(policy, tmp_path):
    loss = LossConfig(beta=0.1, kl_in="reward")
    batch, _, order = run(policy, tmp_path, [False, True, False], loss=loss)
    assert questions(policy, batch) == order[:3]
    batch, _, order = run(policy, tmp_path, [False, True, False], loss=replace(loss, beta=0.0), max_refills=0)
    assert questions(policy, batch) == [order[1]]
