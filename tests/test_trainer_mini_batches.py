"""Mini-batches of a rollout: ratios leave 1, clips take effect, and presets no longer have the same gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers_runs import PARITY, lines, metrics, write_module
from helpers_runs import grpo as run_stage
from test_trainer_step import PROMPTS, SIZE, WEIGHTS, Recorder, current_logps, make_config

from data import PromptConfig, load_problems
from data.stream import Stream
from grpo import trainer
from grpo.experience import Batch, collect
from grpo.loss import PRESETS, LossConfig
from grpo.model.optim import OptimConfig, Optimizer
from grpo.model.policy import ModelConfig, load_policy
from grpo.runs.config import Config, GRPOConfig, RewardConfig, SandboxConfig
from grpo.runs.settings import ConfigError, load_config
from grpo.sampling import SamplingConfig, sample_groups
from grpo.scoring import load_rewards
from grpo.trainer import mini_batches, update


@pytest.fixture
def sampled(make_policy):
    """A policy and a batch of 6 x 4 completions."""
    policy = make_policy(eos_ids=(1, 2))
    prompts = PROMPTS + [[prompt[0], *prompt] for prompt in PROMPTS]
    rollouts = sample_groups(policy, prompts, list("abcdef"), SIZE, SamplingConfig(max_new_tokens=8), seed=1)
    rewards = torch.rand(len(rollouts), 2, generator=torch.Generator().manual_seed(0))
    return policy, Batch(rollouts, rewards, {})


def spy(monkeypatch, name):
    """The arguments of each call of a function of the trainer."""
    calls, real = [], getattr(trainer, name)
    monkeypatch.setattr(trainer, name, lambda *args, **options: calls.append((args, options)) or real(*args, **options))
    return calls


def test_each_group_is_in_one_mini_batch_and_the_order_is_the_seed_s(sampled):
    _, batch = sampled
    config = make_config(mini_batches=4)
    every = torch.ones(len(batch.rollouts), dtype=torch.bool)
    cut = mini_batches(config, every, step=3)
    assert sorted(len(rows) // SIZE for rows in cut) == [1, 1, 2, 2]
    assert sorted(torch.cat(cut).tolist()) == list(range(6 * SIZE))
    for rows in cut:
        assert (rows.view(-1, SIZE) // SIZE == rows.view(-1, SIZE)[:, :1] // SIZE).all()  # whole groups
    orders = {
        (seed, step): [rows.tolist() for rows in mini_batches(replace(config, seed=seed), every, step)]
        for seed in (0, 1) for step in (3, 4)
    }  # fmt: skip
    assert orders[0, 3] == [rows.tolist() for rows in cut] and len({str(order) for order in orders.values()}) == 4
    assert [rows.tolist() for rows in mini_batches(make_config(), every, 3)] == [list(range(6 * SIZE))]
    assert [len(rows) for rows in mini_batches(config, every[: 2 * SIZE], 3)] == [SIZE, SIZE]  # no step on nothing
    some = every.clone()
    some[: 2 * SIZE] = some[-1] = False  # two groups and one more completion that are not trained on
    cut = mini_batches(config, some, 3)
    assert sorted(len(rows) for rows in cut) == [SIZE - 1, SIZE, SIZE, SIZE]  # each has one of the groups that are left
    assert sorted(torch.cat(cut).tolist()) == list(range(2 * SIZE, 6 * SIZE - 1))


def test_advantages_are_the_batch_s_and_each_mini_batch_is_normalised_by_its_own_tokens(sampled, monkeypatch):
    """`batch` divides by the spread of all completions; a part alone would have another."""
    policy, batch = sampled
    config = make_config(LossConfig(advantage="batch", beta=0.0, aggregation="token_mean"), mini_batches=3)
    recorder, calls = Recorder(policy), spy(monkeypatch, "token_loss")
    update(config, policy, recorder, batch, WEIGHTS, step=5)
    total = (batch.rewards * WEIGHTS).sum(dim=1)
    centred = total - total.view(-1, SIZE).mean(dim=1).repeat_interleave(SIZE)
    cut = mini_batches(config, torch.ones(len(total), dtype=torch.bool), 5)
    assert recorder.steps == [15, 16, 17] and len(calls) == 3
    for rows, ((tokens, _, counts), _) in zip(cut, calls, strict=True):
        expected = (centred[rows] / (total.std() + 1e-4)).sort().values  # a micro-batch is sorted by length
        torch.testing.assert_close(tokens.advantages[:, 0].sort().values, expected)
        assert counts.tokens == batch.rollouts.mask[rows].sum() and counts.sequences == len(rows)
    torch.testing.assert_close(batch.per_token["advantage"], centred / (total.std() + 1e-4))


@pytest.mark.parametrize("tokens", [30, 16384])
def test_old_log_probs_are_of_the_policy_that_began_the_rollout(sampled, monkeypatch, tokens):
    policy, batch = sampled
    config = make_config(LossConfig(beta=0.0), mini_batches=3, updates_per_batch=2, tokens=tokens)
    before, entropy = current_logps(config, policy, batch.rollouts)
    calls = spy(monkeypatch, "token_loss")
    optimizer = Optimizer(policy.trainable(), OptimConfig(lr=1e-2), steps=100)
    figures = update(config, policy, optimizer, batch, WEIGHTS, step=0)
    for (tokens, *_), _ in calls:
        rows = [next(i for i, r in enumerate(batch.rollouts.sampler_logps) if r[: s.shape[0]].equal(s))
                for s in tokens.sampler]  # fmt: skip
        torch.testing.assert_close(tokens.old, before[rows, : tokens.old.shape[1]])
    assert entropy[batch.rollouts.mask].min() > 0
    now = current_logps(config, policy, batch.rollouts)[0]
    assert (now - before).abs().max() > 0.01 and figures["ratio_max"] > 1.01
    assert figures["sampler_gap"] < 1e-5  # of the first step: later the policy is another


def test_one_update_computes_nothing_ahead(sampled, monkeypatch):
    policy, batch = sampled
    calls, ahead = spy(monkeypatch, "completion_logps"), spy(monkeypatch, "logps_without_grad")
    update(make_config(LossConfig(beta=0.0)), policy, Recorder(policy), batch, WEIGHTS, step=0)
    assert (len(calls), len(ahead)) == (1, 0)
    update(make_config(LossConfig(beta=0.0), mini_batches=2), policy, Recorder(policy), batch, WEIGHTS, step=0)
    assert (len(calls), len(ahead)) == (1 + 2, 1)


def test_values_are_of_each_token_and_of_the_last_pass(sampled):
    policy, batch = sampled
    config = make_config(LossConfig(beta=0.0, eps_low=0.01, eps_high=0.01), mini_batches=3, updates_per_batch=2)
    before = current_logps(config, policy, batch.rollouts)[0]
    figures = update(config, policy, Recorder(policy), batch, WEIGHTS, step=0)  # nothing moves
    mask = batch.rollouts.mask
    assert set(batch.per_token) == {"advantage", "old_logps", "ratio", "entropy", "clipped"}
    torch.testing.assert_close(batch.per_token["ratio"], mask.float())
    torch.testing.assert_close(batch.per_token["old_logps"], before)
    assert figures["ratio"] == pytest.approx(1) and not batch.per_token["clipped"].any()
    optimizer = Optimizer(policy.trainable(), OptimConfig(lr=1e-2), steps=100)
    update(config, policy, optimizer, batch, WEIGHTS, step=0)
    rho, a = batch.per_token["ratio"], batch.per_token["advantage"][:, None]
    clipped = (((rho > 1.01) & (a > 0)) | ((rho < 0.99) & (a < 0))) & mask
    assert batch.per_token["clipped"].bool().equal(clipped) and 0 < clipped.sum() < mask.sum()
    assert (rho[~mask] == 0).all() and before.shape == rho.shape


# ---- the embedded model ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo():
    """The embedded model's batch of 16 x 8 on the embedded problems, as in the demo: (config, rewards, batch)."""
    rewards = {name: RewardConfig(weight=w) for name, w in (("accuracy", 1.0), ("format", 0.2), ("reflection", 0.2))}
    config = Config(
        model=ModelConfig("tiny"),
        prompt=PromptConfig(style="plain", system="", template="{question}\n"),
        sampling=SamplingConfig(max_new_tokens=96),
        rewards=rewards,
        sandbox=SandboxConfig(enabled=False),
        grpo=GRPOConfig(prompts_per_step=16, group_size=8, mini_batches=4),
    )
    scored = load_rewards(rewards, config.sandbox)
    problems = load_problems(replace(config.data, count=64), 0)
    batch = collect(config, load_policy(config.model), scored, Stream(problems, 0), 0)
    assert batch.metrics["groups"] == 16
    return config, scored, batch


