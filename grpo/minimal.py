"""GRPO on one page: the whole algorithm, and nothing else (arXiv:2402.03300, algorithm 1, with one reference).

For each problem, the policy pi samples a group of G completions o_1 ... o_G. Token t of completion i is o_it. With

    logp_it = log pi(o_it | prompt, o_i1 ... o_i,t-1)     old_logp_it: of the policy that sampled
                                                          ref_logp_it: of the reference, the policy before training
GRPO computes

    r_i      = sum_k w_k r_ik                             reward: right answer? well formed? checked its own steps?
    A_i      = (r_i - mean(r)) / (std(r) + 1e-4)          advantage: how much better than the rest of its group
    ratio_it = exp(logp_it - old_logp_it)                 how far pi has moved since it sampled
    kl_it    = exp(ref_logp_it - logp_it) - (ref_logp_it - logp_it) - 1
    loss     = - mean_i mean_t ( min(ratio_it A_i, clip(ratio_it, 1 - eps, 1 + eps) A_i) - beta kl_it )

where mean_i runs over all completions of a step, and std divides by G - 1. The optimiser takes mu steps down the
gradient of the loss, and new completions are sampled. There is no value network: the mean of the group stands for it.

Run it:  python -m grpo.minimal [SEED]          (or `make minimal`; a minute on one core, nothing to download)

What it learns: the embedded model was trained on stories of one to five steps, with many careless solutions. Here it
gets stories of one to three. At first it answers 46 % of them correctly: it forgets carries and leaves out tags. After
30 steps it answers 94 % correctly, with tags. It then checks most steps ("Wait, 6 + 7 = 13."), at first hardly any.

The trainer (`trainer.py`) computes the same numbers with `grpo.drop_zero_spread=false`: `tests/test_minimal.py`
compares samples, advantages, loss, gradients and weights. It computes a prompt once for its group, and less padding.
"""

from __future__ import annotations

import argparse
import copy

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers import PreTrainedModel as Model
from transformers import PreTrainedTokenizerBase as Tokenizer

from data import DemoConfig, Problem, make_problems
from data.embedded.tiny_model import BASE_FOLDER
from grpo.sampling import uniforms
from rewards import accuracy_reward, format_reward, reflection_reward

# ---- settings -----------------------------------------------------------------------------------------------

MODEL = BASE_FOLDER  # or a folder or hub name of any causal language model whose tokenizer has a padding token
PROBLEMS = DemoConfig(levels=(1, 2, 3))  # embedded stories of one to three steps
STEPS = 30  # each samples, then learns
P = 16  # problems in a step
G = 8  # completions of each problem
MU = 2  # optimiser steps on the same samples; in the first every ratio is 1, so MU = 1 would never clip
WEIGHTS = torch.tensor([1.0, 0.2, 0.2])  # [K]: w_k of accuracy, format, reflection
TEMPERATURE = 1.0
MAX_NEW_TOKENS = 64
EPS = 0.2  # clip distance of the ratio
BETA = 0.01  # weight of the KL
LR = 1e-4
MAX_GRAD_NORM = 1.0
HELD_OUT = 512  # problems in the evaluation before and after

# ---- the loop -----------------------------------------------------------------------------------------------


