"""What to say of a setting that does not exist: the nearest key, or ours for a name that other trainers use."""

from __future__ import annotations

import dataclasses
import difflib
import sys
import typing
from collections.abc import Iterable
from pathlib import Path

from grpo.runs.config import Config, RewardConfig

REMOVED = {
    "model.cuda_graphs": "no longer exists, and nothing takes its place: leave it out",
    "log.tensorboard": "no longer exists: leave it out; metrics.jsonl has all metrics, `grpo report` draws them",
    "log.completions_per_step": "no longer exists: leave it out; log.megabytes bounds what is written",
}
# names in TRL's configurations, verl's and others', by their last word -> ours; some with the value to write
SYNONYMS = {
    "model_name_or_path": "model.path", "model": "model.path", "model_name": "model.path", "dtype": "model.dtype",
    "torch_dtype": "model.dtype", "bf16": "model.dtype=bfloat16", "model_revision": "model.revision",
    "gradient_checkpointing": "model.recompute=full", "lora_r": "model.lora.rank", "lora_alpha": "model.lora.alpha",
    "lora_target_modules": "model.lora.targets", "use_peft": "model.lora.rank=16", "device": "model.device",
    "dataset_name": "data.source", "dataset": "data.source", "dataset_config": "data.subset",
    "dataset_train_split": "data.split", "dataset_test_split": "eval.data.split", "max_samples": "data.count",
    "max_prompt_length": "data.max_prompt_tokens", "shuffle_dataset": "data.shuffle",
    "system_prompt": "prompt.system", "output_dir": "run", "max_length": "sft.max_tokens",
    "max_seq_length": "sft.max_tokens", "max_completion_length": "sampling.max_new_tokens",
    "max_tokens": "sampling.max_new_tokens", "max_response_length": "sampling.max_new_tokens",
    "stop_strings": "sampling.stop", "temperature": "sampling.temperature", "top_p": "eval.top_p",
    "reward_funcs": "rewards", "reward_weights": "rewards.NAME.weight", "learning_rate": "optim.lr", "lr": "optim.lr",
    "lr_scheduler_type": "optim.schedule", "warmup_ratio": "optim.warmup_steps", "adam_epsilon": "optim.eps",
    "adam_beta1": "optim.betas", "adam_beta2": "optim.betas", "gradient_clipping": "optim.max_grad_norm",
    "max_steps": "grpo.steps", "num_train_epochs": "sft.epochs", "num_epochs": "sft.epochs",
    "num_generations": "grpo.group_size", "n_samples": "grpo.group_size", "rollout_n": "grpo.group_size",
    "per_device_train_batch_size": "grpo.prompts_per_step", "train_batch_size": "grpo.prompts_per_step",
    "batch_size": "grpo.prompts_per_step", "gradient_accumulation_steps": "tokens_per_micro_batch",
    "num_iterations": "grpo.updates_per_batch", "ppo_epochs": "grpo.updates_per_batch", "mu": "grpo.updates_per_batch",
    "steps_per_generation": "grpo.mini_batches", "ppo_mini_batch_size": "grpo.mini_batches",
    "mask_truncated_completions": "grpo.mask_truncated", "dynamic_sampling": "grpo.drop_zero_spread",
    "loss_type": "loss.preset", "scale_rewards": "loss.advantage", "importance_sampling_level": "loss.ratio",
    "epsilon": "loss.eps_low", "clip_ratio": "loss.eps_low", "clip_eps": "loss.eps_low",
    "epsilon_low": "loss.eps_low", "clip_ratio_low": "loss.eps_low", "epsilon_high": "loss.eps_high",
    "clip_ratio_high": "loss.eps_high", "kl_coef": "loss.beta", "kl_beta": "loss.beta",
    "entropy_coef": "loss.entropy_bonus", "entropy_coeff": "loss.entropy_bonus", "save_steps": "log.save_every",
    "save_total_limit": "log.keep_checkpoints", "log_completions": "log.megabytes", "n_gpus": "parallel",
}  # fmt: skip
# losses whose name resembles a preset's and means another thing: the nearest name would be a trap
OTHER_LOSSES = {
    "dpo": "learns from pairs of preferences, which is another trainer",
    "ipo": "learns from pairs of preferences, which is another trainer",
    "kto": "learns from labelled texts without groups, which is another trainer",
    "orpo": "learns from pairs of preferences, which is another trainer",
    "ppo": "needs a value network; the preset grpo has PPO's clip, with the mean of the group in its place",
    "gdpo": "is an advantage: write loss.advantage=gdpo",
    "tis": "is a weight: write loss.weight=[tis]",
    "mis": "is a weight: write loss.weight=[mis]",
    "opsm": "is a weight: write loss.weight=[opsm]",
    "clip": "is a surrogate: write loss.surrogate=clip",
}


