"""The README says what the code does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from readme import LINK, REPO, mended

from grpo.cli import _parser
from grpo.runs.settings import load_config

TEXT = (REPO / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """The commands of the README's shell blocks, its own variables filled in."""
    found, variables = [], {}
    for block in re.findall(r"^```\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if assigned := re.fullmatch(r'(\w+)="(.*)"', line):
                variables[f"${assigned[1]}"] = assigned[2]
            elif line.startswith(("make ", "python ", ".venv/bin/python ")):
                for name, value in variables.items():
                    line = line.replace(name, value)
                found.append(line.split("#")[0].strip())
    return found


COMMANDS = commands()
MAKEFILE = (REPO / "Makefile").read_text(encoding="utf-8")


def test_line_links_and_glossary_are_up_to_date() -> None:
    assert len(LINK.findall(TEXT)) > 8
    assert mended(TEXT) == TEXT, "run `python tests/readme.py`"


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", TEXT):
        if "://" not in target:
            assert (REPO / target).exists(), target


def test_there_are_commands() -> None:
    targets = {c.split()[1] for c in COMMANDS if c.startswith("make")}
    assert targets >= {"demo", "test", "sft", "grpo", "reject", "final"}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_commands_have_a_target_and_a_valid_configuration(command: str) -> None:
    words = shlex.split(command)
    target = words[1]
    assert re.search(rf"^{target}:.*##", MAKEFILE, re.MULTILINE)
    given = dict(word.split("=", 1) for word in words[2:])
    file = REPO / "experiments" / given.get("EXP", "demo") / f"{target}.yaml"
    if file.exists():
        load_config(str(file), [a for a in shlex.split(given.get("ARGS", "")) if "..." not in a])


@pytest.mark.parametrize("command", [c for c in COMMANDS if "python -m grpo" in c])
def test_grpo_commands_parse(command: str) -> None:
    arguments = _parser().parse_args(shlex.split(command)[3:])
    if file := getattr(arguments, "config", None):
        load_config(str(REPO / file), [o for o in arguments.overrides if "..." not in o])
        assert Path(REPO / file).exists()
