"""Supervised fine-tuning: which tokens are in the loss, and that batches may be cut anywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers_models import plain
from helpers_runs import SMALL, metrics, one_line
from helpers_runs import grpo as run_stage

from data import DataConfig, Problem, Prompt, build_prompt, load_problems, response_text
from grpo import sft
from grpo.model.optim import OptimConfig, Optimizer
from grpo.model.policy import ModelConfig, load_policy
from grpo.runs.settings import load_config
from grpo.sft import Example, as_rollouts, make_examples, sft_step
from grpo.types import Rollouts

LENGTHS = [(5, 7), (5, 3), (9, 1), (2, 6), (5, 4)]  # tokens of prompt and completion


@pytest.fixture
def policy():
    return load_policy(ModelConfig("tiny-init"))


@pytest.fixture
def config():
    return load_config(None, [f"{k}={v}" for k, v in SMALL.items()])


@pytest.fixture
def examples() -> list[Example]:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randint(3, 70, (5,), generator=generator).tolist()
    return [
        (shared if p == 5 else torch.randint(3, 70, (p,), generator=generator).tolist(),
         torch.randint(3, 70, (c,), generator=generator).tolist())
        for p, c in LENGTHS
    ]  # fmt: skip


@pytest.fixture
def batch(examples) -> Rollouts:
    return as_rollouts(examples)


def optimizer(policy) -> Optimizer:
    return Optimizer(policy.trainable(), OptimConfig(lr=1e-3, max_grad_norm=1e9), steps=1)


def test_the_loss_is_the_mean_over_completion_tokens(policy, examples, batch):
    """Against transformers' plain forward, one unpadded sequence at a time."""
    total, count = 0.0, 0
    for e in examples:
        ids = torch.tensor([e[0] + e[1]])
        with torch.no_grad(), plain(policy.model) as model:
            logits = model(ids).logits[0].float()
        first = len(e[0])
        total += F.cross_entropy(logits[first - 1 : -1], ids[0, first:], reduction="sum").item()
        count += len(e[1])
    out = sft_step(policy, optimizer(policy), batch, 10_000, 0)
    assert out["tokens"] == count == 21
    assert out["loss"] == pytest.approx(total / count, rel=1e-5)