def known_keys(cls: type = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the configuration."""
    keys = ["loss.preset"] if cls is Config else []
    for name, hint in typing.get_type_hints(cls).items():
        keys += known_keys(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else [prefix + name]
    return keys


def ours(name: str) -> str:
    """Our key for a name that may be another trainer's, a key of ours without its group, or a typo; empty if none."""
    keys, plain = known_keys(), name.replace("-", "_")
    last = plain.rpartition(".")[2]
    if plain in keys:
        return plain
    if plain in SYNONYMS:
        return SYNONYMS[plain]
    near = difflib.get_close_matches(plain, keys, n=1, cutoff=0.75)
    near += [SYNONYMS[last]] if last in SYNONYMS else []
    near += [key for key in keys if key.rpartition(".")[2] == last]
    near += [SYNONYMS[found] for found in difflib.get_close_matches(last, SYNONYMS, n=1, cutoff=0.85)]
    return near[0] if near else ""


def unknown(key: tuple[str, ...]) -> str:
    """What to say of a key that does not exist."""
    name = ".".join(key)
    keys = known_keys()
    for end in range(1, len(key)):
        if (above := ".".join(key[:end])) in keys and above != "rewards":
            text = f"{above}='\"{{{key[-1]}}}\"'"
            quotes = f"; a text with braces needs quotes: {text} in a shell"
            return f"{above} is one value, with no settings below it such as {name!r}" + quotes * (end + 1 == len(key))
    if key[0] == "rewards":
        keys = known_keys(RewardConfig, ".".join(key[:2]) + ".")
        near = difflib.get_close_matches(name, keys, n=1, cutoff=0.75)
        hint = f"did you mean {near[0]!r}?" if near else f"a reward has {', '.join(known_keys(RewardConfig))}"
    elif found := ours(name):
        hint = f"did you mean {found!r}?"
    else:
        hint = f"see `{program()} config` for all keys"
    return f"unknown key {name!r}; {hint}"


def no_preset(value: object, presets: Iterable[str]) -> str:
    """What to say of a preset that does not exist."""
    name = str(value).lower()
    if name in OTHER_LOSSES:
        return f"has no {value!r}: it {OTHER_LOSSES[name]}"
    return f"has no {value!r}{did_you_mean(value, presets)}; choose one of {', '.join(presets)}"


def no_setting(text: str) -> str:
    """What to say of a word on the command line that is not `key=value`: a file, or an option of another program."""
    if text.endswith((".yaml", ".yml")):
        return f"{text!r} is a file: write --config {text}"
    return f"{text!r} is not of the form key.sub=value"


def option(words: list[str], at: int) -> str:
    """What to say of `--name value` or `--name=value`: the setting to write in its place."""
    flag, equals, value = words[at].partition("=")
    following = words[at + 1 : at + 2]
    if not equals and following and not following[0].startswith("-") and "=" not in following[0]:
        value = following[0]
    if near := difflib.get_close_matches(flag, ["--config", "--help", "--version"], n=1, cutoff=0.75):
        return f"no option {flag}; did you mean {near[0]}?"
    if not (key := ours(flag.lstrip("-"))):
        return f"no option {flag}; settings are written key.sub=value; see `{program()} config` for all keys"
    setting = key if "=" in key else f"{key}={value or 'VALUE'}"
    return f"no option {flag}; write {setting}"


def program() -> str:
    """How a shell in this folder calls this program: `grpo`, if it was called so, else by this Python."""
    if Path(sys.argv[0]).name == "grpo":
        return "grpo"
    python, here = Path(sys.executable), Path.cwd()
    return f"{python.relative_to(here) if python.is_relative_to(here) else 'python'} -m grpo"


def did_you_mean(value: object, choices: Iterable[str]) -> str:
    """The nearest choice, as the end of an error; empty if none is near."""
    near = difflib.get_close_matches(str(value), list(choices), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
