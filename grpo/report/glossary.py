"""What every figure means, one line each: shown in the report, repeated in docs/glossary.md, complete by a test.

Shares lie in [0, 1], log-probs are in nats, lengths in tokens. The trainer's figures describe one step.
"""

from __future__ import annotations

GROUPS: dict[str, dict[str, str]] = {
    "Reward": {
        "reward": "Mean total reward r = sum_k w_k r_k of all that was sampled in the step, dropped groups included.",
        "spread": "Standard deviation of the total reward in a group, averaged over groups: what GRPO learns from.",
        "reward_<name>": "Mean of that reward function, before its weight, over the completions that it applies to.",
        "reward_max_<name>": "The highest value that it gave in the step.",
        "spread_share_<name>": "Its share of the total's variance inside the groups learned from; they add up to 1.",
        "killed": "Completions whose scoring was killed for its time or memory; no reward applies to them.",
        "zero_spread": "Share of sampled groups whose completions all earned the same total, so that A = 0.",
        "shaping_only": "Share of groups learned from whose accuracy is flat: other rewards alone decide there.",
        "refills": "How many times the step sampled again to replace dropped groups.",
        "groups": "Groups left to learn from; fewer than prompts_per_step if the refills ran out.",
        "dropped": "Groups sampled and not learned from: all earned the same, in total or in what drop_by names.",
    },
    "Behaviour": {
        "reflections": 'Distinct sentences per completion that reflect while thinking ("wait", "let me check", ...).',
        "length": "Mean tokens per completion, the end-of-sequence token included.",
        "length_max": "Tokens of the longest completion of the step.",
        "truncated": "Share of completions cut off at max_new_tokens; where it is high, rewards measure that limit.",
        "truncated_looping": "Of those, the share that ends in the same tokens three times over.",
        "truncated_answered": "Of those, the share that had already given its answer.",
        "truncated_gain": "What those earn more than the others in total reward; above 0, length is paid for.",
        "distinct_texts": "Distinct texts per completion of the step.",
        "most_frequent": "The share of the step's problems for which the most widespread text was written.",
        "entropy": "Mean entropy of the policy at each sampled token; near 0 it no longer explores.",
    },
    "Optimisation": {
        "loss": "SFT: cross-entropy per completion token. GRPO: the policy loss; GRPO's own is 0 while ratio = 1.",
        "kl": "KL(policy || reference) per token, k3 estimate: how far the policy has moved since the stage began.",
        "clip_fraction_low": "Share of tokens with A < 0 below the clip range: a clip leaves them no gradient.",
        "clip_fraction_high": "Share of tokens with A > 0 above the clip range: a clip leaves them no gradient.",
        "clip_fraction_delta": "Share of tokens with A < 0 above loss.delta, where that is set: no gradient either.",
        "weight": "Mean of loss.weight over tokens, where that is set; of a mask, the share of tokens that it keeps.",
        "ratio": "Mean importance ratio pi / pi_old of a token; exactly 1 where a batch gets one update.",
        "ratio_max": "Largest importance ratio of the batch.",
        "grad_norm": "L2 norm of the gradient before clipping; spikes announce trouble.",
        "updates": "Optimiser steps of the step: mini-batches times passes, fewer where groups are missing.",
        "skipped": "Optimiser steps skipped because the loss or gradient was NaN or infinite; they moved nothing.",
        "lr": "Learning rate of the step, after warm-up and schedule.",
        "sampler_gap": "Mean |trainer's - sampler's logp| per token before the update. It is rounding, since matmuls "
        "of other shapes round otherwise: below 1e-4 in float32, a few hundredths in bfloat16. The ratio is not "
        "affected: both of its log-probs are the trainer's.",
    },
    "Speed": {
        "tokens_per_second": "Completion tokens per second of the whole step (GRPO: sampled; SFT: trained on).",
        "seconds": "Wall-clock time of the step.",
        "sampling_seconds": "The part of it spent on sampling and scoring.",
        "sampled_tokens": "Completion tokens sampled in the step, dropped groups included.",
        "tokens": "SFT: completion tokens in the batch.",
    },
}

METRICS: dict[str, str] = {name: text for group in GROUPS.values() for name, text in group.items()}

