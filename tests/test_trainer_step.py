"""One update, end to end on a small model: against the objective written out over whole sequences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers_models import plain

from grpo.experience import Batch, ScoredGroups
from grpo.logprobs import logps_without_grad
from grpo.loss import PRESETS, LossConfig
from grpo.model.optim import OptimConfig, Optimizer
from grpo.runs.config import Config, GRPOConfig
from grpo.sampling import SamplingConfig, sample_groups
from grpo.trainer import batch_advantages, update

PROMPTS = [[5, 7, 3], [9], [4, 4, 8, 2, 15, 6, 11]]
SIZE = 4
WEIGHTS = torch.tensor([1.0, 0.5])


class Recorder:
    """Stands in for the optimiser: keeps the gradients of each step and moves nothing."""

    def __init__(self, policy):
        self.policy, self.steps, self.gradients = policy, [], []
        self.masters = {}

    def reduce_gradients(self):
        pass

    def lr(self, step):
        return 0.5 + step

    def step(self, step, loss):
        self.steps.append(step)
        self.gradients.append({n: p.grad.clone() for n, p in self.policy.model.named_parameters()})
        self.policy.model.zero_grad(set_to_none=True)
        return {"grad_norm": 0.0, "lr": 0.0, "skipped": 0.0}


def make_config(loss=PRESETS["grpo"], temperature=1.0, tokens=16384, **grpo):
    return Config(
        loss=loss,
        tokens_per_micro_batch=tokens,
        sampling=SamplingConfig(temperature=temperature, max_new_tokens=8),
        grpo=GRPOConfig(group_size=SIZE, **grpo),
    )


def current_logps(config, policy, rollouts):
    """Log-probs and entropies of the samples, [N, T] each."""
    return logps_without_grad(policy, rollouts, config.sampling.temperature, config.tokens_per_micro_batch)


@pytest.fixture
def setup(make_policy):
    """setup(temperature) -> a policy with an end token, a reference that differs, and a sampled batch of 3 x 4."""

    def build(temperature=1.0, own_reference=False):
        policy = make_policy(eos_ids=(1, 2))
        source = policy if own_reference else make_policy(eos_ids=(1, 2), seed=5)
        source.freeze_reference()
        policy._reference = source._reference
        config = SamplingConfig(temperature=temperature, max_new_tokens=8)
        rollouts = sample_groups(policy, PROMPTS, ["a", "b", "c"], SIZE, config, seed=1)
        assert 0 < rollouts.truncated.sum() < len(rollouts)
        generator = torch.Generator().manual_seed(0)
        return policy, Batch(rollouts, torch.rand(len(rollouts), 2, generator=generator), {})

    return build


def step(policy, batch, config):
    """(gradients, metrics) of one update that moves nothing."""
    recorder = Recorder(policy)
    metrics = update(config, policy, recorder, batch, WEIGHTS, step=0)
    return recorder.gradients[0], metrics


# ---- the objective, over whole sequences ---------------------------------------------------------------------


def sequence_logps(policy, rollouts, row, temperature):
    """Log-probs [T_i] of one completion, from the plain forward pass of prompt + completion."""
    prompt = rollouts.prompts[int(rollouts.prompt_index[row])]
    completion = rollouts.token_lists()[row]
    with plain(policy.model) as model:
        logits = model(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0]
    logp = (logits[len(prompt) - 1 : -1] / temperature).log_softmax(dim=-1)
    return logp[range(len(completion)), completion]


def grpo_objective(policy, batch, temperature, beta=0.04):
    """arXiv:2402.03300, eq. 3 on-policy: mean_i mean_t (rho A_i - beta k3), with A_i of the weighted rewards."""
    total = (batch.rewards * WEIGHTS).sum(dim=1).view(-1, SIZE)
    advantages = ((total - total.mean(dim=1, keepdim=True)) / (total.std(dim=1, keepdim=True) + 1e-4)).flatten()
    terms = []
    for row in range(len(batch.rollouts)):
        logps = sequence_logps(policy, batch.rollouts, row, temperature)
        with torch.no_grad():
            ref = sequence_logps(policy._reference[0], batch.rollouts, row, temperature)
        kl = (ref - logps).exp() - (ref - logps) - 1
        terms.append(((logps - logps.detach()).exp() * advantages[row] - beta * kl).mean())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.4])
def test_an_update_follows_the_gradient_of_the_objective(temperature, setup):
    policy, batch = setup(temperature)
    gradients, metrics = step(policy, batch, make_config(temperature=temperature))
    loss = -grpo_objective(policy, batch, temperature)
    loss.backward()
    expected = {name: p.grad for name, p in policy.model.named_parameters()}
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-5)
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-5)


# ---- micro-batches -------------------------------------------------------------------------------------------

LOSSES = {
    **PRESETS,
    "k2": LossConfig(kl="k2", aggregation="token_mean"),
    "k1 in the reward": LossConfig(kl="k1", kl_in="reward", beta=0.3),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("mask_truncated", [False, True])
def test_how_the_batch_is_cut_does_not_matter(name, mask_truncated, setup):
    policy, batch = setup()
    config = make_config(LOSSES[name], mask_truncated=mask_truncated)
    gradients, metrics = step(policy, batch, config)
    assert max(g.abs().max() for g in gradients.values()) > 1e-3
    for tokens in (1, 20, 35, 60):  # 1: every completion by itself
        ours, our_metrics = step(policy, batch, replace(config, tokens_per_micro_batch=tokens))
        torch.testing.assert_close(ours, gradients, rtol=1e-3, atol=1e-5)
        assert our_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-5)


# ---- the first step ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 16384])
@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
@pytest.mark.parametrize("name", PRESETS)
def test_the_ratio_of_the_first_step_is_one(name, temperature, tokens, setup):
    policy, batch = setup(temperature)
    _, metrics = step(policy, batch, make_config(PRESETS[name], temperature, tokens))
    assert metrics["ratio"] == pytest.approx(1, abs=1e-6) and metrics["ratio_max"] == 1
    assert metrics["clip_fraction_low"] == metrics["clip_fraction_high"] == 0
    assert metrics["sampler_gap"] < 1e-5


def test_the_sampler_gap_shows_a_wrong_temperature(setup):
    policy, batch = setup(temperature=0.7)
    _, metrics = step(policy, batch, make_config(temperature=1.0))
    assert metrics["sampler_gap"] > 0.05


def test_the_loss_starts_at_zero_and_still_teaches(setup):
    policy, batch = setup(own_reference=True)
    gradients, metrics = step(policy, batch, make_config(PRESETS["grpo"]))
    assert abs(metrics["loss"]) < 1e-6 and abs(metrics["kl"]) < 1e-6
    assert max(g.abs().max() for g in gradients.values()) > 1e-3


# ---- mu inner iterations -------------------------------------------------------------------------------------


def test_inner_iterations_move_the_ratio_but_not_old_logps(setup, monkeypatch):
    policy, batch = setup()
    seen = []
    real = Optimizer.step
    monkeypatch.setattr(Optimizer, "step", lambda self, step, loss: seen.append(step) or real(self, step, loss))
    config = make_config(updates_per_batch=3, tokens=30)
    before = current_logps(config, policy, batch.rollouts)[0]
    optimizer = Optimizer(policy.trainable(), OptimConfig(lr=1e-2), steps=100)
    metrics = update(config, policy, optimizer, batch, WEIGHTS, step=4)
    assert seen == [12, 13, 14]  # the schedule counts optimiser steps
    assert metrics["ratio_max"] > 1.01
    assert metrics["sampler_gap"] < 1e-5  # the first iteration's: later the policy is another
    # the last iteration's figures, against the log-probs from before the first: two updates lie between them
    policy, batch = setup()
    optimizer = Optimizer(policy.trainable(), OptimConfig(lr=1e-2), steps=100)
    update(replace(config, grpo=replace(config.grpo, updates_per_batch=2)), policy, optimizer, batch, WEIGHTS, step=6)
    now = current_logps(config, policy, batch.rollouts)[0]
    ratio = (now - before).exp()[batch.rollouts.mask]
    assert metrics["ratio"] == pytest.approx(ratio.mean().item(), rel=1e-4)
    assert metrics["ratio_max"] == pytest.approx(ratio.max().item(), rel=1e-4)


def test_an_update_makes_good_completions_likelier(setup):
    policy, batch = setup()
    rewards = torch.zeros(12, 2)
    rewards[[1, 6, 8], 0] = 1.0
    batch, config = replace(batch, rewards=rewards), make_config(PRESETS["dr_grpo"])
    before = current_logps(config, policy, batch.rollouts)[0].sum(dim=1)
    optimizer = Optimizer(policy.trainable(), OptimConfig(lr=1e-3), steps=1)
    update(config, policy, optimizer, batch, WEIGHTS, step=0)
    change = current_logps(config, policy, batch.rollouts)[0].sum(dim=1) - before
    good = rewards[:, 0].bool()
    assert (change[good] > 0).all()
    assert change[good].mean() > 0 > change[~good].mean()


# ---- what is left out, what is added -------------------------------------------------------------------------


def test_masked_truncated_completions_teach_nothing_but_still_count_in_their_group(setup):
    policy, batch = setup()
    config = make_config(PRESETS["dapo"], mask_truncated=True)
    gradients, _ = step(policy, batch, config)
    lost = batch.rollouts.truncated.nonzero().squeeze(1)

    garbled = batch.rollouts.completion_ids.clone()
    garbled[lost] = 20  # what a truncated completion says does not matter
    same, _ = step(policy, replace(batch, rollouts=replace(batch.rollouts, completion_ids=garbled)), config)
    torch.testing.assert_close(same, gradients, rtol=1e-4, atol=1e-6)

    rewards = batch.rewards.clone()
    rewards[lost] += 1.0  # what it earned does: it moves its siblings' mean
    other, _ = step(policy, replace(batch, rewards=rewards), config)
    assert max((other[n] - gradients[n]).abs().max() for n in gradients) > 1e-3
    whole, _ = step(policy, batch, make_config(PRESETS["dapo"]))
    assert max((whole[n] - gradients[n]).abs().max() for n in gradients) > 1e-3


def test_masked_tokens_are_not_counted_either(setup):
    policy, batch = setup()
    _, metrics = step(policy, batch, make_config(LossConfig(beta=0.0), mask_truncated=True))
    kept = ~batch.rollouts.truncated
    total = (batch.rewards * WEIGHTS).sum(dim=1).view(-1, SIZE)
    advantages = ((total - total.mean(dim=1, keepdim=True)) / (total.std(dim=1, keepdim=True) + 1e-4)).flatten()
    assert metrics["loss"] == pytest.approx(-advantages[kept].mean().item(), abs=1e-5)


@pytest.mark.parametrize("kl_in", ["loss", "reward"])
def test_a_completion_without_a_score_teaches_nothing_and_is_not_counted(setup, kl_in):
    """Its grader was killed: what it says must not matter, nor its length."""
    policy, batch = setup()
    config = make_config(LossConfig(beta=0.1, kl_in=kl_in, aggregation="token_mean"))
    batch.rewards[1] = torch.nan
    gradients, _ = step(policy, batch, config)
    garbled = batch.rollouts.completion_ids.clone()
    garbled[1] = 20
    same, _ = step(policy, replace(batch, rollouts=replace(batch.rollouts, completion_ids=garbled)), config)
    torch.testing.assert_close(same, gradients, rtol=1e-4, atol=1e-6)
    shorter = batch.rollouts.mask.clone()
    shorter[1, 1:] = False
    same, _ = step(policy, replace(batch, rollouts=replace(batch.rollouts, mask=shorter)), config)
    torch.testing.assert_close(same, gradients, rtol=1e-4, atol=1e-6)


def test_no_step_is_made_on_nothing(setup):
    policy, batch = setup()
    every = replace(batch.rollouts, truncated=torch.ones_like(batch.rollouts.truncated))
    recorder, config = Recorder(policy), make_config(LossConfig(), mask_truncated=True)
    figures = update(config, policy, recorder, replace(batch, rollouts=every), WEIGHTS, step=0)
    assert not recorder.steps
    _, usual = step(policy, batch, make_config())  # what is known of the policy is the same as in any other step
    assert figures.keys() == {"entropy", "kl", "sampler_gap", "lr"} and figures["lr"] == 0.5
    assert all(figures[name] == pytest.approx(usual[name], rel=1e-4, abs=1e-6) for name in figures.keys() - {"lr"})


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_in_the_reward_is_taken_from_the_reward(estimator, setup):
    policy, batch = setup()
    config = make_config(LossConfig(advantage="none", kl=estimator, kl_in="reward", beta=0.3))
    with policy.reference() as reference:
        ref_logps = current_logps(config, reference, batch.rollouts)[0]
    rewards_before = batch.rewards.clone()
    current = current_logps(config, policy, batch.rollouts)[0]
    advantages = batch_advantages(config, batch, WEIGHTS, current, ref_logps)
    totals = []
    with torch.no_grad():
        for row in range(12):
            logps = sequence_logps(policy, batch.rollouts, row, 1.0)
            ref = sequence_logps(policy._reference[0], batch.rollouts, row, 1.0)
            gap = ref - logps
            kl = {"k1": -gap, "k2": gap.square() / 2, "k3": gap.exp() - gap - 1}[estimator]
            totals.append((batch.rewards[row] * WEIGHTS).sum() - 0.3 * kl.sum())
    total = torch.stack(totals).view(-1, SIZE)
    expected = (total - total.mean(dim=1, keepdim=True)).flatten()
    torch.testing.assert_close(advantages, expected, rtol=1e-4, atol=1e-3)
    assert batch.rewards.equal(rewards_before)  # rewards are logged as they were given


def test_without_beta_no_reference_is_needed(setup):
    policy, batch = setup()
    policy._reference = ()
    _, metrics = step(policy, batch, make_config(LossConfig(beta=0.0)))
    assert "kl" not in metrics
    with pytest.raises(RuntimeError, match="freeze_reference"):
        step(policy, batch, make_config(LossConfig(beta=0.1)))


def test_a_batch_of_nothing_moves_nothing(setup):
    policy, batch = setup()
    groups = ScoredGroups(batch.rollouts, None, batch.rewards, torch.arange(0), killed=0)
    nothing = Batch(batch.rollouts.select(groups.kept), batch.rewards[:0], {}, [groups])
    recorder, config = Recorder(policy), make_config()
    config = replace(config, grpo=replace(config.grpo, updates_per_batch=2, mini_batches=2))
    figures = update(config, policy, recorder, nothing, WEIGHTS, step=3)
    assert recorder.steps == [] and figures["lr"] == 12.5
    assert figures["entropy"] > 0 and figures["kl"] > 0 and figures["sampler_gap"] < 1e-4


def test_metrics_are_per_token_of_the_batch(setup):
    policy, batch = setup()
    _, metrics = step(policy, batch, make_config(tokens=25))
    rollouts, entropies = batch.rollouts, []
    with torch.no_grad():
        for row, completion in enumerate(rollouts.token_lists()):
            prompt = rollouts.prompts[int(rollouts.prompt_index[row])]
            with plain(policy.model) as model:
                logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
            entropies += torch.distributions.Categorical(logits=logits).entropy().tolist()
    assert metrics["entropy"] == pytest.approx(sum(entropies) / len(entropies), rel=1e-4)
