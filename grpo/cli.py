"""`python -m grpo {sft,grpo,reject,eval,sample,export,report,bench,config} --config FILE.yaml [key.sub=value ...]`

Whatever the user can mend ends with one line on stderr and exit code 2; an interrupt with 130.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable
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
from grpo.evaluate import evaluate, judge
from grpo.model.distributed import from_first, process_group, rank
from grpo.model.policy import Policy, load_policy
from grpo.rejection import train_rejection
from grpo.report.page import write_reports
from grpo.report.tables import evaluation_table
from grpo.runs.config import Config, to_yaml
from grpo.runs.folder import Run, open_run, read_json, write_json
from grpo.runs.log import say
from grpo.runs.settings import ConfigError, load_config
from grpo.runs.signals import Stopped
from grpo.sft import train_sft
from grpo.trainer import train_grpo

STAGES: dict[str, Callable[[Config, Run], Policy]] = {
    "sft": train_sft,
    "grpo": train_grpo,
    "reject": train_rejection,
}


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    if (
        os.getcwd() not in sys.path
    ):  # the installed script, unlike `python -m`, does not look there for the user's modules
        sys.path.insert(0, os.getcwd())
    arguments = _parser().parse_args(argv)
    transformers_logging.disable_progress_bar()
    warnings.showwarning = _warn
    try:
        return arguments.command(arguments)
    except (
        ValueError,
        OSError,
        SafetensorError,
    ) as error:  # every error of ours that the user can mend is a ValueError
        if os.environ.get("GRPO_DEBUG"):  # for whoever edits the code: the traceback
            raise
        _complain(error)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        _complain(
            f"out of memory ({' '.join(str(error).split())[:100]}); set model.recompute=full, or lower "
            "tokens_per_micro_batch (for training) or sampling.max_rows (for sampling), and run the command again"
        )
        return 2
    except Stopped as stop:
        _complain(stop)
        return stop.exit_code
    except KeyboardInterrupt:
        _complain("interrupted; the same command goes on from the last checkpoint")
        return 130


def is_out_of_memory(error: BaseException) -> bool:
    """PyTorch has an error of its own for this on a GPU alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _complain(reason: object) -> None:
    """One line; of several processes, each names itself, and what all find wrong at once the first says."""
    number = int(os.environ.get("RANK", "0"))
    if number == 0 or rank():
        print(f"grpo{f', process {number}' if number else ''}: {reason}", file=sys.stderr)


