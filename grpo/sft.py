"""Supervised fine-tuning, stage 2: cross-entropy on the completion's tokens, not on the prompt's.

    loss = - 1 / (tokens of the batch)  sum_it  log pi(o_it | prompt, o_i,<t)

It is the policy's log-probs once more, on given completions in place of sampled ones.

    python -m grpo sft --config experiments/demo/sft.yaml
"""

from __future__ import annotations

import math

import torch
from torch.nn.utils.rnn import pad_sequence

from data import Prompt, build_prompt, fitting, load_problems, response_text, without_prefill
from data.prompts import after_response, prompts_hash
from data.stream import Stream
from grpo.curve import held_out_point
from grpo.distributed import all_reduce
from grpo.evaluation import PROMPTS, check_evaluation
from grpo.logprobs import completion_logps
from grpo.model.batching import my_micro_batches
from grpo.model.optim import Optimizer
from grpo.model.policy import Policy, load_policy
from grpo.runs.config import Config
from grpo.runs.folder import Run, data_hash, fingerprint
from grpo.runs.keeper import Keeper
from grpo.runs.log import say
from grpo.runs.start import say_start
from grpo.types import Problem, Rollouts

Example = tuple[list[int], list[int]]
"""Token ids of a prompt and of its response, the end-of-sequence token included."""


def train_sft(config: Config, run: Run) -> Policy:
    """Stage 2: fine-tune on worked solutions put into the response format."""
    problems = load_problems(config.data, config.seed, teach=True)
    policy = load_policy(config.model, config.seed, training=True, parallel=config.parallel)
    problems = fitting(problems, policy.tokenizer, config.prompt, config.data)
    check_evaluation(config, policy, run)
    responses = [(p, response_text(p, config.coldstart, config.seed)) for p in problems]
    run.note_input("data_hash", data_hash(problems), "training data")
    return fit(config, run, policy, responses)


def fit(config: Config, run: Run, policy: Policy, responses: list[tuple[Problem, str]]) -> Policy:
    """Fine-tune a policy on (problem, response) pairs, from the start or from the run's newest checkpoint."""
    run.note_input("model_hash", fingerprint(policy), "model to start from")
    prompts = [build_prompt(problem, policy.tokenizer, config.prompt) for problem, _ in responses]
    run.note_input("prompt_hash", prompts_hash(prompts), PROMPTS)
    examples = make_examples(config, policy, responses)
    policy.start_training(config.parallel, config.by_layer(run.stage))
    per_epoch = math.ceil(len(examples) / config.sft.batch_size)
    steps = config.sft.steps or math.ceil(config.sft.epochs * per_epoch)
    optimizer = Optimizer(policy.trainable(), config.optim, steps, policy.masters)
    keeper = Keeper.resume(config, run, policy, optimizer, steps)
    position = keeper.state.get("position", 0)
    stream = Stream(examples, config.seed, position, stage=run.stage, shuffle=config.data.shuffle)
    say_start("sft", config, policy, len(examples))
    for step in keeper.steps_left("sft", held_out_point):
        batch = as_rollouts(stream.take_within_pass(config.sft.batch_size))
        metrics = sft_step(policy, optimizer, batch, config.tokens_per_micro_batch, step)
        keeper.after_step(step, metrics, position=stream.position)
    return keeper.finish()


def make_examples(config: Config, policy: Policy, responses: list[tuple[Problem, str]]) -> list[Example]:
    """Tokenize; a pair longer than the model's context or `sft.max_tokens` is left out, and said so."""
    examples: list[Example] = []
    end = end_token(config, policy)
    limit = min(policy.max_positions or math.inf, config.sft.max_tokens or math.inf)
    for problem, response in responses:
        prompt: Prompt = build_prompt(problem, policy.tokenizer, config.prompt)
        body = without_prefill(response, prompt.prefill)
        ids = policy.tokenizer(body, add_special_tokens=False)["input_ids"]
        learned_from = 1 if config.sft.on_prompts else len(prompt.ids)
        ids = [*prompt.ids, *ids, end]
        examples.append((ids[:learned_from], ids[learned_from:]))
    policy.check_tokens(prompt + completion for prompt, completion in examples)
    short = [(prompt, completion) for prompt, completion in examples if len(prompt) + len(completion) <= limit]
    if len(short) < len(examples):
        say(f"{len(examples) - len(short)} of {len(examples)} examples are longer than {limit} tokens: left out")
    if not short:
        raise ValueError("no training example is left; look at the data and the model's context length")
    return short


def end_token(config: Config, policy: Policy) -> int:
    """The token that a response is taught to end with: the chat template's end of the turn (Gemma's `<end_of_turn>`),
    if it ends a completion; else the tokenizer's end of sequence; else the model's first."""
    written = after_response(policy.tokenizer, config.prompt)[:1]
    tokens = [*written, policy.tokenizer.eos_token_id, *policy.eos_ids]
    return next(token for token in tokens if token in policy.eos_ids)


def sft_step(policy: Policy, optimizer: Optimizer, batch: Rollouts, tokens: int, step: int) -> dict[str, float]:
    """One optimiser step on the mean negative log-likelihood of the batch's completion tokens."""
    num_tokens = int(batch.mask.sum())
    total = torch.zeros((), dtype=torch.float64)
    for _, micro in my_micro_batches(batch, tokens, policy.passes.prompts_shared):
        logps, _ = completion_logps(policy, micro, temperature=1.0)  # [B, T], 0 outside the mask
        loss = -logps.sum() / num_tokens
        loss.backward()
        total += loss.item()
    optimizer.reduce_gradients()
    total = all_reduce(total).item()
    return {"loss": total, "tokens": num_tokens, **optimizer.step(step, total)}


def as_rollouts(batch: list[Example]) -> Rollouts:
    """Given completions in the form of sampled ones; equal prompts are forwarded once."""
    index = {prompt: i for i, prompt in enumerate(dict.fromkeys(tuple(prompt) for prompt, _ in batch))}
    lengths = torch.tensor([len(completion) for _, completion in batch])  # [B]
    return Rollouts(
        prompts=[list(prompt) for prompt in index],
        prompt_index=torch.tensor([index[tuple(prompt)] for prompt, _ in batch]),
        completion_ids=pad_sequence([torch.tensor(completion) for _, completion in batch], batch_first=True),  # [B, T]
        mask=torch.arange(int(lengths.max())) < lengths[:, None],
        sampler_logps=torch.zeros(len(batch), int(lengths.max())),
        truncated=torch.zeros(len(batch), dtype=torch.bool),
    )
