"""`python -m grpo {base,sft,grpo,eval,reject,sample,export,report,bench,config} --config FILE.yaml [key.sub=value ...]`

Whatever the user can mend ends with one line on stderr and exit code 2; an interrupt with 130.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

# quiet libraries before they are imported: their bars and advice would tear ours
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

import rewards.audit
from data import load_problems
from grpo.bench import bench
from grpo.bench import table as bench_table
from grpo.distributed import from_first, process_group, rank
from grpo.evaluate import evaluate, held_out, judge
from grpo.model.policy import Policy, load_policy
from grpo.rejection import train_rejection
from grpo.report.live import LiveReport
from grpo.report.page import write_reports
from grpo.report.tables import evaluation_table
from grpo.runs.config import Config, to_yaml
from grpo.runs.files import read_mapping, write_json
from grpo.runs.folder import Run, data_hash, evaluation_of, models_in, open_run
from grpo.runs.keeper import export
from grpo.runs.log import RunLog, say
from grpo.runs.settings import ConfigError, load_config
from grpo.runs.signals import Stopped
from grpo.sft import train_sft
from grpo.trainer import train_grpo

SHOWN = 4  # completions that `grpo base` prints
STAGES: dict[str, Callable[[Config, Run], Policy]] = {"sft": train_sft, "grpo": train_grpo, "reject": train_rejection}


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    if os.getcwd() not in sys.path:  # for the user's modules: the installed script does not look there by itself
        sys.path.insert(0, os.getcwd())
    arguments = _parser().parse_args(argv)
    transformers_logging.disable_progress_bar()
    say_once = functools.cache(say)  # a file that is read twice has its bad rows named once
    warnings.showwarning = lambda message, *_, **__: say_once(f"warning: {' '.join(str(message).split())}")
    try:
        return arguments.command(arguments) or 0
    except (ValueError, OSError, SafetensorError) as error:  # all that the user can mend is a ValueError of ours
        if os.environ.get("GRPO_DEBUG"):  # for whoever edits the code: the traceback
            raise
        return _end(2, error)
    except (RuntimeError, MemoryError) as error:
        # PyTorch has an error of its own for this on a GPU alone
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        return _end(
            2,
            f"out of memory ({' '.join(str(error).split())[:100]}); set model.recompute=full, or lower "
            "tokens_per_micro_batch (for training) or sampling.max_rows (for sampling), and run the command again",
        )
    except Stopped as stop:
        return _end(stop.exit_code, stop)
    except KeyboardInterrupt:
        return _end(130, "interrupted; the same command goes on from the last checkpoint")


def _end(code: int, reason: object) -> int:
    """Say why in one line; of several processes, each names itself, and what all find wrong at once the first says."""
    number = int(os.environ.get("RANK", "0"))
    if number == 0 or rank():
        print(f"grpo{f', process {number}' if number else ''}: {reason}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="grpo", description="The reference GRPO trainer.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, text in (
        ("base", _base, "evaluate a model as it is, and show some completions (stage 1)"),
        ("sft", _train, "supervised fine-tuning (stage 2)"),
        ("grpo", _train, "reinforcement learning (stage 3)"),
        ("eval", _evaluate, "evaluate one model, or all of a folder side by side (stage 4)"),
        ("reject", _train, "rejection sampling and fine-tuning on what is kept (R1's recipe)"),
        ("sample", _sample, "print completions of a model"),
        ("bench", _bench, "seconds, tokens a second and peak memory of training steps"),
        ("config", lambda config, _: print(to_yaml(config), end=""), "print the resolved configuration, all keys"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--config", metavar="FILE", help="YAML file")
        if name == "bench":
            sub.add_argument("--steps", type=int, default=3, help="timed steps, after one that is not")
            sub.add_argument("--warmup-tokens", type=int, default=0, help="length limit in that one; 0: the others'")
            sub.add_argument("--json", action="store_true", help="all figures as one line of JSON")
        sub.add_argument("overrides", nargs="*", metavar="key.sub=value", help="settings on top of the file")
        sub.set_defaults(command=functools.partial(_configured, command), name=name)
    audit = commands.add_parser("audit", help="what does a reward wrongly pay? (-h for its options)", add_help=False)
    audit.add_argument("rest", nargs=argparse.REMAINDER)
    audit.set_defaults(command=lambda arguments: rewards.audit.main(arguments.rest))
    export = commands.add_parser("export", help="write a Hugging Face folder: adapters merged, or a newest checkpoint")
    export.add_argument("model", type=Path, help="a model, an adapter, or a run (complete or not)")
    export.add_argument("folder", type=Path, help="a new folder for the model")
    export.set_defaults(command=_export)
    report = commands.add_parser("report", help="table and HTML report of run folders")
    report.add_argument("folder", type=Path, help="a run folder, or the folder that holds several")
    report.set_defaults(command=lambda arguments: print(write_reports(arguments.folder)))
    return parser


def _configured(command: Callable[[Config, argparse.Namespace], None], arguments: argparse.Namespace) -> None:
    """Run a command that has a configuration, alone or as one of several processes."""
    config = load_config(arguments.config, arguments.overrides)
    if arguments.name == "grpo" and not config.rewards:
        raise ConfigError("no reward is configured; name at least one below `rewards:`")
    if arguments.name in ("grpo", "reject") and not config.sampling.temperature:
        raise ConfigError("sampling.temperature is 0: all completions of a problem would be the same; set it to 1")
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    with process_group(config.model.device):
        command(config, arguments)


def _train(config: Config, arguments: argparse.Namespace) -> None:
    """Train a stage in its run folder, then evaluate what came out."""
    if config.eval.at_end:
        load_problems(config.eval.data, config.seed)  # what cannot be read would end a run after its last step
    run = open_run(config, arguments.name)
    if run.complete:
        way_out = "(name another run= or delete the folder to train again)"
        say(f"{run.folder}: this run is complete, nothing to do {way_out}")
        return
    if (run.folder / "checkpoints").exists():
        say(f"{run.folder}: goes on from its last checkpoint")
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
            write_json(run.folder / "eval.json", result)
            _show(evaluation_table({run.folder.name: result}))
        run.finish(policy)
        page.write()
    say(f"{run.folder}: complete; the model is in {run.folder / 'model'}")


def _base(config: Config, _: argparse.Namespace) -> None:
    """Stage 1: evaluate config.model as it is, and show some of its completions."""
    run = open_run(config, "base")
    if not run.complete:
        with run.working():
            policy = load_policy(config.model, config.seed)
            problems = held_out(config, policy)
            run.note_input("eval_hash", data_hash(problems), "held-out data")
            write_json(run.folder / "eval.json", evaluate(config, policy, run))
            log, some = RunLog(run.folder), problems[:SHOWN]
            for j in judge(config, policy, some, 1, config.eval.temperature, "completions"):
                problem = some[j.problem]
                facts = {"problem": problem.id, "question": problem.question, "answer": problem.answer}
                log.sample(0, **facts, completion=j.text, rewards=j.rewards, truncated=j.truncated)
                _show(
                    f"--- {problem.question}\n{j.text}\n    gold {problem.answer}, {'right' if j.correct else 'wrong'}"
                )
            log.keep_samples(0)
            log.close()
            run.finish()
            LiveReport(run.folder).write()
    _show(evaluation_table({run.folder.name: from_first(lambda: read_mapping(run.folder / "eval.json"))}))


def _evaluate(config: Config, _: argparse.Namespace) -> None:
    """Stage 4: evaluate config.model, or every model of eval.folder, and show them side by side.

    What a run has evaluated itself, in the same way, is not evaluated again.
    """
    folder = Path(config.eval.folder)
    data = data_hash(load_problems(config.eval.data, config.seed)) if config.eval.folder else ""
    models = models_in(folder) if config.eval.folder else {config.model.path: config.model.path}
    results = {}
    for name, path in models.items():
        one = replace(config, model=replace(config.model, path=path))
        if config.eval.folder:
            one = replace(one, run=f"{config.run}/{name}")
            results[name] = from_first(lambda name=name: evaluation_of(folder / name, config, data))
        if not results.get(name):
            run = open_run(one, "eval")
            if not run.complete:
                with run.working():
                    write_json(run.folder / "eval.json", evaluate(one, load_policy(one.model, one.seed), run))
                    run.finish()
            results[name] = from_first(lambda run=run: read_mapping(run.folder / "eval.json"))
    _show(evaluation_table(results))


def _show(text: str) -> None:
    if rank() == 0:
        print(text)


def _sample(config: Config, _: argparse.Namespace) -> None:
    """Print sampled completions of the first problems of config.eval.data."""
    problems = load_problems(config.eval.data, config.seed)
    policy = load_policy(config.model, config.seed)
    for j in judge(config, policy, problems, config.eval.samples, config.sampling.temperature, "sampling"):
        problem = problems[j.problem]
        _show(f"--- {problem.id}: {problem.question}\n{j.text}\n")
        _show(f"    gold {problem.answer}, {'right' if j.correct else 'wrong'}, {j.reflections} reflections")


def _bench(config: Config, arguments: argparse.Namespace) -> None:
    result = bench(config, max(1, arguments.steps), arguments.warmup_tokens)
    _show(json.dumps(result) if arguments.json else bench_table(result))


def _export(arguments: argparse.Namespace) -> None:
    say(f"{arguments.folder}: {export(arguments.model, arguments.folder)}")
