"""Edges of an update: mini-batches of other sizes, rows that are left out, weights that look at the whole batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers_runs import grpo as run_stage
from helpers_runs import metrics, write_module
from test_trainer_mini_batches import sampled  # noqa: F401
from test_trainer_step import SIZE, WEIGHTS, Recorder, current_logps, make_config

from grpo import logprobs, trainer
from grpo.experience import groups_to_keep
from grpo.loss import LossConfig, policy_loss
from grpo.presets import PRESETS
from grpo.runs.config import RewardConfig, SandboxConfig
from grpo.runs.settings import ConfigError, load_config
from grpo.scoring import load_rewards
from grpo.trainer import update


@pytest.fixture
def forwarded(monkeypatch):
    """How many completion tokens each call of `completion_logps` computed, in the order of the calls."""
    tokens = []
    for module in (logprobs, trainer):
        real = module.completion_logps

        def counted(policy, rollouts, temperature, real=real):
            tokens.append(int(rollouts.mask.sum()))
            return real(policy, rollouts, temperature)

        monkeypatch.setattr(module, "completion_logps", counted)
    return tokens


def gradients(policy, batch, config):
    recorder = Recorder(policy)
    update(config, policy, recorder, batch, WEIGHTS, step=0)
    return recorder.gradients


# ---- mini-batches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", ["sequence_mean", "constant", "sequence_sum"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_completion_weighs_the_same_in_a_mini_batch_of_any_size(sampled, aggregation, masked):  # noqa: F811
    """5 groups in 4 mini-batches are 2, 1, 1, 1: the mean of the gradients is that of the whole batch."""
    policy, batch = sampled
    five = replace(batch, rollouts=batch.rollouts.select(torch.arange(5 * SIZE)), rewards=batch.rewards[: 5 * SIZE])
    loss = LossConfig(beta=0.0, aggregation=aggregation)
    [whole] = gradients(policy, five, make_config(loss, mask_truncated=masked))
    cut = gradients(policy, five, make_config(loss, mini_batches=4, mask_truncated=masked))
    assert len(cut) == 4
    for name, expected in whole.items():
        torch.testing.assert_close(sum(g[name] for g in cut) / 4, expected, rtol=1e-4, atol=1e-6)


def test_a_run_in_which_nothing_moves_stops_though_groups_were_dropped(tmp_path, monkeypatch, capsys):
    """One of four groups is flat, so four mini-batches become three; all three are skipped."""
    name = write_module(
        tmp_path,
        monkeypatch,
        "import torch\n\n\n"
        "def nan(ratio, advantages, logps, config):\n"
        "    return ratio * advantages * (float('nan') if len(ratio) != 2 else 1.0)\n\n\n"
        "def mostly(completions, prompts, completion_ids, **columns):\n"
        "    flat = prompts[0]\n"
        "    return [0.0 if p == flat else float(i % 2) for i, p in enumerate(prompts)]\n",
    )
    settings = {"grpo__prompts_per_step": 4, "grpo__mini_batches": 4, "grpo__steps": 6, "max_skipped": 2}
    settings |= {"grpo__max_refills": 0, "tokens_per_micro_batch": 1}
    functions = f"rewards.{name}:mostly.weight=1", f"loss.surrogate={name}:nan"
    assert run_stage("grpo", tmp_path / "run", *functions, **settings) == 2
    assert "2 steps in a row" in capsys.readouterr().err
    rows = metrics(tmp_path / "run")
    assert [(row["skipped"], row["updates"], row["dropped"]) for row in rows] == [(3, 3, 1)] * 2


def test_with_the_kl_in_the_reward_the_old_log_probs_are_computed_once(sampled, forwarded):  # noqa: F811
    policy, batch = sampled
    policy.freeze_reference()
    config = make_config(LossConfig(beta=0.1, kl_in="reward"), mini_batches=2)
    update(config, policy, Recorder(policy), batch, WEIGHTS, step=0)
    assert sum(forwarded) == 3 * int(batch.rollouts.mask.sum())  # reference, old, and with gradient


# ---- what is left out ---------------------------------------------------------------------------------------


def test_only_what_is_trained_is_computed(sampled, forwarded):  # noqa: F811
    policy, batch = sampled
    policy.freeze_reference()
    batch.rewards[:SIZE] = torch.nan  # a group without a score
    config = make_config(LossConfig(beta=0.1), mini_batches=2, mask_truncated=True)
    update(config, policy, Recorder(policy), batch, WEIGHTS, step=0)
    trained = ~batch.rollouts.truncated
    trained[:SIZE] = False
    assert 0 < trained.sum() < len(trained)
    assert sum(forwarded) == 3 * int(batch.rollouts.mask[trained].sum())


def test_a_truncated_completion_keeps_its_kl_in_the_reward(sampled, forwarded):  # noqa: F811
    """It is not trained on, but its siblings are compared with what it earned."""
    policy, batch = sampled
    policy.freeze_reference()
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    loss = LossConfig(beta=0.3, kl_in="reward", advantage="none")
    rows = update(make_config(loss), policy, Recorder(policy), batch, WEIGHTS, step=0), dict(batch.per_token)
    masked = make_config(loss, mask_truncated=True)
    update(masked, policy, Recorder(policy), batch, WEIGHTS, step=0)
    torch.testing.assert_close(batch.per_token["advantage"], rows[1]["advantage"], rtol=1e-4, atol=1e-5)


def test_a_weight_never_sees_a_micro_batch_without_a_token(sampled, monkeypatch, tmp_path):  # noqa: F811
    policy, batch = sampled
    body = "def largest(tokens):\n    return (tokens.entropy > tokens.entropy[tokens.mask].max() / 2)\n"
    name = write_module(tmp_path, monkeypatch, body)
    loss = LossConfig(beta=0.0, weight=(f"{name}:largest",))
    update(make_config(loss, tokens=1, mask_truncated=True), policy, Recorder(policy), batch, WEIGHTS, step=0)
    none = torch.zeros(2, 3, dtype=torch.bool)
    empty = policy_loss(*(torch.zeros(2, 3),) * 3, torch.zeros(2), none, loss, entropy=torch.zeros(2, 3))
    assert empty[0] == 0  # of several processes, one that has no micro-batch left


# ---- weights of yours ---------------------------------------------------------------------------------------


def test_a_weight_that_looks_at_the_batch_does_not_depend_on_micro_batches(sampled, monkeypatch, tmp_path):  # noqa: F811
    policy, batch = sampled
    body = "def above(tokens):\n    return tokens.entropy > tokens.batch_entropy.median()\n"
    weight = (f"{write_module(tmp_path, monkeypatch, body)}:above",)
    kept = [
        update(
            make_config(LossConfig(beta=0.0, weight=weight), tokens=tokens), policy, Recorder(policy), batch, WEIGHTS, 0
        )
        for tokens in (20, 16384)
    ]
    _, entropy = current_logps(make_config(), policy, batch.rollouts)
    every = entropy[batch.rollouts.mask]
    expected = (every > every.median()).float().mean().item()
    assert [m["weight"] for m in kept] == pytest.approx([expected] * 2, abs=1e-6)


@pytest.mark.parametrize(("settings", "fits"), [(["loss.beta=0"], False), (["loss.beta=0.1"], True), ([], True)])
def test_functions_are_tried_on_what_the_run_will_have(monkeypatch, tmp_path, settings, fits):
    body = "def far(tokens):\n    return (tokens.logps - tokens.reference).abs() < 1\n"
    line = f"loss.weight=['{write_module(tmp_path, monkeypatch, body)}:far']"
    if fits:
        assert load_config(None, [line, *settings])
    else:
        with pytest.raises(ConfigError, match=r"loss.weight cannot be used: .*NoneType"):
            load_config(None, [line, *settings])


def test_dppo_is_of_the_ratio_to_the_rollout_policy():
    """arXiv:2602.04879, eq. 12: the gradient of A < 0 at a gap of 0.2 nats is exp(0.2), and never above C = 5."""
    for gap, expected in ((0.2, 1.2214), (-0.3, 0.7408), (1.7, 5.0)):
        logps = torch.tensor([[-2.0]], requires_grad=True)
        sampler, mask = torch.tensor([[-2.0 - gap]]), torch.tensor([[True]])
        loss, _ = policy_loss(
            logps, logps.detach(), None, torch.tensor([-1.0]), mask, PRESETS["dppo"], sampler_logps=sampler
        )
        loss.backward()
        assert logps.grad.item() == pytest.approx(expected, rel=1e-3)


# ---- groups that are dropped --------------------------------------------------------------------------------


def test_drop_by_counts_with_the_kl_in_the_reward_too():
    rewards = {"accuracy": RewardConfig(), "format": RewardConfig(weight=0.2)}
    scored = load_rewards(rewards, SandboxConfig(enabled=False))
    scores = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])  # the first group's accuracy is flat
    for loss, drop_by, kept in (
        (PRESETS["rloo"], ("accuracy",), [False, True]),
        (PRESETS["rloo"], (), [True, True]),
        (PRESETS["grpo"], ("accuracy",), [False, True]),
        (PRESETS["grpo"], (), [True, True]),
    ):
        config = make_config(loss, drop_by=drop_by)
        config = replace(config, grpo=replace(config.grpo, group_size=2))
        assert groups_to_keep(config, scored, scores).tolist() == kept


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["grpo.drop_by=[accuracy]", "grpo.drop_zero_spread=false"], "grpo.drop_by does nothing with"),
        (["loss.surrogate=cispo", "loss.delta=4"], "loss.delta does nothing with loss.surrogate=cispo"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(settings, line):
    with pytest.raises(ConfigError, match=line):
        load_config(None, ["rewards.accuracy.weight=1", *settings])


def test_dapo_without_dropping_is_no_contradiction():
    config = load_config(None, ["rewards.accuracy.weight=1", "loss.preset=dapo", "grpo.drop_zero_spread=false"])
    assert config.grpo.drop_by == ()
    assert load_config(None, ["rewards.accuracy.weight=1", "loss.preset=dapo"]).grpo.drop_by == ("accuracy",)
