"""The model card: README.md in a run's `model/`, so that a model says where it comes from wherever it is copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from grpo.runs.config import Config

STAGES = {
    "sft": "supervised fine-tuning on worked solutions",
    "grpo": "GRPO (group relative policy optimization, arXiv:2402.03300)",
    "reject": "rejection sampling, and supervised fine-tuning on what was kept",
}


def model_card(config: Config, manifest: dict[str, Any], result: dict[str, Any]) -> str:
    """Markdown with the front matter that the Hugging Face hub reads.

    manifest: the run's. result: its eval.json; empty where the stage was not evaluated.
    """
    stage, path = str(manifest.get("stage")), config.model.path
    adapter = bool(config.model.lora.rank)
    front = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["lora"] * adapter + [stage, "math"],
    }
    # a hub id has one slash; a folder of that form is there
    if path.count("/") == 1 and not Path(path).exists() and not path.endswith(".gguf"):
        front["base_model"] = path
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
    sections = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {Path(config.run).name}",
        f"{'A LoRA adapter' if adapter else 'A model'} trained by {STAGES.get(stage, stage)} with grpo-reference.",
        _list(
            {
                "Parent": f"`{path}`" + (f" (revision `{config.model.revision}`)" if config.model.revision else ""),
                "Training data": _data(config.data),
                "Seed": str(config.seed),
                "Versions": versions,
                "Code": f"commit `{manifest['git_commit']}`" if manifest.get("git_commit") else "",
            }
        ),
        "## Prompt",
        _prompt(config),
        *(["## Rewards", _rewards(config)] if stage == "grpo" else []),
        *(["## Settings", f"```yaml\n{yaml.safe_dump(_training(config, stage), sort_keys=False)}```"]),
        "## Evaluation",
        _evaluation(result) if result else "This model was not evaluated when its training ended.",
    ]
    return "\n\n".join(sections) + "\n"


def _list(facts: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {fact}" for name, fact in facts.items() if fact)


def _data(data: Any) -> str:
    """Where problems come from, and how many at most."""
    return f"`{data.label}`" + (f", {data.count} problems from number {data.start}" if data.count else "")


def _prompt(config: Config) -> str:
    prompt = config.prompt
    form = "The tokenizer's chat template." if prompt.style == "chat" else "Plain text, without a chat template."
    parts = {"System": prompt.system, "Question": prompt.template}
    return "\n\n".join([form, *(f"{name}:\n\n{_quoted(text)}" for name, text in parts.items() if text)])


def _quoted(text: str) -> str:
    """A text as a code block, whatever backticks it holds."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text.rstrip()}\n{fence}"


def _rewards(config: Config) -> str:
    rows = [
        f"| `{name}` | `{reward.function or name}` | {reward.weight:g} | {f'`{reward.args}`' if reward.args else ''} |"
        for name, reward in config.rewards.items()
    ]
    return "\n".join(["| reward | function | weight | arguments |", "|---|---|---|---|", *rows])


def _training(config: Config, stage: str) -> dict[str, Any]:
    """What shapes the training most; the run folder's config.yaml has all settings."""
    optim = {"lr": config.optim.lr, "schedule": config.optim.schedule, "warmup_steps": config.optim.warmup_steps}
    lora = (
        {"lora": {"rank": config.model.lora.rank, "alpha": config.model.lora.alpha}} if config.model.lora.rank else {}
    )
    if stage != "grpo":
        return {**lora, "optim": optim, "sft": {"epochs": config.sft.epochs, "steps": config.sft.steps,
                                                "batch_size": config.sft.batch_size}}  # fmt: skip
    loop, loss = config.grpo, config.loss
    return {
        **lora,
        "optim": optim,
        "grpo": {"steps": loop.steps, "prompts_per_step": loop.prompts_per_step, "group_size": loop.group_size,
                 "mini_batches": loop.mini_batches, "updates_per_batch": loop.updates_per_batch},
        "loss": {"advantage": loss.advantage, "ratio": loss.ratio, "surrogate": loss.surrogate, "beta": loss.beta,
                 "aggregation": loss.aggregation},
        "sampling": {"temperature": config.sampling.temperature, "max_new_tokens": config.sampling.max_new_tokens},
    }  # fmt: skip


def _evaluation(result: dict[str, Any]) -> str:
    """Accuracy with its interval, and the paired difference to the parent where both were evaluated alike."""
    lines = [
        f"{result['problems']} held-out problems of `{result['source']}`, {result['samples']} samples each at "
        f"temperature {result['temperature']:g}, and one greedy.",
        "",
        "| | sampled | greedy |",
        "|---|---|---|",
    ]
    kinds = [result["sampled"], result["greedy"]]
    for name in ("accuracy", "format", "reflections", "length"):
        lines.append(f"| {name} | " + " | ".join(_cell(kind, name) for kind in kinds) + " |")
    if paired := result.get("paired"):
        lines += ["", f"Accuracy less that of `{paired['against']}`, paired by problem:", ""]
        for kind in ("sampled", "greedy"):
            if kind in paired:
                low, high = paired[f"{kind}_ci95"]
                lines.append(f"- {kind}: {paired[kind]:+.3f} (95 % interval {low:+.3f} to {high:+.3f})")
    return "\n".join(lines)


def _cell(kind: dict[str, Any], name: str) -> str:
    value = kind.get(name)
    if value is None:
        return "-"
    interval = f" [{kind['ci95'][0]:.3f}, {kind['ci95'][1]:.3f}]" if name == "accuracy" and kind.get("ci95") else ""
    return f"{value:.3f}{interval}" if name in ("accuracy", "format") else f"{value:.2f}"