def gradients(demo, name: str, mini: int) -> tuple[list[torch.Tensor], dict[str, float]]:
    """The whole gradient, in one vector, at each optimiser step of a preset's update on the batch; and its metrics."""
    config, rewards, batch = demo
    policy, found = load_policy(config.model, training=True), []
    policy.freeze_reference()
    optimizer = Optimizer(policy.trainable(), OptimConfig(lr=2e-4), steps=100)
    step = optimizer.step

    def noted(number, loss):
        found.append(torch.cat([p.grad.flatten() for p in policy.trainable().values()]))
        return step(number, loss)

    optimizer.step = noted
    # what is compared is the surrogate: the rest of the presets as one
    loss = replace(PRESETS[name], advantage="group", aggregation="token_mean", beta=0.0)
    settings = replace(config, loss=loss, grpo=replace(config.grpo, mini_batches=mini))
    return found, update(settings, policy, optimizer, replace(batch, per_token={}), rewards.weights, 0)


def angle(a: torch.Tensor, b: torch.Tensor) -> float:
    """Degrees between two gradients."""
    a, b = a.double(), b.double()
    return torch.rad2deg(torch.acos((a @ b / a.norm() / b.norm()).clamp(-1, 1))).item()


def test_with_mini_batches_clips_take_effect_and_the_presets_gradients_part(demo, capsys):
    """On fresh samples the presets' surrogates have one gradient. So their second updates begin with the same weights,
    and there the ratios are no longer 1."""
    names = ("grpo", "gspo", "cispo", "sapo", "gmpo")
    cut = {name: gradients(demo, name, mini=4) for name in names}
    assert all(len(found) == 4 for found, _ in cut.values())
    for step in range(4):
        table = {name: angle(cut["grpo"][0][step], cut[name][0][step]) for name in names[1:]}
        with capsys.disabled():
            shown = ", ".join(f"{name} {x:.2f}" for name, x in table.items())
            print(f"\nupdate {step + 1}, degrees from grpo's gradient: {shown}", end=" ")
        assert max(table.values()) < 0.1 if step == 0 else min(table.values()) > 1
    figures = cut["grpo"][1]
    assert figures["clip_fraction_low"] > 0 and figures["clip_fraction_high"] > 0 and figures["ratio_max"] > 1.2
    assert cut["gspo"][1]["clip_fraction_low"] > 0 and cut["gmpo"][1]["clip_fraction_low"] > 0


