"""What recording costs a step of GRPO: the texts and tokens in completions.jsonl, metrics, signs.

    python -m experiments.recording --config experiments/demo/grpo.yaml --steps 8 model.path=tiny
    python -m experiments.recording --config experiments/gsm8k/grpo.yaml --steps 4 data.source=FILE.jsonl

Each step is made twice in one process, with and without recording, in turns: now the one first and now the other. The
learning rate is next to 0, so both do the same work on the same samples. Times are the process's processor time, which
other programs on the machine disturb less than the clock on the wall; the rewards' workers are not in it. They still
disturb the difference of two steps by several per cent, so the time of the recording's functions is given as well.
Tokens are written in one of 32 / prompts_per_step steps, which should divide `--steps`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from data import load_problems
from data.stream import Stream
from experiments.lab.results import where_from
from experiments.lab.runner import positive
from grpo.experience import Batch, collect
from grpo.model.optim import Optimizer
from grpo.model.policy import load_policy
from grpo.records import record_step
from grpo.runs.config import Config
from grpo.runs.log import RunLog
from grpo.runs.settings import load_config
from grpo.runs.setup import Setup
from grpo.runs.signs import all_signs
from grpo.scoring import load_rewards
from grpo.trainer import update

SMALL_RATE = 1e-12


def stepper(config: Config, folder: Path, steps: int) -> Callable[[int, bool], tuple[float, float]]:
    """A function that makes step `number`, recorded or not.

    It returns the seconds of processor time of the step, and of the recording in it.
    """
    problems = load_problems(config.data, config.seed)
    rewards = load_rewards(config.rewards, config.sandbox)
    policy = load_policy(config.model, config.seed, training=True)
    if config.loss.beta:
        policy.freeze_reference()
    policy.start_training(config.parallel)
    optimizer = Optimizer(policy.trainable(), config.optim, 100, policy.masters)
    log, setup = RunLog(folder, megabytes=config.log.megabytes, steps=steps), Setup.of(asdict(config))
    per_step = config.grpo.prompts_per_step * (1 + config.grpo.max_refills)

    def step(number: int, recorded: bool) -> tuple[float, float]:
        stream = Stream(problems, config.seed, number * per_step, shuffle=config.data.shuffle)
        note, began = Batch.note, time.process_time()
        if not recorded:
            Batch.note = lambda *_: None
        try:
            batch = collect(config, policy, rewards, stream, number)
            metrics = batch.metrics | update(config, policy, optimizer, batch, rewards.weights, number)
        finally:
            Batch.note = note
        trained = time.process_time()
        if recorded:
            log.step(number + 1, metrics | record_step(log, number, batch, rewards, policy, config))
            all_signs(log.rows, setup)
            log.keep_samples(number + 1)
        ended = time.process_time()
        return ended - began, ended - trained

    return step


def main() -> None:
    """Print the seconds of each pair, and what recording adds in all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--steps", type=positive, default=8, help="timed pairs, after one that is not")
    parser.add_argument("settings", nargs="*", metavar="key.sub=value")
    given = parser.parse_args()
    config = load_config(given.config, [*given.settings, f"optim.lr={SMALL_RATE}", "optim.warmup_steps=0"])
    config = replace(config, grpo=replace(config.grpo, steps=10**6))  # the last step is an exception
    torch.set_num_threads(config.threads or 1)
    with tempfile.TemporaryDirectory() as folder:
        step = stepper(config, Path(folder), given.steps)
        step(given.steps, False)  # what is done once
        without = recorded = functions = 0.0
        for number in range(given.steps):
            order = (True, False) if number % 2 else (False, True)
            seconds = {which: step(number, which) for which in order}
            (bare, _), (full, mine) = seconds[False], seconds[True]
            print(f"step {number + 1}: {bare:.2f} s, {full:.2f} s with recording, {mine:.2f} s of it", flush=True)
            without, recorded, functions = without + bare, recorded + full, functions + mine
        size = (Path(folder) / "completions.jsonl").stat().st_size / 1e6
    where = where_from()["processor"]
    print(f"recording takes {functions / without:.1%} of {given.steps} steps, and wrote {size:.1f} MB ({where})")
    print(f"difference in pairs: {recorded / without - 1:+.1%}")


if __name__ == "__main__":
    main()
