"""GRPO by TRL's GRPOTrainer with a configuration of ours: the same model, problems in the same order, rewards and loss.

    python -m experiments.trl_grpo --config experiments/demo/grpo.yaml run=runs/trl model.path=runs/demo/2-sft \\
        grpo.drop_zero_spread=false grpo.drop_by=[] grpo.max_refills=0

The stage `trl` of an ablation (experiments/ablations/trl.yaml) runs it. TRL drops no groups, so the configuration must
not; `checked` lists what else differs. Training goes to RUN-training/ (metrics.jsonl, curve.jsonl, model), and begins
again if it is stopped. The evaluation in RUN is ours, as of a base model, and so is the held-out curve of `eval.every`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from data import load_problems
from data.stream import Stream
from grpo.experience import make_prompts
from grpo.model.policy import Policy, load_policy
from grpo.results.curve import CURVE, point
from grpo.runs.config import Config
from grpo.runs.files import write_text
from grpo.runs.folder import parent_of
from grpo.runs.settings import ConfigError, load_config
from rewards import get_reward

MICRO = 128  # completions of a micro-batch; 16 to 256 differ by less than a tenth on the demo (AMD EPYC, one thread)
NAMES = {"length": "completions/mean_length", "reward_accuracy": "rewards/accuracy/mean"}  # ours: TRL's


def main(argv: list[str] | None = None) -> int:
    """Train by TRL, then evaluate. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("settings", nargs="*", help="key.sub=value, as of `grpo grpo`; run= and model.path= among them")
    arguments = parser.parse_args(argv)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        config = load_config(arguments.config, arguments.settings)
        checked(config)
        torch.set_num_threads(config.threads or torch.get_num_threads())
        training = Path(f"{Path(config.run)}-training")
        if not (training / "model").is_dir():
            again(training)
            train(config, training)
    except (ValueError, OSError, ImportError) as error:
        print(f"trl_grpo: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    given = [word for word in arguments.settings if not word.startswith("model.path=")]
    words = ["-m", "grpo", "base", "--config", arguments.config, *given, f"model.path={training / 'model'}"]
    return evaluate([sys.executable, *words, "stage=base"])


def evaluate(command: list[str]) -> int:
    """The evaluation takes this process's place, so that a signal reaches it."""
    os.execv(command[0], command)


def again(training: Path) -> None:
    """Remove what a stopped training left. Raises OSError where the folder holds something else."""
    if training.exists() and not (training / "start").is_dir():
        raise OSError(f"{training}: is there, and no training of this command; name another run=")
    shutil.rmtree(training, ignore_errors=True)


def checked(config: Config) -> None:
    """Raises ConfigError for what TRL would do in another way."""
    loss = replace(load_config(None, ["loss.preset=grpo"]).loss, beta=config.loss.beta)
    grpo, optim, model = config.grpo, config.optim, config.model
    for differs, why in (
        (grpo.drop_zero_spread or grpo.drop_by, "TRL drops no groups: set grpo.drop_zero_spread=false grpo.drop_by=[]"),
        (config.loss != loss, "only the preset grpo is compared, with a beta of yours"),
        (grpo.mini_batches != 1 or grpo.updates_per_batch != 1, "only one update a batch is compared"),
        (optim.schedule != "constant", "only a constant learning rate after the warm-up is compared"),
        (optim.weight_decay, "optim.weight_decay: TRL decays vectors too, ours matrices alone"),
        (grpo.mask_truncated, "grpo.mask_truncated: TRL divides by all completions, ours by those trained on"),
        (config.sampling.stop, "sampling.stop is not compared"),
        (model.lora.rank or model.dtype != "float32", "only full-parameter training in float32 is compared"),
        (model.device != "cpu", "only model.device=cpu is compared"),
        (config.prompt.style != "plain", "only prompt.style=plain is compared: TRL would add special tokens twice"),
    ):
        if differs:
            raise ConfigError(why)


def train(config: Config, folder: Path) -> None:
    """Train; leaves metrics.jsonl, curve.jsonl, training.json and, last, model in the folder."""
    import datasets
    import trl

    began = time.perf_counter()
    policy = load_policy(config.model, config.seed)
    problems = load_problems(config.data, config.seed)
    before = parent_of(config.model.path).get("stage", "base")
    stream = Stream(problems, config.seed, stage=f"{before}/grpo", shuffle=config.data.shuffle)  # the order of ours
    asked = []
    for _ in range(config.grpo.steps):
        stream.new_step()
        asked += stream.take(config.grpo.prompts_per_step)
    rows = [
        {"prompt": prompt.text, "answer": problem.answer, "question": problem.question}
        for prompt, problem in zip(make_prompts(config, policy, asked), asked, strict=True)
    ]
    names = list(config.rewards)
    functions = [get_reward(config.rewards[name].function or name, **config.rewards[name].args) for name in names]
    policy.save(start := folder / "start")
    trainer = trl.GRPOTrainer(
        model := AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32),
        functions,
        args=options(config, folder, [config.rewards[name].weight for name in names]),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=policy.tokenizer,
        optimizers=optimizer(config, model),
    )
    trainer.reward_func_names = names
    watch = Watch(config, policy, model, folder)
    trainer.add_callback(watch.callback())
    trainer.train()
    write_text(folder / CURVE, "".join(json.dumps(row) + "\n" for row in watch.points))
    facts = {"seconds": time.perf_counter() - began, "trl": importlib.metadata.version("trl")}
    write_text(folder / "training.json", json.dumps(facts) + "\n")
    model.save_pretrained(folder / "model.partial")
    policy.tokenizer.save_pretrained(folder / "model.partial")
    (folder / "model.partial").rename(folder / "model")


