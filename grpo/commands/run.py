"""What each command does with its configuration; `cli.py` reads the command line and says what is wrong with it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from data import load_problems
from grpo.commands import why
from grpo.commands.bench import bench
from grpo.commands.bench import table as bench_table
from grpo.distributed import from_first, process_group, rank
from grpo.evaluation import evaluate, judge, note_held_out
from grpo.model.policy import Policy, load_policy
from grpo.rejection import train_rejection
from grpo.report.live import LiveReport, write_evaluation
from grpo.report.tables import evaluation_table
from grpo.results.compare import evaluate_models, with_parent
from grpo.runs.config import Config
from grpo.runs.evaluations import read_evaluation
from grpo.runs.files import read_mapping, write_json
from grpo.runs.folder import Run, open_run
from grpo.runs.journal import Judged
from grpo.runs.log import RunLog, say
from grpo.sft import train_sft
from grpo.trainer import train_grpo

SHOWN = 4  # completions that `grpo base` prints
STAGES: dict[str, Callable[[Config, Run], Policy]] = {"sft": train_sft, "grpo": train_grpo, "reject": train_rejection}


def run(config: Config, arguments: argparse.Namespace) -> None:
    """Run a command that has a configuration, alone or as one of several processes."""
    transformers_logging.disable_progress_bar()
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    with process_group(config.model.device):
        COMMANDS[arguments.name](config, arguments)


def _train(config: Config, arguments: argparse.Namespace) -> None:
    """Train a stage in its run folder, then evaluate what came out."""
    if config.eval.at_end:
        load_problems(config.eval.data, config.eval.seed)  # what cannot be read would end a run after its last step
    run = open_run(config, arguments.name)
    if run.complete:
        way_out = "(name another run= or delete the folder to train again)"
        say(f"{run.folder}: this run is complete, nothing to do {way_out}")
        return
    if (run.folder / "checkpoints").exists():
        say(f"{run.folder}: continues from its last checkpoint")
    page = LiveReport(run.folder)
    run.progressed = page.refresh
    with run.working():
        policy = STAGES[arguments.name](config, run)
        if config.eval.at_end:
            try:
                result = evaluate(config, policy, run)
            except ValueError as error:
                way_out = "(training is done: with eval.at_end=false the same command ends it)"
                raise ValueError(f"{error} {way_out}") from error
            result = with_parent(config, run, result)
            write_json(run.folder / "eval.json", result)
            run.tell("evaluation", run.steps, result)
            if not getattr(arguments, "quiet", False):  # `grpo demo` shows one table of all stages
                _show(evaluation_table({run.folder.name: result}))
        run.finish(policy)
        page.write()
    say(f"{run.folder}: complete; the model is in {run.folder / 'model'}")


def _base(config: Config, arguments: argparse.Namespace) -> None:
    """Stage 1: evaluate config.model as it is, and show some of its completions."""
    run = open_run(config, "base")
    if not run.complete:
        with run.working():
            policy = load_policy(config.model, config.seed, parallel=config.parallel, by_layer=config.by_layer("base"))
            note_held_out(config, policy, run)
            write_json(run.folder / "eval.json", result := evaluate(config, policy, run))
            run.tell("evaluation", 0, result)
            log, rows = RunLog(run.folder), from_first(lambda: read_evaluation(run.folder))
            for row in [r for r in rows if not r.sample and r.kind == "sampled"][:SHOWN]:
                facts = {"problem": row.id, "question": row.question, "answer": row.gold}
                log.sample(0, **facts, completion=row.text, rewards=row.rewards, truncated=row.truncated)
                _show(described(config, row))
            log.keep_samples(0)
            log.close()
            run.finish()
            LiveReport(run.folder).write()
    if not getattr(arguments, "quiet", False):
        _show(evaluation_table({run.folder.name: from_first(lambda: read_mapping(run.folder / "eval.json"))}))


def _evaluate(config: Config, arguments: argparse.Namespace) -> None:
    """Stage 4: evaluate config.model, or every model of eval.folder, and show them side by side."""
    results, made = evaluate_models(config)
    page = write_evaluation(Path(config.eval.folder) if config.eval.folder else None, results, made)
    _show(json.dumps(results) if arguments.json else evaluation_table(results))
    if page:
        say(f"report: {page}")


def _show(text: str) -> None:
    if rank() == 0:
        print(text)


def _sample(config: Config, arguments: argparse.Namespace) -> None:
    """Print sampled completions of the first problems of config.eval.data, and what each reward gave them and why."""
    problems = load_problems(config.eval.data, config.eval.seed)
    policy = load_policy(config.model, config.seed, parallel=config.parallel, by_layer=config.by_layer("sample"))
    for row in judge(config, policy, problems, config.eval.samples, config.sampling.temperature, "sampled"):
        if arguments.json:
            _show(json.dumps(asdict(row) | {"rewards": why.earned(config, row)}, ensure_ascii=False))
        else:
            _show(described(config, row))


def described(config: Config, row: Judged) -> str:
    """A problem, a completion, whether it is right, and what each reward gave it and why."""
    facts = [f"gold {row.gold}", "right" if row.correct else "wrong", f"{row.reflections} reflections"]
    facts += [f"{row.tokens} tokens", *["cut off"] * row.truncated]
    number = f", sample {row.sample + 1} of {config.eval.samples}" if config.eval.samples > 1 else ""
    return f"--- {row.id}{number}: {row.question}\n{row.text}\n\n    {', '.join(facts)}\n{why.lines(config, row)}\n"


def _bench(config: Config, arguments: argparse.Namespace) -> None:
    result = bench(config, max(1, arguments.steps), arguments.warmup_tokens)
    _show(json.dumps(result) if arguments.json else bench_table(result))


COMMANDS: dict[str, Callable[[Config, argparse.Namespace], None]] = {
    "base": _base, "eval": _evaluate, "sample": _sample, "bench": _bench, **dict.fromkeys(STAGES, _train),
}  # fmt: skip
