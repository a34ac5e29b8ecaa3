"""The first line of a stage: where it runs, which model, and how much there is to do."""

from __future__ import annotations

from grpo.model.policy import Policy
from grpo.runs.config import Config
from grpo.runs.log import say


def say_start(stage: str, config: Config, policy: Policy, count: int) -> None:
    """Say it. count: of problems, or of the examples of SFT."""
    tokens, a_step = config.sampling.max_new_tokens, config.grpo
    work = {
        "sft": f"{count} examples, {config.sft.batch_size} a step",
        "grpo": f"{count} problems, {a_step.prompts_per_step} prompts x {a_step.group_size} completions x {tokens} "
        "tokens a step",
        "eval": f"{count} problems x ({config.eval.samples} sampled + 1 greedy) completions x {tokens} tokens",
        "reject": f"{count} problems x {config.reject.samples} completions x {tokens} tokens",
    }
    say(f"{stage}: {policy.describe()}; {work[stage]}")
    if stage != "sft" and policy.by_layer:
        say("NOTE: each token gathers all layers, one by one; fsdp_gather=model gathers them once, and is faster where "
            "a process has memory for them")  # fmt: skip
    if policy.passes.note:
        say(f"NOTE: {policy.passes.note}")