def train(policy: Model, tokenizer: Tokenizer, seed: int) -> None:
    """Train the policy in place, in fp32. It stays in eval mode: dropout would make it differ from its own samples."""
    reference = copy.deepcopy(policy).requires_grad_(False)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=LR, weight_decay=0.0)
    problems = make_problems("train", STEPS * P, seed, PROBLEMS)

    for step in range(STEPS):
        batch = [p for p in problems[step * P : (step + 1) * P] for _ in range(G)]  # [N], N = P * G
        ids, attention_mask, sampled = sample(policy, tokenizer, batch, seed, step)  # [N, L] each
        rewards = score(tokenizer, batch, ids, sampled)  # [N, K]
        advantages = group_advantages(rewards)  # [N]

        mask = sampled[:, 1:]  # [N, L - 1]: log-probs begin with the second token
        with torch.no_grad():
            old_logps = token_logps(policy, ids, attention_mask)  # [N, L - 1]
            ref_logps = token_logps(reference, ids, attention_mask)  # [N, L - 1]
        for _ in range(MU):
            logps = token_logps(policy, ids, attention_mask)  # [N, L - 1]
            loss = grpo_loss(logps, old_logps, ref_logps, advantages, mask)
            loss.backward()
            clip_grad_norm_(policy.parameters(), MAX_GRAD_NORM)
            optimizer.step()
            optimizer.zero_grad()

        kl = (kl_estimate(old_logps, ref_logps) * mask).sum() / mask.sum()
        length = mask.sum(dim=1).float().mean()
        print(f"step {step + 1:2}  {describe(rewards)}  kl {kl:.3f}  length {length:.1f}", flush=True)


# ---- sample -------------------------------------------------------------------------------------------------


