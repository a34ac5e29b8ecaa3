"""The group-sampling loop: equal to transformers' greedy decoding, and a function of its seed alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers_models import plain
from transformers import AutoModelForCausalLM, AutoTokenizer

from data import make_problems
from grpo.logprobs import completion_logps
from grpo.model.policy import ModelConfig, Policy, load_policy
from grpo.sampling import SamplingConfig, draw, nucleus, sample_groups, uniforms

KINDS = ["llama", "qwen2", "gpt2", "gpt_neox", "gemma", "mistral-window"]
PROMPTS = [[5, 7, 3], [9, 6], [4, 4, 8, 2, 15, 6, 11], [20, 3], [12, 13, 14, 15, 16]]
IDS = ["demo/train/0", "demo/train/1", "demo/train/2", "demo/train/3", "demo/train/4"]
CONFIG = SamplingConfig(max_new_tokens=12)


def sample(policy, prompts=PROMPTS, ids=IDS, group_size=4, config=CONFIG, seed=0, step=0):
    return sample_groups(policy, prompts, ids, group_size, config, seed, step)


def by_name(rollouts, ids, group_size):
    """{(problem id, sample index): (tokens, log-probs, truncated)}"""
    lists = rollouts.token_lists()
    names = [(name, s) for name in ids for s in range(group_size)]
    return {
        name: (lists[i], rollouts.sampler_logps[i, : len(lists[i])], bool(rollouts.truncated[i]))
        for i, name in enumerate(names)
    }


def same_samples(one, other):
    """Every completion of `other` is the one of the same name in `one`."""
    assert other
    for name, (tokens, logps, truncated) in other.items():
        assert one[name][0] == tokens and one[name][2] == truncated
        torch.testing.assert_close(one[name][1], logps, rtol=1e-4, atol=1e-5)


# ---- greedy == transformers ----------------------------------------------------------------------------------


def transformers_greedy(policy, prompt, limit):
    with plain(policy.model) as model:
        ends = {"eos_token_id": policy.eos_ids, "pad_token_id": policy.eos_ids[0]}
        output = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=limit, **ends)
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_transformers_greedy(kind, make_policy):
    ended = 0
    for seed in range(3):
        policy = make_policy(kind, eos_ids=(1, 2, 7, 8), seed=seed)
        rollouts = sample(policy, group_size=1, config=SamplingConfig(temperature=0, max_new_tokens=15))
        expected = [transformers_greedy(policy, prompt, 15) for prompt in PROMPTS]
        assert rollouts.token_lists() == expected
        ended += sum(len(tokens) < 15 for tokens in expected)
    assert 0 < ended < 15  # some rows left the batch early, some did not


def test_greedy_is_transformers_greedy_on_a_pretrained_model(smollm2_folder):
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    model = AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32).eval()
    policy = Policy(model, tokenizer, [tokenizer.eos_token_id], str(smollm2_folder))
    questions = ["What is 7 + 5?", "Name three colours.", "Say OK."]
    prompts = [
        tokenizer(
            tokenizer.apply_chat_template([{"role": "user", "content": q}], tokenize=False, add_generation_prompt=True),
            add_special_tokens=False,
        )["input_ids"]
        for q in questions
    ]
    config = SamplingConfig(temperature=0, max_new_tokens=16)
    rollouts = sample(policy, prompts, IDS[:3], group_size=1, config=config)
    assert rollouts.token_lists() == [transformers_greedy(policy, prompt, 16) for prompt in prompts]


def test_greedy_takes_the_first_of_the_most_likely():
    token, logp = draw(torch.tensor([[0.0, 3.0, 3.0], [1.0, 0.0, 0.0]]), 0.0, torch.tensor([0.9, 0.9]))
    assert token.tolist() == [1, 0]
    torch.testing.assert_close(logp[1], torch.tensor([1.0, 0.0, 0.0]).log_softmax(dim=0)[0])


# ---- a function of (weights, seed, step, problem, sample index) alone ----------------------------------------


@pytest.fixture(scope="module")
def whole(make_policy):
    policy = make_policy(eos_ids=(1, 2))
    return policy, by_name(sample(policy), IDS, 4)


def test_sampling_twice_gives_the_same(whole):
    policy, expected = whole
    again = by_name(sample(policy), IDS, 4)
    assert {name: tokens for name, (tokens, _, _) in again.items()} == {n: t for n, (t, _, _) in expected.items()}


@pytest.mark.parametrize("rows", [[0], [1], [2], [4, 1], [3, 2, 1], [4, 3, 2, 1, 0]], ids=str)
def test_the_other_prompts_of_a_batch_do_not_matter(rows, whole):
    policy, expected = whole
    ids = [IDS[i] for i in rows]
    same_samples(expected, by_name(sample(policy, [PROMPTS[i] for i in rows], ids), ids, 4))


@pytest.mark.parametrize("max_rows", [1, 4, 8, 11, 1000])
def test_how_many_rows_are_decoded_at_a_time_does_not_matter(max_rows, whole):
    policy, expected = whole
    same_samples(expected, by_name(sample(policy, config=replace(CONFIG, max_rows=max_rows)), IDS, 4))


@pytest.mark.parametrize("group_size", [1, 2, 3])
def test_a_smaller_group_is_the_beginning_of_a_larger_one(group_size, whole):
    policy, expected = whole
    same_samples(expected, by_name(sample(policy, group_size=group_size), IDS, group_size))


def test_a_longer_limit_only_continues(whole):
    policy, expected = whole
    longer = by_name(sample(policy, config=replace(CONFIG, max_new_tokens=20)), IDS, 4)
    for name, (tokens, _, truncated) in expected.items():
        assert longer[name][0][: len(tokens)] == tokens
        assert truncated or longer[name][0] == tokens


def test_when_the_others_finish_does_not_matter(make_policy, whole):
    # without an end-of-sequence token no row ever leaves; up to its own end, each is the same
    never = Policy(whole[0].model, None, [], "never")
    unending = by_name(sample(never), IDS, 4)
    assert all(len(tokens) == 12 and truncated for tokens, _, truncated in unending.values())
    for name, (tokens, logps, _) in whole[1].items():
        assert unending[name][0][: len(tokens)] == tokens
        torch.testing.assert_close(unending[name][1][: len(tokens)], logps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [{"seed": 1}, {"step": 1}, {"ids": [f"other/{i}" for i in IDS]}], ids=str)
def test_seed_step_and_problem_each_matter(change, whole):
    policy, expected = whole
    other = by_name(sample(policy, **change), change.get("ids", IDS), 4)
    differs = [a != b for (a, _, _), (b, _, _) in zip(expected.values(), other.values(), strict=True)]
    assert sum(differs) > len(differs) // 2


def test_samples_of_a_group_differ(whole):
    assert len({tuple(tokens) for (name, _), (tokens, _, _) in whole[1].items() if name == IDS[0]}) > 1


def test_uniforms_are_uniform_and_never_shared():
    names = [(0, 0, "a", 0), (1, 0, "a", 0), (0, 1, "a", 0), (0, 0, "b", 0), (0, 0, "a", 1), (0, 0, "a/0", 0)]
    streams = np.stack([uniforms(*name, 4000) for name in names])
    assert len(np.unique(streams)) == streams.size
    assert streams.min() >= 0 and streams.max() < 1
    assert np.abs(np.histogram(streams, 10, (0, 1))[0] / streams.size - 0.1).max() < 0.01
    assert np.abs(np.corrcoef(streams) - np.eye(len(names))).max() < 0.06
    assert (uniforms(0, 0, "a", 0, 10) == streams[0, :10]).all()


# ---- the distribution ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_draw_has_the_frequencies_of_the_tempered_softmax(temperature):
    # u on a grid of n: the count of each token can miss n p by the two ends of its interval, no more
    logits = torch.tensor([0.3, -1.2, 2.0, 0.0, -8.0, 1.1, 0.9, -0.4])
    n = 20_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    token, logp = draw(logits.expand(n, -1), temperature, u)
    p = (logits / temperature).double().softmax(dim=0)
    counts = token.bincount(minlength=len(p))
    assert (counts - n * p).abs().max() <= 1.01
    assert ((counts - n * p) ** 2 / (n * p)).sum() < 2.0  # chi-square; a random sample would have about 7
    torch.testing.assert_close(logp.double(), p.log()[token], rtol=1e-5, atol=1e-6)
    assert (token.diff() >= 0).all()  # the smallest k whose cumulated probability exceeds u


def test_draw_never_takes_an_impossible_token():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    u = torch.tensor([0.0, 0.25, 0.5, 0.75, 1 - 2**-53], dtype=torch.float64)
    token, _ = draw(logits.expand(5, -1), 1.0, u)
    assert token.tolist() == [1, 1, 3, 3, 3]


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_samples_have_the_frequencies_of_the_model(temperature, make_policy):
    policy, n = make_policy(seed=3), 4000
    config = SamplingConfig(temperature=temperature, max_new_tokens=1, max_rows=n)
    rollouts = sample(policy, [PROMPTS[2]], IDS[:1], group_size=n, config=config)
    counts = rollouts.completion_ids[:, 0].bincount(minlength=23)
    with torch.no_grad(), plain(policy.model) as model:
        logits = model(torch.tensor([PROMPTS[2]])).logits[0, -1]
    expected = n * (logits / temperature).double().softmax(dim=0)
    chi_square = ((counts - expected) ** 2 / expected)[expected > 5].sum()
    assert chi_square < 48.3  # 22 degrees of freedom: exceeded once in a thousand
    at_one = n * logits.double().softmax(dim=0)
    assert ((counts - at_one) ** 2 / at_one)[at_one > 5].sum() > 100  # and the temperature is really in it


# ---- masks, ends and log-probs -------------------------------------------------------------------------------


@pytest.mark.parametrize("eos_ids", [(1,), (1, 2), (2, 5, 9, 14)], ids=str)
def test_the_end_token_is_in_the_mask_and_nothing_after_it(eos_ids, make_policy):
    policy = make_policy(eos_ids=eos_ids, seed=1)
    assert policy.model.config.pad_token_id == eos_ids[0]  # pad is one of them
    rollouts = sample(policy, group_size=8)
    ends = set()
    for row, mask, truncated in zip(rollouts.completion_ids, rollouts.mask, rollouts.truncated, strict=True):
        n = int(mask.sum())
        assert n >= 1 and mask[:n].all() and not mask[n:].any()
        body, last = row[: n - 1].tolist(), int(row[n - 1])
        assert not set(body) & set(eos_ids)
        assert truncated == (last not in eos_ids)
        assert not truncated or n == CONFIG.max_new_tokens
        if not truncated:
            ends.add(last)
    assert ends == set(eos_ids)  # each of them did end one
    assert (rollouts.sampler_logps[~rollouts.mask] == 0).all()
    assert (rollouts.completion_ids[~rollouts.mask] == 0).all()


def test_an_end_token_as_the_last_allowed_token_is_no_truncation(whole):
    policy, expected = whole
    finished = [(name, len(tokens)) for (name, (tokens, _, truncated)) in expected.items() if not truncated]
    for (problem, s), length in finished[:5]:
        i = IDS.index(problem)
        for limit, truncated in ((length, False), (length - 1, True)):
            if limit:
                config = SamplingConfig(max_new_tokens=limit)
                short = sample(policy, [PROMPTS[i]], [problem], config=config)
                assert bool(short.truncated[s]) == truncated


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_the_samplers_log_probs_are_the_trainers(kind, temperature, make_policy):
    policy = make_policy(kind, eos_ids=(1, 2))
    rollouts = sample(policy, config=replace(CONFIG, temperature=temperature))
    logps, _ = completion_logps(policy, rollouts, temperature)
    torch.testing.assert_close(logps.detach(), rollouts.sampler_logps, rtol=0, atol=1e-5)


def test_a_short_prompt_may_be_the_last_that_is_left(make_policy):
    # its keys stay padded to the width of the longer prompt, whose completions have all ended before
    policy, long_ended_first = make_policy(eos_ids=(1, 2, 3)), 0
    for seed in range(8):
        rollouts = sample(policy, [PROMPTS[2], PROMPTS[3]], IDS[:2], group_size=2, seed=seed)
        logps, _ = completion_logps(policy, rollouts, temperature=1.0)
        torch.testing.assert_close(logps.detach(), rollouts.sampler_logps, rtol=0, atol=1e-5)
        long_ended_first += bool(rollouts.lengths[:2].max() < rollouts.lengths[2:].max())
    assert long_ended_first


@pytest.mark.parametrize("dtype, limit", [("float32", 1e-4), ("bfloat16", 0.1)])
def test_the_samplers_log_probs_are_the_trainers_with_thirty_layers(dtype, limit, smollm2_folder):
    """In bfloat16 to a few hundredths of a nat: matmuls of other shapes round otherwise."""
    policy = load_policy(ModelConfig(str(smollm2_folder), dtype=dtype))
    prompts = [[1, 504, 1343, 314, 253], list(range(300, 340))]
    rollouts = sample(policy, prompts, IDS[:2], group_size=2, config=SamplingConfig(max_new_tokens=16))
    with torch.no_grad():
        gap = (completion_logps(policy, rollouts, 1.0)[0] - rollouts.sampler_logps).abs()
    assert gap[rollouts.mask].mean() < limit


def test_rows_of_a_group_are_adjacent_and_in_the_order_of_the_prompts(whole):
    rollouts = sample(whole[0], config=replace(CONFIG, max_rows=8))
    assert rollouts.prompts == PROMPTS
    assert rollouts.prompt_index.tolist() == [i for i in range(5) for _ in range(4)]


def test_one_token_prompts_alone(make_policy):
    # nothing is in the cache before the first step, and rows still leave it
    policy = make_policy(eos_ids=(1, 2, 3))
    expected = by_name(sample(policy, [[9], [5, 6]], IDS[:2], 8), IDS[:2], 8)
    same_samples(expected, by_name(sample(policy, [[9]], IDS[:1], 8), IDS[:1], 8))


def test_a_model_that_has_diverged_is_not_sampled_from(make_policy):
    policy = make_policy(eos_ids=(1,))
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="diverged"):
        sample(policy, [[9]], IDS[:1], 8)


def test_an_empty_prompt_is_refused(whole):
    with pytest.raises(ValueError, match="a prompt holds no token"):
        sample(whole[0], [[2, 3], []], IDS[:2])


# ---- stop strings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [("</think>",), ("Wait,", " = 1"), ("never written",)])
def test_a_completion_ends_once_it_has_written_a_stop_string(stop):
    """And is the beginning of what it would have been; a stop string may take several tokens."""
    policy = load_policy(ModelConfig(path="tiny"))
    prompts = [policy.tokenizer(p.question + "\n")["input_ids"] for p in make_problems("train", 6, seed=1)]
    config, ids = SamplingConfig(max_new_tokens=60), [f"p/{i}" for i in range(6)]
    whole = sample(policy, prompts, ids, 4, config)
    cut = sample(policy, prompts, ids, 4, replace(config, stop=stop))
    stopped = 0
    for row, tokens in enumerate(whole.token_lists()):
        texts = [policy.tokenizer.decode(tokens[:n]) for n in range(1, len(tokens) + 1)]
        ends = next((n for n, text in enumerate(texts, 1) if any(s in text for s in stop)), None)
        assert cut.token_lists()[row] == tokens[:ends]
        assert bool(cut.truncated[row]) == (bool(whole.truncated[row]) and ends is None)
        stopped += ends is not None
    assert (stopped > 12) == (stop != ("never written",))


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match=r"sampling.stop: an empty text"):
        SamplingConfig(stop=("a", ""))


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.7, 0.95, 1.0])
def test_a_nucleus_is_the_smallest_set_of_likely_tokens_with_that_probability(top_p):
    p = torch.tensor([[0.1, 0.4, 0.25, 0.05, 0.2], [0.2, 0.2, 0.2, 0.2, 0.2]], dtype=torch.float64)
    for row, cut in zip(p, nucleus(p, top_p), strict=True):
        kept = cut > 0
        assert torch.equal(cut[kept], row[kept])
        assert cut.sum() > top_p - 1e-9  # enough ...
        assert cut.sum() - cut[kept].min() < top_p  # ... and none too many
        assert not kept.any() or row[~kept].numel() == 0 or row[~kept].max() <= row[kept].min()


def test_top_p_draws_from_the_nucleus_and_log_probs_stay_of_all_tokens():
    logits, n = torch.tensor([0.4, 0.3, 0.2, 0.1]).log(), 20_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    token, logp = draw(logits.expand(n, -1), 1.0, u, top_p=0.6)
    counts = token.bincount(minlength=4) / n
    assert torch.allclose(counts, torch.tensor([4 / 7, 3 / 7, 0.0, 0.0]), atol=0.015)
    assert torch.allclose(logp, logits[token], atol=1e-6)
