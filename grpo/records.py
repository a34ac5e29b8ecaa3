"""What a step leaves on the disk: every completion that was sampled, and of a few groups each token.

    completions.jsonl    a line per completion: text, rewards, total, advantage, and why it was not learned from
      tokens             of the chosen groups, two a step: the log-prob of each token before and after the step

The chosen groups are the one whose total reward has the largest spread, where the step learned most, and one drawn at
random among the others that were learned from. Their log-probs after the step take a forward pass without gradient over
these two groups alone. Where a step has fewer than TOKENS_EVERY groups to spread its cost over, that pass is made in
some steps only, so that it never costs more than a sixteenth of the step's own forward passes on average.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from grpo.advantages import total_reward, unscored
from grpo.experience import Batch, ScoredGroups
from grpo.logprobs import logps_without_grad
from grpo.model.policy import Policy
from grpo.runs.config import Config
from grpo.runs.log import RunLog
from grpo.sampling import uniforms
from grpo.scoring import RewardSet

CHOSEN = 2  # groups of a step whose tokens are written
TOKENS_EVERY = 16 * CHOSEN  # groups: each 32 that a step samples pay for the pass over two
LOOP_TOKENS = 48  # the longest period that counts as a loop


def record_step(
    log: RunLog, step: int, batch: Batch, rewards: RewardSet, policy: Policy, config: Config
) -> dict[str, float]:
    """Write the completions of step `step` (from 0), after its update. Returns metrics of what was sampled.

    All processes call it together: the log-probs after the step are computed by all of them.
    """
    tokens = {}
    if batch.per_token and is_token_step(step, config):
        tokens = token_records(batch, chosen_rows(batch, rewards, step, config), policy, config)
    first = 0
    for groups in batch.sampled:  # the kept rows of all groups, one after the other, are the rows of the batch
        places = dict(zip(groups.kept.tolist(), range(first, first + len(groups.kept)), strict=True))
        totals = total_reward(groups.rewards, rewards.weights).tolist()
        for row in range(len(groups.rewards)):
            place = places.get(row)
            facts = completion_record(groups, row, totals, rewards, config, learned=place is not None)
            if batch.per_token and place is not None:
                facts["advantage"] = _short(batch.per_token["advantage"][place].item(), 6)
            log.sample(step + 1, **facts, **({"tokens": tokens[place]} if place in tokens else {}))
        first += len(groups.kept)
    given = torch.cat([groups.rewards for groups in batch.sampled])  # [N, K]
    most = given.nan_to_num(nan=-math.inf).amax(dim=0).tolist()
    return {
        **{f"reward_max_{name}": x for name, x in zip(rewards.functions, most, strict=True)},
        **spread_shares(batch.rewards, rewards, config.grpo.group_size),
        **text_metrics(batch.sampled),
        **truncation_metrics(batch.sampled, rewards),
    }


def completion_record(
    groups: ScoredGroups, row: int, totals: list[float], rewards: RewardSet, config: Config, learned: bool
) -> dict[str, Any]:
    """One completion as a line of completions.jsonl. totals: [N] of its round; learned: its group is learned from."""
    texts, size = groups.completions, config.grpo.group_size
    problem, text, truncated = texts.problems[row], texts.texts[row], bool(groups.rollouts.truncated[row])
    scores = {n: _short(s, 6) for n, s in zip(rewards.functions, groups.rewards[row].tolist(), strict=True)}
    dropped = ""
    if not learned:
        what = " + ".join(config.grpo.drop_by) or "total reward"
        dropped = f"all {size} of the group have the same {what}"
    elif math.isnan(totals[row]):
        dropped = "no reward applies to it"
    elif truncated and config.grpo.mask_truncated:
        dropped = "it was cut off (grpo.mask_truncated)"
    extras = {name: str(values[row]) for name, values in texts.extras.items()}
    return {
        "problem": problem.id,
        "question": problem.question,
        "answer": problem.answer,
        "completion": text,
        "rewards": scores,
        "total": _short(totals[row], 6),
        "kept": not dropped,
        **({"dropped": dropped} if dropped else {}),
        "truncated": truncated,
        "length": len(texts.token_ids[row]),
        "reflections": texts.reflections[row],
        **({"extras": extras} if extras else {}),
    }


# ---- tokens ---------------------------------------------------------------------------------------------------


def is_token_step(step: int, config: Config) -> bool:
    """Whether tokens are written in step `step` (from 0): the first, the last, and as often as their cost allows."""
    every = math.ceil(TOKENS_EVERY / config.grpo.prompts_per_step)
    return step % every == 0 or step == config.grpo.steps - 1


def chosen_rows(batch: Batch, rewards: RewardSet, step: int, config: Config) -> Tensor:
    """The rows of the batch in the chosen groups: the one of the largest spread, and one of the others at random."""
    groups = torch.arange(len(batch.rewards)).view(-1, config.grpo.group_size)  # [P, G]
    totals = total_reward(batch.rewards, rewards.weights)[groups]  # [P, G]
    centred = totals - totals.nanmean(dim=1, keepdim=True)
    best = int(centred.nan_to_num(nan=0.0).square().sum(dim=1).argmax())
    others = [i for i in range(len(groups)) if i != best]
    drawn = others[int(uniforms(config.seed, step, "records", 0, 1)[0] * len(others))] if others else best
    return groups[sorted({best, drawn})].flatten()


def token_records(batch: Batch, rows: Tensor, policy: Policy, config: Config) -> dict[int, dict[str, Any]]:
    """The tokens of these rows of the batch, by row: ids, texts, log-prob before and after the step, and what the
    loss saw of them; the ratio where a batch gets several updates, the weight where loss.weight is set.

    In bfloat16 a log-prob depends on what is computed together, by a few hundredths of a nat.
    """
    rollouts = batch.rollouts.select(rows)
    after, _ = logps_without_grad(policy, rollouts, config.sampling.temperature, config.tokens_per_micro_batch)
    values = {name: x[rows] for name, x in batch.per_token.items() if name != "advantage"}
    if config.grpo.updates_per_batch * config.grpo.mini_batches == 1:
        values.pop("ratio", None)
    before = values.pop("old_logps")
    # one that is not trained on (cut off, or without a reward) was never computed with gradient
    computed = before.any(dim=1, keepdim=True)
    before = torch.where(computed, before[:, : after.shape[1]], rollouts.sampler_logps)
    found = {}
    for i, (row, ids) in enumerate(zip(rows.tolist(), rollouts.token_lists(), strict=True)):
        texts = token_texts(policy.tokenizer, ids)
        series = {"before": before[i], "after": after[i], **{name: x[i] for name, x in values.items()}}
        found[row] = {"ids": ids, "text": texts} | {
            name: [_short(v, 3 if name not in ("before", "after") else 5) for v in x[: len(ids)].tolist()]
            for name, x in series.items()
        }
    return found


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """What each token adds to the text; together they are the text.

    A character of several tokens (a root sign, a Chinese character) belongs to the last of them; the others add "".
    Each token is decoded with the two before it and the difference taken, since a token alone may be half a character
    or lose its leading space.
    """
    texts, start, read = [], 0, 0
    for i in range(1, len(ids) + 1):
        before = tokenizer.decode(ids[start:read], clean_up_tokenization_spaces=False)
        text = tokenizer.decode(ids[start:i], clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd") and i < len(ids) and i - read < 4:  # UTF-8 has at most four bytes a character
            texts.append("")
            continue
        texts.append(text[len(before) :])
        start, read = read, i
    return texts


# ---- metrics --------------------------------------------------------------------------------------------------


def spread_shares(scores: Tensor, rewards: RewardSet, size: int) -> dict[str, float]:
    """Each reward's share of the variance of the total inside the groups that are learned from; they add up to 1.

        share_k = sum_i w_k (r_ik - mean(r_k)) (r_i - mean(r)) / sum_i (r_i - mean(r))^2        means over the group

    Negative where a reward pulls against the total. scores: [N, K]; as in the advantages, a completion without any
    score is left out. NaN where there is no spread.
    """
    weighted = (scores.nan_to_num(nan=0.0) * rewards.weights).masked_fill(unscored(scores)[:, None], torch.nan)
    weighted = weighted.view(-1, size, len(rewards.weights))  # [P, G, K]
    centred = (weighted - weighted.nanmean(dim=1, keepdim=True)).nan_to_num(nan=0.0)
    total = centred.sum(dim=2, keepdim=True)  # [P, G, 1]
    variance = total.square().sum()
    shares = (centred * total).sum(dim=(0, 1)) / torch.where(variance > 1e-12, variance, torch.nan)
    return {f"spread_share_{name}": x for name, x in zip(rewards.functions, shares.tolist(), strict=True)}


def text_metrics(sampled: list[ScoredGroups]) -> dict[str, float]:
    """How many texts of a step are distinct, and in what share of its groups the most widespread one occurs."""
    texts, groups = [], []
    for some in sampled:
        texts += some.completions.texts
        ids = [problem.id for problem in some.completions.problems]
        groups += set(zip(ids, some.completions.texts, strict=True))
    problems = len({id for id, _ in groups})
    most = max(Counter(text for _, text in groups).values())
    return {"distinct_texts": len(set(texts)) / len(texts), "most_frequent": most / problems}


def truncation_metrics(sampled: list[ScoredGroups], rewards: RewardSet) -> dict[str, float]:
    """Why completions were cut off: how many of these repeat themselves, had given their answer, and what they earn
    beyond the others. NaN where none was cut off, or all.
    """
    looping, answered, cut_totals, other_totals = [], [], [], []
    for groups in sampled:
        totals = total_reward(groups.rewards, rewards.weights)
        cut = groups.rollouts.truncated
        cut_totals.append(totals[cut])
        other_totals.append(totals[~cut])
        for row in cut.nonzero().squeeze(1).tolist():
            looping.append(loops(groups.completions.token_ids[row]))
            answered.append("</answer>" in groups.completions.texts[row])
    mean = sum(looping) / len(looping) if looping else math.nan
    return {
        "truncated_looping": mean,
        "truncated_answered": sum(answered) / len(answered) if answered else math.nan,
        "truncated_gain": (torch.cat(cut_totals).nanmean() - torch.cat(other_totals).nanmean()).item(),
    }


def loops(ids: list[int]) -> bool:
    """Whether a completion ends in the same tokens three times over, at least a dozen of them."""
    for period in range(1, min(LOOP_TOKENS, len(ids) // 3) + 1):
        long = max(3 * period, 12)
        if len(ids) >= long and all(ids[-i] == ids[-i - period] for i in range(1, long - period + 1)):
            return True
    return False


def _short(value: float, digits: int) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