@torch.no_grad()
def sample(
    policy: Model, tokenizer: Tokenizer, batch: list[Problem], seed: int, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample a completion of each problem of the batch; a problem that stands there G times gets a group of G.

    A row holds padding, the prompt, the completion, padding again: L tokens. Returns three tensors [N, L]: ids;
    attention_mask, 1 at prompt and completion; sampled, 1 at the completion, its end-of-sequence token included.
    """
    # One random number for each token, a function of (seed, step, problem, sample, position) alone.
    u = [uniforms(seed, step, problem.id, i % G, MAX_NEW_TOKENS) for i, problem in enumerate(batch)]
    u = torch.from_numpy(np.stack(u))  # [N, T], in [0, 1)
    # Padded on the left, the prompts end in the same column, and all completions begin in the next.
    prompts = tokenizer([prompt(p) for p in batch], padding=True, padding_side="left", return_tensors="pt")
    ids, attention_mask = prompts["input_ids"], prompts["attention_mask"]  # [N, S]
    sampled = torch.zeros_like(ids)  # [N, S]
    alive = torch.ones_like(ids[:, :1])  # [N, 1]: 1 until the row has drawn an end-of-sequence token
    cache = DynamicCache(config=policy.config)  # keys and values of the tokens so far

    for t in range(MAX_NEW_TOKENS):
        logits = forward(policy, ids, attention_mask, cache)[:, -1]  # [N, V]
        # Take the first token at which the cumulative probability exceeds u. No top-k and no top-p: log-probs must be
        # of the distribution that was sampled from. In fp32, the tail of a large vocabulary would be lost.
        cdf = logits.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)  # [N, V]
        token = torch.searchsorted(cdf, u[:, t : t + 1] * cdf[:, -1:], right=True)  # [N, 1]
        ids = torch.cat([ids, torch.where(alive == 1, token, tokenizer.pad_token_id)], dim=1)
        # The end-of-sequence token was sampled, so it is trained. What follows it was not. The mask is made here and
        # never guessed from ids: in many tokenizers the padding is the end-of-sequence token.
        attention_mask, sampled = (torch.cat([x, alive], dim=1) for x in (attention_mask, sampled))
        alive = alive * (token != tokenizer.eos_token_id)
        if not alive.any():
            break
    return ids, attention_mask, sampled


def prompt(problem: Problem) -> str:
    """What the model reads. The embedded model knows no chat; for another, apply its chat template here."""
    return problem.question + "\n"


def forward(policy: Model, ids: Tensor, attention_mask: Tensor, cache: DynamicCache | None = None) -> Tensor:
    """Logits of the next token, over the temperature, at the L' positions that are not in the cache: [N, L', V]."""
    new = slice(cache.get_seq_length() if cache is not None else 0, None)
    positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, new]  # [N, L']: padding is not counted
    options = {"position_ids": positions, "past_key_values": cache, "use_cache": cache is not None}
    return policy(ids[:, new], attention_mask=attention_mask, **options).logits / TEMPERATURE


# ---- score --------------------------------------------------------------------------------------------------


def score(tokenizer: Tokenizer, batch: list[Problem], ids: Tensor, sampled: Tensor) -> Tensor:
    """r_ik, the rewards of each completion: [N, K]."""
    body = (sampled == 1) & (ids != tokenizer.eos_token_id)  # [N, L]
    texts = [tokenizer.decode(row[keep]) for row, keep in zip(ids, body, strict=True)]
    answers, prompts = [problem.answer for problem in batch], [prompt(problem) for problem in batch]
    columns = [
        accuracy_reward(texts, answer=answers),  # 1 if the answer is right
        format_reward(texts),  # 1 if the form is <think>...</think><answer>...</answer>
        reflection_reward(texts, answer=answers, prompts=prompts),  # min(checks, 3) / 3 if the answer is right
    ]
    return torch.tensor(columns).T


def group_advantages(rewards: Tensor) -> Tensor:
    """A_i = (r_i - mean(r)) / (std(r) + 1e-4), [N]: 0 in a group whose completions all earned the same."""
    r = (rewards @ WEIGHTS).view(-1, G)  # [P, G]: r_i = sum_k w_k r_ik
    return ((r - r.mean(dim=1, keepdim=True)) / (r.std(dim=1, keepdim=True) + 1e-4)).flatten()


# ---- learn --------------------------------------------------------------------------------------------------


def token_logps(policy: Model, ids: Tensor, attention_mask: Tensor) -> Tensor:
    """log pi of each token but the first, given those before it: [N, L] -> [N, L - 1], in nats."""
    logps = forward(policy, ids, attention_mask)[:, :-1].log_softmax(dim=-1)  # [N, L - 1, V]
    return logps.gather(-1, ids[:, 1:, None]).squeeze(-1)


def grpo_loss(logps: Tensor, old_logps: Tensor, ref_logps: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """The loss, a scalar. advantages: [N]; the others: [N, L - 1], mask 1 at sampled tokens."""
    A = advantages[:, None]  # [N, 1]: every token of a completion has its advantage
    ratio = (logps - old_logps).exp()  # [N, L - 1]
    # min, for both signs of A: once the ratio has left the clip range in A's direction, going further earns nothing.
    surrogate = torch.minimum(ratio * A, ratio.clamp(1 - EPS, 1 + EPS) * A)  # [N, L - 1]
    objective = (surrogate - BETA * kl_estimate(logps, ref_logps)) * mask  # [N, L - 1]
    return -(objective.sum(dim=1) / mask.sum(dim=1)).mean()


def kl_estimate(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """kl_it: its mean over samples of pi is KL(pi || ref). Never negative, 0 where both agree."""
    return (ref_logps - logps).exp() - (ref_logps - logps) - 1


# ---- run ----------------------------------------------------------------------------------------------------


def evaluate(policy: Model, tokenizer: Tokenizer) -> Tensor:
    """Rewards of one sampled completion of each held-out problem: [HELD_OUT, K]."""
    problems = make_problems("test", HELD_OUT, 0, PROBLEMS)
    ids, _, sampled = sample(policy, tokenizer, problems, seed=0, step=-1)
    return score(tokenizer, problems, ids, sampled)


def describe(rewards: Tensor) -> str:
    """Means over the completions: the total reward and its parts. rewards: [N, K]."""
    reward, (accuracy, form, reflection) = (rewards @ WEIGHTS).mean(), rewards.mean(dim=0)
    return f"reward {reward:.3f}  accuracy {accuracy:.3f}  format {form:.3f}  reflection {reflection:.3f}"


def main(seed: int = 0) -> None:
    torch.set_num_threads(1)  # a model this small gains nothing from a second one
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    policy = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    print(f"before   {describe(evaluate(policy, tokenizer))}")
    train(policy, tokenizer, seed)
    print(f"after    {describe(evaluate(policy, tokenizer))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="GRPO on one page, on the embedded model")
    parser.add_argument("seed", type=int, nargs="?", default=0)
    main(parser.parse_args().seed)