EVALUATION: tuple[tuple[str, str, str, int, str], ...] = (  # label, part, figure, digits, what it means
    ("accuracy, sampled", "sampled", "accuracy", 3, "Share of right completions, several for each held-out problem."),
    ("  standard error", "sampled", "se", 3, "Its standard error; problems count, not completions."),
    ("  95 % interval", "sampled", "ci95", 3, "Where it would lie for other problems of this kind; problems count."),
    ("  *", "sampled", "levels", 3, "The same on the problems of one level of difficulty, where the data have levels."),
    ("accuracy, greedy", "greedy", "accuracy", 3, "Share of right completions, the most likely token taken each time."),
    ("  95 % interval", "greedy", "ci95", 3, "Where it would lie for other problems of this kind; problems count."),
    ("compared with", "paired", "against", 0, "What the differences are to: its parent, or eval.against."),
    ("difference, sampled", "paired", "sampled", 3, "In sampled accuracy: problems in pairs, same random numbers."),
    ("  95 % interval", "paired", "sampled_ci95", 3, "Of the difference, over problems; 0 inside: none is shown."),
    ("difference, greedy", "paired", "greedy", 3, "In greedy accuracy, problem by problem."),
    ("  95 % interval", "paired", "greedy_ci95", 3, "Of the difference, over problems; 0 inside: none is shown."),
    ("  problems in pairs", "paired", "problems", 0, "How many problems both were evaluated on."),
    ("pass@k", "sampled", "pass_at", 3, "Share of problems that at least one of k samples solves (unbiased estimate)."),
    ("maj@k", "sampled", "maj", 3, "Share of problems whose most frequent answer among k samples is right."),
    ("format rate", "sampled", "format", 3, "Share in the format <think>...</think><answer>...</answer>."),
    ("reflection rate", "sampled", "reflection_rate", 3, "Share of sampled completions that reflect at least once."),
    ("reflections per completion", "sampled", "reflections", 2, "Reflections per sampled completion."),
    ("accuracy when reflecting", "sampled", "accuracy_reflecting", 3, "Accuracy of the completions that reflect."),
    ("accuracy otherwise", "sampled", "accuracy_others", 3, "Accuracy of the sampled completions that do not."),
    ("length in tokens", "sampled", "length", 1, "Mean tokens per completion, the end-of-sequence token included."),
    ("truncated", "sampled", "truncated", 3, "Share of sampled completions cut off at max_new_tokens."),
    ("reward *", "sampled", "rewards", 3, "Mean of that reward, before its weight, over those that it applies to."),
)

REJECTION: dict[str, str] = {
    "sampled": "Completions sampled, k per problem.",
    "wrong": "Left out: the answer is wrong or missing.",
    "malformed": "Left out: right, but not in the format.",
    "without reflection": "Left out where only reflective completions are wanted.",
    "duplicate": "Left out: the same text was kept before.",
    "over the cap": "Left out: the problem already has its share of completions.",
    "kept": "Fine-tuned on.",
}


UNITS = {
    "nats": ("entropy", "kl", "sampler_gap"),
    "tokens": ("length", "length_max", "sampled_tokens", "tokens"),
    "s": ("seconds", "sampling_seconds"),
    "tokens/s": ("tokens_per_second",),
    "share": ("truncated", "truncated_looping", "truncated_answered", "distinct_texts", "most_frequent", "zero_spread",
              "shaping_only", "clip_fraction_low", "clip_fraction_high", "clip_fraction_delta"),
}  # fmt: skip
FAMILIES = ("reward_max_<name>", "spread_share_<name>", "reward_<name>")  # the longer beginnings first


def family(metric: str) -> str:
    """The name under which the glossary explains a metric; "" if it does not."""
    if metric in METRICS:
        return metric
    return next((name for name in FAMILIES if metric.startswith(name.removesuffix("<name>"))), "")


def unit_of(metric: str) -> str:
    """Its unit; "" for a number without one."""
    return next((unit for unit, names in UNITS.items() if metric in names), "share" if "_share_" in metric else "")


def explain(metric: str) -> str:
    """The explanation of a logged metric; "" for one that the glossary does not know."""
    return METRICS.get(family(metric), "")


def in_order(metrics: list[str]) -> dict[str, list[str]]:
    """Logged metrics below their group's title, in the glossary's order; unknown ones come last, as "Other"."""
    grouped: dict[str, list[str]] = {}
    for title, group in GROUPS.items():
        for name in group:
            grouped.setdefault(title, []).extend(m for m in metrics if family(m) == name)
    grouped["Other"] = [m for m in metrics if not family(m)]
    return {title: names for title, names in grouped.items() if names}