# ---- in a run ----------------------------------------------------------------------------------------------


def test_a_run_says_that_one_update_makes_every_ratio_1_and_logs_whole_groups(tmp_path, monkeypatch, capsys):
    reward = f"rewards.{write_module(tmp_path, monkeypatch, PARITY)}:parity.weight=1"
    assert run_stage("grpo", tmp_path / "one", reward) == 0
    note = "NOTE: one update a batch: every ratio pi / pi_old is 1"
    assert capsys.readouterr().err.count(note) == 1
    for more in ("grpo.mini_batches=2", "grpo.updates_per_batch=2", "loss.preset=reinforce"):
        assert run_stage("grpo", tmp_path / more, reward, more, "grpo.steps=1") == 0
        assert note not in capsys.readouterr().err
    assert [row["ratio_max"] for row in metrics(tmp_path / "one")] == [1.0] * 4
    rows = lines(tmp_path / "grpo.mini_batches=2" / "completions.jsonl")
    assert len(rows) > 8 and len(rows) % 4 == 0
    rows = [row for row in rows if "tokens" in row]
    assert len(rows) == 8  # two groups of 4
    for row in rows:
        tokens = row["tokens"]
        assert set(tokens) == {"ids", "text", "before", "after", "ratio", "kl", "entropy", "clipped"}
        assert {len(x) for x in tokens.values()} == {len(tokens["text"])}
        assert "".join(tokens["text"]).startswith(row["completion"])
    assert sum(row["advantage"] for row in rows[:4]) == pytest.approx(0, abs=1e-3)


def test_more_mini_batches_than_groups_are_refused():
    with pytest.raises(ConfigError, match=r"grpo.mini_batches must be at most grpo.prompts_per_step=8"):
        load_config(None, ["grpo.mini_batches=9"])