def test_the_gradient_is_that_of_the_plain_loss(policy, examples, batch, monkeypatch):
    monkeypatch.setattr(Optimizer, "step", lambda self, step, loss: {"grad_norm": 0.0})
    sft_step(policy, optimizer(policy), batch, 10_000, 0)
    ours = {n: p.grad.clone() for n, p in policy.model.named_parameters()}
    policy.model.zero_grad()
    for e in examples:
        ids = torch.tensor([e[0] + e[1]])
        labels = torch.tensor([[-100] * len(e[0]) + e[1]])
        with plain(policy.model) as model:
            logits = model(ids).logits
        (F.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum") / 21).backward()
    for name, p in policy.model.named_parameters():
        assert torch.allclose(ours[name], p.grad, atol=1e-6), name


@pytest.mark.parametrize("tokens", [1, 20, 35])
def test_micro_batches_change_nothing(policy, batch, tokens):
    other = load_policy(ModelConfig("tiny-init"))
    whole = sft_step(policy, optimizer(policy), batch, 10_000, 0)
    cut = sft_step(other, optimizer(other), batch, tokens, 0)
    assert cut["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert cut["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-4)


def test_equal_prompts_are_forwarded_once_and_the_mask_covers_the_completions(examples):
    rollouts = as_rollouts(examples)
    assert len(rollouts.prompts) == 3 and rollouts.prompt_index.tolist() == [0, 0, 1, 2, 0]
    assert rollouts.lengths.tolist() == [c for _, c in LENGTHS]
    assert rollouts.token_lists() == [completion for _, completion in examples]


def test_an_example_is_prompt_and_response_and_one_end_token(policy, config):
    problems = load_problems(DataConfig(count=3))
    responses = [(p, response_text(p, config.coldstart)) for p in problems]
    examples = make_examples(config, policy, responses)
    for (problem, response), (prompt, completion) in zip(responses, examples, strict=True):
        assert prompt == build_prompt(problem, policy.tokenizer, config.prompt).ids
        assert completion[-1] == policy.tokenizer.eos_token_id
        assert policy.tokenizer.decode(completion[:-1]) == response


def test_the_prompt_is_learned_from_only_where_it_is_asked_for(policy, config):
    pair = (Problem("p/0", "3 + 1?", "4"), "<think>\n3 + 1\n</think>\n<answer>4</answer>")
    ((prompt, completion),) = make_examples(config, policy, [pair])
    too = replace(config, sft=replace(config.sft, on_prompts=True))
    ((first, rest),) = make_examples(too, policy, [pair])
    assert first == prompt[:1] and rest == prompt[1:] + completion and len(prompt) > 1


def test_what_the_prompt_opened_is_not_taught_again(policy, config, monkeypatch):
    monkeypatch.setattr(sft, "build_prompt", lambda *_: Prompt([3], "q\n<think>\n", None, "<think>\n"))
    problem = Problem("p/0", "?", "4")
    ((_, completion),) = make_examples(config, policy, [(problem, "<think>\n3 + 1\n</think>\n<answer>4</answer>")])
    assert policy.tokenizer.decode(completion[:-1]) == "3 + 1\n</think>\n<answer>4</answer>"


def test_examples_longer_than_the_context_are_left_out_and_counted(policy, config, capsys):
    short, long = Problem("p/0", "Ana has 3 apples.", "3"), Problem("p/1", "Ana has 3 apples. " * 60, "3")
    response = "<think>3</think><answer>3</answer>"
    assert len(make_examples(config, policy, [(short, response), (long, response)])) == 1
    assert "1 of 2 examples are longer than 256 tokens: left out" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no training example is left"):
        make_examples(config, policy, [(long, response)])


def test_an_end_token_of_the_model_serves_where_the_tokenizer_has_none(policy, config):
    pair = (Problem("p/0", "Ana has 3 apples.", "3"), "<think>3</think><answer>3</answer>")
    policy.eos_ids = [0, 1]
    assert make_examples(config, policy, [pair])[0][1][-1] == policy.tokenizer.eos_token_id == 1
    policy.tokenizer.eos_token, policy.eos_ids = None, [4, 9]
    assert make_examples(config, policy, [pair])[0][1][-1] == 4


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"sft__steps": 0, "sft__epochs": 2}, 4), ({"sft__steps": 0, "sft__epochs": 0.5}, 1), ({"sft__steps": 3}, 3)],
)
def test_steps_follow_from_epochs_unless_they_are_given(tmp_path, settings, steps):
    assert run_stage("sft", tmp_path / "run", sft__batch_size=3, data__count=5, **settings) == 0
    assert len(metrics(tmp_path / "run")) == steps


def test_an_epoch_trains_on_each_example_once(tmp_path, monkeypatch):
    """5 examples in batches of 3 are 3 and 2, in every epoch."""
    batches, real = [], sft.as_rollouts
    monkeypatch.setattr(sft, "as_rollouts", lambda batch: batches.append(batch) or real(batch))
    assert run_stage("sft", tmp_path / "run", sft__batch_size=3, sft__steps=0, sft__epochs=2, data__count=5) == 0
    assert [len(batch) for batch in batches] == [3, 2, 3, 2]
    for epoch in (batches[:2], batches[2:]):
        assert len({str(example) for batch in epoch for example in batch}) == 5


def test_training_lowers_the_loss(tmp_path):
    assert run_stage("sft", tmp_path / "run", sft__steps=15, sft__batch_size=6, optim__lr=3e-3) == 0
    losses = [row["loss"] for row in metrics(tmp_path / "run")]
    assert losses[-1] < 0.8 * losses[0]


def test_data_without_worked_solutions_is_one_line(tmp_path, capsys):
    (tmp_path / "d.jsonl").write_text('{"question": "3 + 4?", "answer": "7"}\n')
    assert run_stage("sft", tmp_path / "run", f"data.source={tmp_path / 'd.jsonl'}", data__count=0) == 2
    assert "solution" in one_line(capsys)


def test_a_response_is_taught_to_end_as_the_chat_template_ends_a_turn(policy, config):
    """Gemma's template ends a turn with `<end_of_turn>`, which is not its tokenizer's end of sequence."""
    pair = (Problem("p/0", "Ana has 3 apples.", "3"), "<think>3</think><answer>3</answer>")
    policy.eos_ids = [1, 2]  # <eos> and <unk>
    template = "{% for m in messages %}{{ m['content'] }}END{% endfor %}"
    chat = replace(config, prompt=replace(config.prompt, style="auto"))
    for end, chosen, expected in (("<unk>", chat, 2), ("<unk>", config, 1), ("<pad>", chat, 1), ("", chat, 1)):
        policy.tokenizer.chat_template = template.replace("END", end)
        assert make_examples(chosen, policy, [pair])[0][1][-1] == expected
