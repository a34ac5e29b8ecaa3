"""The page against the trainer: the same samples, advantages, losses, gradients and weights; and it learns."""

from __future__ import annotations

import ast
import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from data import PromptConfig, make_problems
from data.stream import Stream
from grpo import minimal, trainer
from grpo.experience import collect
from grpo.loss import LossConfig
from grpo.model.optim import OptimConfig, Optimizer
from grpo.model.policy import ModelConfig, Policy, load_policy
from grpo.runs.config import Config, GRPOConfig, RewardConfig, SandboxConfig
from grpo.sampling import SamplingConfig, sample_groups
from grpo.scoring import load_rewards
from rewards import reflection_reward

SEED = 0  # of the random numbers drawn with it, none lies within 1e-4 of where rounding would make it another token
SMALL = {"STEPS": 3, "P": 4, "G": 4, "MU": 3, "MAX_NEW_TOKENS": 24, "EPS": 0.05, "BETA": 0.04, "LR": 5e-5}
"""Harsher than the page's own settings: a tenth of the tokens is clipped, a quarter of the completions cut off."""


def load_tiny():
    model = AutoModelForCausalLM.from_pretrained(minimal.MODEL, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(minimal.MODEL)


def spy(monkeypatch, module, name):
    """The calls of a module's function from now on: (arguments, result) of each."""
    calls, real = [], getattr(module, name)

    def wrapped(*args, **kwargs):
        result = real(*args, **kwargs)
        calls.append((args, result))
        return result

    monkeypatch.setattr(module, name, wrapped)
    return calls


def gradients_of(model, train):
    """Run `train`; the gradients, clipped, by name, that each optimiser step got."""
    found = []
    hook = register_optimizer_step_pre_hook(
        lambda *_: found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    )
    try:
        train()
    finally:
        hook.remove()
    return found


def run_minimal(monkeypatch):
    samples, advantages, losses = (spy(monkeypatch, minimal, n) for n in ("sample", "group_advantages", "grpo_loss"))
    model, tokenizer = load_tiny()
    gradients = gradients_of(model, lambda: minimal.train(model, tokenizer, SEED))
    return {
        "samples": [[row[own == 1].tolist() for row, own in zip(ids, s, strict=True)] for _, (ids, _, s) in samples],
        "prompts": [
            [row[(seen == 1) & (own == 0)].tolist() for row, seen, own in zip(*three, strict=True)]
            for _, three in samples
        ],
        "advantages": [result for _, result in advantages],
        "losses": [result.item() for _, result in losses],
        "gradients": gradients,
        "weights": model.state_dict(),
    }


def trainer_config():
    """The page's constants as the trainer's settings."""
    names = ("accuracy", "format", "reflection")
    return Config(
        seed=SEED,
        tokens_per_micro_batch=300,  # several micro-batches
        model=ModelConfig(path=str(minimal.MODEL)),
        prompt=PromptConfig(style="plain", system="", template="{question}\n"),
        sampling=SamplingConfig(temperature=minimal.TEMPERATURE, max_new_tokens=minimal.MAX_NEW_TOKENS),
        rewards={name: RewardConfig(weight=w) for name, w in zip(names, minimal.WEIGHTS.tolist(), strict=True)},
        sandbox=SandboxConfig(enabled=False),
        loss=LossConfig(eps_low=minimal.EPS, eps_high=minimal.EPS, beta=minimal.BETA),
        optim=OptimConfig(lr=minimal.LR, max_grad_norm=minimal.MAX_GRAD_NORM),
        grpo=GRPOConfig(
            steps=minimal.STEPS,
            prompts_per_step=minimal.P,
            group_size=minimal.G,
            updates_per_batch=minimal.MU,
            drop_zero_spread=False,
        ),
    )


def run_trainer(monkeypatch):
    advantages, steps = spy(monkeypatch, trainer, "batch_advantages"), spy(monkeypatch, Optimizer, "step")
    config = trainer_config()
    policy, rewards = load_policy(config.model), load_rewards(config.rewards, config.sandbox)
    policy.freeze_reference()
    optimizer = Optimizer(policy.trainable(), config.optim, minimal.STEPS * minimal.MU)
    problems = make_problems("train", minimal.STEPS * minimal.P, SEED, minimal.PROBLEMS)
    stream = Stream(problems, SEED, shuffle=False)
    batches, metrics = [], []

    def train():
        for step in range(minimal.STEPS):
            batches.append(collect(config, policy, rewards, stream, step))
            metrics.append(trainer.update(config, policy, optimizer, batches[-1], rewards.weights, step))

    gradients = gradients_of(policy.model, train)
    rollouts = [batch.rollouts for batch in batches]
    return {
        "samples": [r.token_lists() for r in rollouts],
        "prompts": [[r.prompts[i] for i in r.prompt_index.tolist()] for r in rollouts],
        "advantages": [result for _, result in advantages],
        "losses": [loss for (_, _, loss), _ in steps],
        "gradients": gradients,
        "weights": policy.model.state_dict(),
        "truncated": torch.cat([r.truncated for r in rollouts]),
        "clipped": sum(m["clip_fraction_low"] + m["clip_fraction_high"] for m in metrics),
    }


def vector(tensors):
    """All tensors of a dictionary as one vector, in the order of their names."""
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


# ---- equal to the trainer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_three_steps_are_those_of_the_trainer(temperature, monkeypatch, tmp_path):
    for name, value in {**SMALL, "TEMPERATURE": temperature}.items():
        monkeypatch.setattr(minimal, name, value)
    ours, theirs = run_minimal(monkeypatch), run_trainer(monkeypatch)
    assert 0 < theirs["truncated"].sum() < len(theirs["truncated"])
    assert theirs["clipped"] > 0.01
    assert len({len(prompt) for prompt in ours["prompts"][0]}) > 1

    assert ours["prompts"] == theirs["prompts"]
    assert ours["samples"] == theirs["samples"]
    assert len(ours["advantages"]) == 3 and all(a.abs().max() > 0.5 for a in ours["advantages"])
    torch.testing.assert_close(ours["advantages"], theirs["advantages"], rtol=0, atol=1e-5)

    assert len(ours["losses"]) == 9 and max(map(abs, ours["losses"])) > 1e-3
    assert ours["losses"] == pytest.approx(theirs["losses"], abs=1e-5)
    for g, h in zip(ours["gradients"], theirs["gradients"], strict=True):
        g, h = vector(g), vector(h)
        assert (g - h).abs().max() < 1e-5  # their norm is clipped at 1
        assert (g - h).norm() < 3e-4 * h.norm()

    start, w, v = (vector(x) for x in (load_tiny()[0].state_dict(), ours["weights"], theirs["weights"]))
    assert (w - v).norm() < 1e-5 * v.norm()
    assert (w - v).norm() < 6e-3 * (v - start).norm()  # Adam makes steps of one size of gradients that are rounding


def test_padding_is_not_counted():
    """With absolute positions, which see what rotary ones do not: whether a row's first token stands at 0."""
    tokenizer = load_tiny()[1]
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, initializer_range=0.4, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    policy = Policy(copy.deepcopy(model), tokenizer, [tokenizer.eos_token_id], "gpt2")
    problems = make_problems("train", 4, SEED, minimal.PROBLEMS)
    batch = [p for p in problems for _ in range(minimal.G)]
    ids, attention_mask, sampled = minimal.sample(model, tokenizer, batch, SEED, step=0)
    assert attention_mask[:, 0].min() == 0 and attention_mask[:, 0].max() == 1

    prompts = [tokenizer(minimal.prompt(p)).input_ids for p in problems]
    config = SamplingConfig(max_new_tokens=minimal.MAX_NEW_TOKENS)
    rollouts = sample_groups(policy, prompts, [p.id for p in problems], minimal.G, config, SEED)
    assert [row[own == 1].tolist() for row, own in zip(ids, sampled, strict=True)] == rollouts.token_lists()
    logps = minimal.token_logps(model, ids, attention_mask)[sampled[:, 1:] == 1]
    torch.testing.assert_close(logps, rollouts.sampler_logps[rollouts.mask], rtol=0, atol=1e-4)


# ---- the page by itself -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_learns(monkeypatch):
    """A run of a few seconds: each reward rises on held-out problems."""
    for name, value in {"STEPS": 10, "P": 8, "LR": 2e-4, "HELD_OUT": 256}.items():
        monkeypatch.setattr(minimal, name, value)
    policy, tokenizer = load_tiny()
    before = minimal.evaluate(policy, tokenizer).mean(dim=0)
    minimal.train(policy, tokenizer, SEED)
    after = minimal.evaluate(policy, tokenizer).mean(dim=0)
    assert (after > before).all(), (before, after)
    assert after @ minimal.WEIGHTS > before @ minimal.WEIGHTS + 0.06, (before, after)


def test_the_reflection_reward_sees_the_prompts_as_in_the_trainer(monkeypatch):
    """A check counts if something in it occurs in the prompt, so without it the same text earns less."""
    _, tokenizer = load_tiny()
    problem = make_problems("train", 1, minimal.PROBLEMS)[0]
    problem = replace(problem, question="Tom has 5 apples. He buys 8 more.", answer="13")
    body = tokenizer("<think>\n Wait, 5 + 8 = 14. Wait, 8 - 3 = 5.\n</think>\n<answer>13</answer>")["input_ids"]
    ids = torch.tensor([body])
    reward = minimal.score(tokenizer, [problem], ids, torch.ones_like(ids))[0, 2]
    text = [tokenizer.decode(body)]
    alone, with_prompt = (
        reflection_reward(text, answer=["13"], **more)[0] for more in ({}, {"prompts": [minimal.prompt(problem)]})
    )
    assert alone != with_prompt and reward == pytest.approx(with_prompt)


def test_it_is_one_page():
    source = Path(minimal.__file__).read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 220
    names = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert {name for name in names if name.startswith("grpo")} == {"grpo.sampling"}  # for the random numbers