def _warn(message: Warning | str, *_: object) -> None:
    """Warnings of ours and of the libraries, in one line and without the code that gave them."""
    say(f"warning: {' '.join(str(message).split())}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="grpo", description="The reference GRPO trainer.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, text in (
        ("sft", _stage, "supervised fine-tuning (stage 1)"),
        ("grpo", _stage, "reinforcement learning (stages 2 and 4)"),
        ("reject", _stage, "rejection sampling and fine-tuning on what is kept (stage 3)"),
        ("eval", _eval, "evaluate a model"),
        ("sample", _sample, "print completions of a model"),
        ("config", _config, "print the resolved configuration, all keys included"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--config", metavar="FILE", help="YAML file")
        sub.add_argument("overrides", nargs="*", metavar="key.sub=value", help="settings on top of the file")
        sub.set_defaults(command=command, name=name)
    audit = commands.add_parser("audit", help="what does a reward wrongly pay? (-h for its options)", add_help=False)
    audit.add_argument("rest", nargs=argparse.REMAINDER)
    audit.set_defaults(command=lambda arguments: rewards.audit.main(arguments.rest))
    export = commands.add_parser("export", help="write a run's newest checkpoint as a Hugging Face folder")
    export.add_argument("run", help="a run that is not complete")
    export.add_argument("folder", help="a new folder for the model")
    export.set_defaults(command=_export)
    timing = commands.add_parser("bench", help="seconds, tokens a second and peak memory of training steps")
    timing.add_argument("--config", metavar="FILE", help="YAML file")
    timing.add_argument("--steps", type=int, default=3, help="timed steps, after one that is not")
    timing.add_argument("--warmup-tokens", type=int, default=0, help="length limit in that one; 0: the others'")
    timing.add_argument("--json", action="store_true", help="all figures as one line of JSON")
    timing.add_argument("overrides", nargs="*", metavar="key.sub=value", help="settings on top of the file")
    timing.set_defaults(command=_bench)
    report = commands.add_parser("report", help="table and HTML report of run folders")
    report.add_argument("folder", help="a run folder, or the folder that holds several")
    report.set_defaults(command=_report)
    return parser


def _configure(arguments: argparse.Namespace) -> Config:
    config = load_config(arguments.config, arguments.overrides)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    return config


def _stage(arguments: argparse.Namespace) -> int:
    """Train a stage in its run folder, then evaluate what came out."""
    config = _configure(arguments)
    if arguments.name == "grpo" and not config.rewards:
        raise ConfigError("no reward is configured; name at least one below `rewards:`")
    if arguments.name in ("grpo", "reject") and not config.sampling.temperature:
        raise ConfigError("sampling.temperature is 0: all completions of a problem would be the same; set it to 1")
    with process_group(config.model.device):
        return _train(arguments.name, config)


def _train(stage: str, config: Config) -> int:
    # held-out problems that cannot be read would end a run after its last step
    held_out = load_problems(config.eval.data, config.seed) if config.eval.at_end else []
    run = open_run(config, stage)
    if run.complete:
        run.tidy()
        say(
            f"{run.folder}: this run is complete, nothing to do (name another run= or delete the folder to train again)"
        )
        return 0
    if (run.folder / "checkpoints").exists():
        say(f"{run.folder}: goes on from its last checkpoint")
    with run.working():
        policy = STAGES[stage](config, run)
        if config.eval.at_end:
            try:
                result = evaluate(config, policy, held_out, run)
            except ValueError as error:
                raise ValueError(
                    f"{error} (training is done: with eval.at_end=false the same command ends it)"
                ) from error
            write_json(run.folder / "eval.json", result)
            _show(evaluation_table({run.folder.name: result}))
        run.finish(policy)
    say(f"{run.folder}: complete; the model is in {run.folder / 'model'}")
    return 0


def _eval(arguments: argparse.Namespace) -> int:
    """Evaluate config.model on config.eval; the result also goes to <run>/eval.json."""
    config = _configure(arguments)
    with process_group(config.model.device):
        run = open_run(config, "eval")
        if run.complete:
            run.tidy()
        else:
            with run.working():
                result = evaluate(config, load_policy(config.model, config.seed), None, run)
                write_json(run.folder / "eval.json", result)
                run.end()
        _show(evaluation_table({config.model.path: from_first(lambda: read_json(run.folder / "eval.json"))}))
    return 0


def _show(text: str) -> None:
    if rank() == 0:
        print(text)


def _sample(arguments: argparse.Namespace) -> int:
    """Print sampled completions of the first problems of config.eval.data."""
    config = _configure(arguments)
    problems = load_problems(config.eval.data, config.seed)
    policy = load_policy(config.model, config.seed)
    judged = judge(config, policy, problems, config.eval.samples, config.sampling.temperature, "sampling")
    for j in judged:
        problem = problems[j.problem]
        print(f"--- {problem.id}: {problem.question}\n{j.text}\n")
        print(f"    gold {problem.answer}, {'right' if j.correct else 'wrong'}, {j.reflections} reflections")
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from grpo.bench import bench, table

    config = _configure(arguments)
    with process_group(config.model.device):
        result = bench(config, max(1, arguments.steps), arguments.warmup_tokens)
        if rank() == 0:
            print(json.dumps(result) if arguments.json else table(result))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from grpo.runs.keeper import export

    step = export(Path(arguments.run), Path(arguments.folder))
    say(f"{arguments.folder}: the model after step {step} of {arguments.run}")
    return 0


def _config(arguments: argparse.Namespace) -> int:
    print(to_yaml(_configure(arguments)), end="")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    print(write_reports(Path(arguments.folder)))
    return 0
