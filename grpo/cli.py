"""`python -m grpo {base,sft,grpo,eval,reject,sample,bench,config} --config FILE.yaml [key.sub=value ...]`

or `{audit,grade,export,report}` with arguments of their own.

Whatever the user can fix ends with one line on stderr and exit code 2; an interrupt with 130. PyTorch is imported by
the commands alone (`commands.py`), so that help and a typo take no seconds.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import warnings
from pathlib import Path
from typing import NoReturn

# quiet libraries before they are imported: their bars and advice would tear ours
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import yaml
from safetensors import SafetensorError

from grpo import __version__
from grpo.runs import hints
from grpo.runs.config import to_yaml
from grpo.runs.settings import ConfigError, load_config
from grpo.runs.stages import check_stage, demo_settings

CONFIGURED = {
    "base": ("evaluate a model as it is, and show some completions (stage 1)", "experiments/demo/base.yaml"),
    "sft": ("supervised fine-tuning (stage 2)", "experiments/demo/sft.yaml"),
    "grpo": ("reinforcement learning (stage 3)", "experiments/demo/grpo.yaml grpo.steps=10"),
    "eval": ("evaluate one model, or all of a folder side by side (stage 4)", "experiments/demo/eval.yaml"),
    "reject": ("rejection sampling, then SFT on what is kept (R1's recipe)", "experiments/demo/reject.yaml"),
    "sample": ("print completions of a model", "experiments/demo/base.yaml eval.data.count=3"),
    "bench": ("seconds, tokens a second and peak memory of training steps", "experiments/bench/tiny.yaml"),
    "config": ("print the resolved configuration, all keys", "experiments/demo/grpo.yaml loss.preset=dapo"),
}
"""The commands that have a configuration: what they do, and an example."""


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    if os.getcwd() not in sys.path:  # for the user's modules: the installed script does not look there by itself
        sys.path.insert(0, os.getcwd())
    arguments = _arguments(sys.argv[1:] if argv is None else argv)
    warn_once = functools.cache(_warn)  # a file that is read twice has its bad rows named once
    warnings.showwarning = lambda message, *_, **__: warn_once(" ".join(str(message).split()))
    try:
        code = arguments.command(arguments) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read stdout (`| head`) has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, SafetensorError) as error:  # all that the user can fix is a ValueError of ours
        if os.environ.get("GRPO_DEBUG"):  # for whoever edits the code: the traceback
            raise
        return _end(2, error)
    except (RuntimeError, MemoryError) as error:
        # PyTorch has an error of its own for this on a GPU alone
        on_gpu = type(error).__name__ == "OutOfMemoryError"
        if not on_gpu and not isinstance(error, MemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        return _end(
            2,
            f"out of memory ({' '.join(str(error).split())[:100]}); set model.recompute=full, or lower "
            "tokens_per_micro_batch (for training) or sampling.max_rows (for sampling), and run the command again",
        )
    except KeyboardInterrupt as stop:
        code = getattr(stop, "exit_code", None)  # of a run that was asked to stop, and says where it stands
        return _end(code or 130, stop if code else "interrupted; the same command continues from the last checkpoint")


def _warn(text: str) -> None:
    from grpo.runs.log import say

    say(text if text.startswith("NOTE: ") else f"warning: {text}")


def _end(code: int, reason: object) -> int:
    """Say why in one line; of several processes, each names itself, and what all find wrong at once the first says."""
    number = int(os.environ.get("RANK", "0"))
    if number == 0 or ("torch" in sys.modules and _joined()):
        print(f"grpo{f', process {number}' if number else ''}: {reason}", file=sys.stderr)
    return code


def _joined() -> bool:
    from grpo.distributed import rank

    return rank() > 0


# ---- the command line ---------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see `python -m {self.prog} --help`\n")


def _arguments(argv: list[str]) -> argparse.Namespace:
    """The command line, read. Exits with code 2 and a line that says what to write instead."""
    parser, commands = _parser()
    if not argv:
        parser.print_help(sys.stderr)
        parser.exit(2)
    if argv[0] not in commands and not argv[0].startswith("-"):
        near = hints.did_you_mean(argv[0], commands) or f"; there are {', '.join(commands)}"
        parser.error(f"no command {argv[0]!r}{near}")
    arguments, rest = parser.parse_known_args(argv)
    if rest:
        parser.error(hints.option(argv, next(i for i, word in enumerate(argv) if word == rest[0])))
    return arguments


def _parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser, and the names of the commands."""
    parser = _Parser(prog="grpo", description="The reference GRPO trainer.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"grpo {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str, text: str, example: str, **options: bool) -> argparse.ArgumentParser:
        epilog = f"example: {hints.program()} {name} {example}"
        return commands.add_parser(name, help=text, description=text, epilog=epilog, allow_abbrev=False, **options)

    for name, (text, example) in CONFIGURED.items():
        sub = add(name, text, f"--config {example}")
        sub.add_argument("--config", metavar="FILE", help="YAML file")
        if name == "config":
            sub.add_argument("--explain", nargs="?", const="", metavar="KEY", help="what each key means, or this one")
        if name in ("eval", "sample"):
            sub.add_argument("--json", action="store_true", help="the result as JSON, on stdout alone")
        if name == "bench":
            sub.add_argument("--steps", type=int, default=3, help="timed steps, after one that is not")
            sub.add_argument("--warmup-tokens", type=int, default=0, help="length limit in that one; 0: the others'")
            sub.add_argument("--json", action="store_true", help="all measurements as one line of JSON")
        sub.add_argument("overrides", nargs="*", metavar="key.sub=value", help="settings on top of the file")
        sub.set_defaults(command=_configured, name=name)
    demo = add("demo", "the demo: base, sft, grpo and eval on the embedded model, then the report", "grpo.steps=10")
    demo.add_argument("overrides", nargs="*", metavar="key.sub=value", help="settings of all stages")
    demo.set_defaults(command=_demo)
    audit = add("audit", "what does a reward wrongly pay? (-h for its options)", "accuracy", add_help=False)
    audit.add_argument("rest", nargs=argparse.REMAINDER)
    audit.set_defaults(command=_audit)
    text = "why is an answer paid or not?"
    grade = commands.add_parser("grade", help=text, description=text, prefix_chars="\0", add_help=False)
    grade.add_argument("gold", help="the gold answer")
    grade.add_argument("answer", help="an answer, or a completion with one in its tags")
    grade.add_argument("settings", nargs="*", metavar="name=value", help="settings of the grader: percent=optional")
    grade.set_defaults(command=_grade)
    export = add("export", "write a Hugging Face folder: adapters merged, or a newest checkpoint", "RUN FOLDER")
    export.add_argument("model", type=Path, help="a model, an adapter, or a run (complete or not)")
    export.add_argument("folder", type=Path, help="a new folder for the model")
    export.set_defaults(command=_export)
    report = add("report", "table and HTML report of run folders", "runs/demo")
    report.add_argument("folder", type=Path, help="a run folder, or the folder that holds several")
    report.add_argument("--json", action="store_true", help="the evaluations and where the report is, as JSON")
    report.set_defaults(command=_report)
    return parser, list(commands.choices)


def _grade(arguments: argparse.Namespace) -> int:
    """Explain a verdict; exit code 1 if the answer is not paid."""
    from rewards import explain
    from rewards.accuracy import grading_config

    settings = {name: yaml.safe_load(value) for name, _, value in (s.partition("=") for s in arguments.settings)}
    found = explain(arguments.gold, arguments.answer, grading_config(settings))
    print(found)
    return 0 if found.verdict.paid else 1


def _configured(arguments: argparse.Namespace) -> None:
    """Read the configuration, and run what it is for."""
    name, file, overrides = arguments.name, arguments.config, arguments.overrides
    if name == "config":
        return _config(arguments)
    ours = None
    if not file and not any(text.startswith("model.path=") for text in overrides):
        file, ours = demo_settings(name)
    config = load_config(file, [*(ours or []), *overrides])
    check_stage(config, file, name)
    if ours is not None:
        print(f"grpo: no --config and no model.path: {name} of the demo, {' '.join([file, *ours])}", file=sys.stderr)
    from grpo.commands import run as commands

    commands.run(config, arguments)


def _config(arguments: argparse.Namespace) -> None:
    """Print the configuration, or explain its keys."""
    config = load_config(arguments.config, arguments.overrides)
    if arguments.explain is None:
        print(to_yaml(config), end="")
        return
    from grpo.runs.explain import explain

    print(explain(arguments.explain, config))


DEMO = (("base", "base"), ("sft", "sft"), ("grpo", "grpo"), ("eval", "eval"))
"""The stages of the demo, and their files in experiments/demo/."""


def _demo(arguments: argparse.Namespace) -> None:
    """The demo's stages one after another; the last shows their table, once, and writes their page."""
    for text in arguments.overrides:
        if text.partition("=")[0] in ("run", "model.path", "stage", "eval.folder"):
            raise ConfigError(f"demo: {text.partition('=')[0]} differs from stage to stage; run the stages one by one")
    for name, file in DEMO:
        print(f"grpo: {name}, experiments/demo/{file}.yaml", file=sys.stderr)
        stage = argparse.Namespace(name=name, config=f"experiments/demo/{file}.yaml", overrides=arguments.overrides,
                                   json=False, quiet=name != "eval")  # fmt: skip
        _configured(stage)


def _audit(arguments: argparse.Namespace) -> int:
    from rewards import audit

    return audit.main(arguments.rest)


def _export(arguments: argparse.Namespace) -> None:
    from grpo.runs.keeper import export
    from grpo.runs.log import say

    say(f"{arguments.folder}: {export(arguments.model, arguments.folder)}")


def _report(arguments: argparse.Namespace) -> None:
    from grpo.report.page import find_runs, name_in, write_reports
    from grpo.runs.files import read_mapping

    table = write_reports(arguments.folder)
    if arguments.json:
        found = {name_in(run, arguments.folder): run / "eval.json" for run in find_runs(arguments.folder)}
        evaluations = {name: read_mapping(file) for name, file in found.items() if file.exists()}
        table = json.dumps({"evaluations": evaluations, "report": str(arguments.folder / "report.html")})
    print(table)
