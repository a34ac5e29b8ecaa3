"""Log-probs on the shared-prefix path: equal to the plain forward pass, in value and in every gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers_models import plain

from grpo import logprobs
from grpo.logprobs import completion_logps, token_logps
from grpo.model.head import Head

KINDS = ["llama", "qwen2", "mistral", "gpt2", "gpt_neox", "gemma", "mistral-window"]
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def plain_logps(policy, rollouts, temperature):
    """Each whole sequence by itself through the whole model: log-probs and entropies [B, T], 0 in padded slots."""
    logps, entropies = [], []
    width = rollouts.mask.shape[1]
    for row, completion in enumerate(rollouts.token_lists()):
        prompt = rollouts.prompts[int(rollouts.prompt_index[row])]
        with plain(policy.model) as model:
            logits = model(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0]
        logp = (logits[len(prompt) - 1 : -1] / temperature).log_softmax(dim=-1)  # [T_i, V]
        padding = logp.new_zeros(width - len(completion))
        logps.append(torch.cat([logp[range(len(completion)), completion], padding]))
        entropies.append(torch.cat([-(logp.exp() * logp).sum(dim=-1), padding]))
    return torch.stack(logps), torch.stack(entropies)


def gradients(policy, logps):
    """Gradient of a fixed random combination of log-probs by every parameter."""
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(0))
    policy.model.zero_grad()
    (logps * weights).sum().backward()
    return {name: p.grad.clone() for name, p in policy.model.named_parameters()}


def same(policy, rollouts, temperature=1.0):
    """Compare values, entropies and parameter gradients of both paths; return ours."""
    ours, entropy = completion_logps(policy, rollouts, temperature)
    expected, expected_entropy = plain_logps(policy, rollouts, temperature)
    torch.testing.assert_close(ours, expected, **CLOSE)
    torch.testing.assert_close(entropy, expected_entropy.detach(), **CLOSE)
    torch.testing.assert_close(gradients(policy, ours), gradients(policy, expected), rtol=1e-3, atol=1e-4)
    both = completion_logps(policy, rollouts, temperature), plain_logps(policy, rollouts, temperature)
    ours_too, expected_too = (gradients(policy, logps - 0.7 * entropy) for logps, entropy in both)
    torch.testing.assert_close(ours_too, expected_too, rtol=1e-3, atol=1e-4)
    return ours.detach()


# ---- shared prefix == plain forward --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_shared_prefix_is_the_plain_forward(kind, make_policy, make_rollouts):
    # prompts of 1 to 9 tokens; completions of a group of unequal length
    rollouts = make_rollouts([4, 1, 9], [5, 2, 1, 7, 3, 6], group_size=2)
    same(make_policy(kind), rollouts)


@pytest.mark.parametrize("prompts", [[1], [1, 1, 1], [2], [12, 2, 1]], ids=str)
def test_prompts_of_any_length(prompts, make_policy, make_rollouts):
    same(make_policy(), make_rollouts(prompts, [3, 5] * len(prompts), group_size=2))


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_the_temperature_divides_the_logits(temperature, make_policy, make_rollouts):
    same(make_policy(), make_rollouts([4, 2], [5, 2, 1, 7], group_size=2), temperature)


def test_rows_may_stand_in_any_order(make_policy, make_rollouts):
    policy, rollouts = make_policy(), make_rollouts([4, 1, 9], [5, 2, 1, 7, 3, 6], group_size=2)
    order = torch.tensor([3, 0, 5, 1])
    whole = completion_logps(policy, rollouts, 1.0)[0]
    part = completion_logps(policy, rollouts.select(order), 1.0)[0]
    torch.testing.assert_close(part, whole[order][:, : part.shape[1]], **CLOSE)


@pytest.mark.parametrize("kind", ["qwen2", "mistral", "gpt_neox"])
def test_the_prompt_gets_its_gradient(kind, make_policy, make_rollouts):
    # a token that stands in a prompt alone moves the completion's log-probs only through its key and value
    policy, rollouts = make_policy(kind), make_rollouts([6], [4], seed=1)
    prompt = [22, *(t % 20 for t in rollouts.prompts[0])]
    rollouts = replace(rollouts, prompts=[prompt], completion_ids=rollouts.completion_ids % 20)
    logps, _ = completion_logps(policy, rollouts, 1.0)
    gradients(policy, logps)
    assert policy.model.get_input_embeddings().weight.grad[22].abs().max() > 1e-3


# ---- the mask ------------------------------------------------------------------------------------------------


def test_what_stands_in_padded_slots_does_not_matter(make_policy, make_rollouts):
    policy, rollouts = make_policy(), make_rollouts([4, 2], [5, 2, 1, 7], group_size=2)
    garbage = torch.where(rollouts.mask, rollouts.completion_ids, 17)
    logps, entropy = completion_logps(policy, rollouts, 1.0)
    dirty, dirty_entropy = completion_logps(policy, replace(rollouts, completion_ids=garbage), 1.0)
    assert logps.equal(dirty) and entropy.equal(dirty_entropy)
    torch.testing.assert_close(gradients(policy, logps), gradients(policy, dirty), rtol=0, atol=0)
    assert (logps[~rollouts.mask] == 0).all() and (entropy[~rollouts.mask] == 0).all()
    assert (logps[rollouts.mask] < 0).all()


def test_no_gradient_is_kept_where_autograd_is_off(make_policy, make_rollouts):
    policy, rollouts = make_policy(), make_rollouts([4], [3])
    logps, entropy = completion_logps(policy, rollouts, 1.0)
    assert logps.requires_grad and entropy.requires_grad
    with torch.no_grad():
        frozen, frozen_entropy = completion_logps(policy, rollouts, 1.0)
    assert not frozen.requires_grad and not frozen_entropy.requires_grad
    assert frozen_entropy.equal(entropy.detach())
    assert frozen.equal(logps.detach())


# ---- chunks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 5, 24, 1000])
def test_chunked_is_full(rows, make_policy, make_rollouts, monkeypatch):
    policy, rollouts = make_policy("qwen2"), make_rollouts([4, 1, 9], [5, 2, 1, 7, 3, 6], group_size=2)
    full, full_entropy = completion_logps(policy, rollouts, 0.8)
    expected = gradients(policy, full)
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", rows * policy.model.config.vocab_size)
    chunked, entropy = completion_logps(policy, rollouts, 0.8)
    torch.testing.assert_close(chunked, full, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(entropy, full_entropy, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients(policy, chunked), expected, rtol=1e-4, atol=1e-5)
    entropy = completion_logps(policy, rollouts, 0.8)[1]
    [alone] = torch.autograd.grad(entropy.sum(), [policy.head.weight])
    [plain] = torch.autograd.grad(plain_logps(policy, rollouts, 0.8)[1].sum(), [policy.head.weight])
    torch.testing.assert_close(alone, plain, rtol=1e-3, atol=1e-5)  # without one of the log-probs


def watch_head(monkeypatch) -> list[tuple[int, int]]:
    """The calls of the head that follow, each by how many tokens it saw and how many numbers it made of them."""
    calls, logits_of = [], Head.logits

    def logits(head, hidden, *part, **options):
        z = logits_of(head, hidden, *part, **options)
        calls.append((len(hidden), z.numel()))
        return z

    monkeypatch.setattr(Head, "logits", logits)
    return calls


@pytest.mark.parametrize("bonus", [False, True])
@pytest.mark.parametrize("rows", [1, 4])
def test_no_more_logits_than_a_chunk_are_made_at_a_time(rows, bonus, make_policy, monkeypatch):
    """With an entropy bonus the backward pass holds log p beside p, and so makes half as many of each at a time."""
    policy, tokens = make_policy(), 10
    chunk = rows * policy.model.config.vocab_size
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", chunk)
    calls = watch_head(monkeypatch)
    hidden = torch.randn(tokens, 16, requires_grad=True)
    logps, entropy = token_logps(policy, hidden, torch.arange(tokens), 1.0)
    forward, calls[:] = list(calls), []
    (logps if not bonus else logps + entropy).sum().backward()
    for made in (forward, calls):  # all of them forward, a chunk of tokens at a time, and once again backward
        most = chunk // 2 if bonus and made is calls else chunk
        assert len(made) > 1 and max(numbers for _, numbers in made) <= most
        assert sum(numbers for _, numbers in made) == tokens * policy.model.config.vocab_size


def test_the_head_sees_completion_tokens_only(make_policy, make_rollouts, monkeypatch):
    policy = make_policy()
    calls = watch_head(monkeypatch)
    with torch.no_grad():
        completion_logps(policy, make_rollouts([9, 3], [5, 2, 1, 7], group_size=2), 1.0)
    assert sum(seen for seen, _ in calls) == 5 + 2 + 1 + 7


def test_the_log_softmax_is_fp32_even_where_the_model_is_not(make_policy, make_rollouts):
    policy, rollouts = make_policy(), make_rollouts([4], [6])
    hidden = torch.randn(6, 16, dtype=torch.bfloat16)
    targets = rollouts.completion_ids[0]
    ours, entropy = token_logps(policy, hidden, targets, 1.0)
    exact = (hidden.double() @ policy.model.get_output_embeddings().weight.double().T).log_softmax(dim=-1)
    assert ours.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(ours.double(), exact[range(6), targets], rtol=1e-5, atol=1e-5)