class Watch:
    """What is kept of TRL's run: its metrics, the seconds of each step, and held-out points between steps."""

    def __init__(self, config: Config, policy: Policy, model: PreTrainedModel, folder: Path):
        self.config, self.policy, self.model, self.metrics = config, policy, model, folder / "metrics.jsonl"
        self.points: list[dict[str, Any]] = []
        self.started = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    def held_out(self, step: int) -> None:
        """Evaluate what TRL trains, with our sampler, as a run of ours does."""
        every, size = self.config.eval.every, self.config.grpo.prompts_per_step * self.config.grpo.group_size
        if every and (step % every == 0 or step == self.config.grpo.steps):
            self.policy.model.load_state_dict(self.model.state_dict())
            self.points.append(point(self.config, self.policy, step) | {"completions": step * size})

    def callback(self):
        """TRL's way to be called."""
        from transformers import TrainerCallback

        watch = self

        class Callback(TrainerCallback):
            def on_train_begin(self, *args, **kwargs):
                watch.held_out(0)

            def on_step_begin(self, *args, **kwargs):
                watch.started = time.perf_counter()

            def on_log(self, args, state, control, logs=None, **kwargs):
                if "reward" in (logs or {}):
                    row = {"step": state.global_step, "seconds": time.perf_counter() - watch.started, **logs}
                    row |= {ours: logs[theirs] for ours, theirs in NAMES.items() if theirs in logs}
                    with watch.metrics.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                    watch.held_out(state.global_step)

        return Callback()


def optimizer(config: Config, model: PreTrainedModel) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW and a warm-up as ours: TRL's begins with a learning rate of 0."""
    adamw = torch.optim.AdamW(
        model.parameters(), config.optim.lr, config.optim.betas, config.optim.eps, config.optim.weight_decay
    )
    warmup = max(1, config.optim.warmup_steps)
    return adamw, torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: min(1.0, (step + 1) / warmup))


def options(config: Config, folder: Path, weights: list[float]):
    """The GRPOConfig that says the same as the configuration."""
    import trl

    batch = config.grpo.prompts_per_step * config.grpo.group_size
    micro = max(size for size in range(1, MICRO + 1) if batch % size == 0)
    return trl.GRPOConfig(
        output_dir=str(folder),
        seed=config.seed,
        max_steps=config.grpo.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=batch // micro,
        num_generations=config.grpo.group_size,
        max_completion_length=config.sampling.max_new_tokens,
        temperature=config.sampling.temperature,
        reward_weights=weights,
        loss_type="grpo",
        scale_rewards="group",
        epsilon=config.loss.eps_low,
        beta=config.loss.beta,
        use_bias_correction_kl=config.loss.kl_ratio,
        mask_truncated_completions=config.grpo.mask_truncated,
        shuffle_dataset=False,
        max_grad_norm=config.optim.max_grad_norm,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )


if __name__ == "__main__":
    sys.exit(main())
