"""The line that says how far a command is: what fits comes first, and a log file gets whole lines."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from grpo.runs import progress as module
from grpo.runs.progress import Progress, _clock

VALUES = {"accuracy": "0.61", "reward": "0.78", "reflections": "0.31", "length": "41.2", "kl": "0.003", "loss": "1e-7"}


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves by hand."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("width", [30, 60, 79, 119, 300])
def test_a_line_fits_and_shows_the_accuracy_before_all_else(clock, capsys, width):
    bar = Progress(total=25, desc="grpo")
    clock[0] = 36.0
    bar.set_postfix(VALUES)
    bar.update(12)
    line = bar.line(width)
    assert len(line) <= width and line.startswith("grpo 12/25") and "3.0 s/step" in line[:width]
    if width >= 60:
        assert "12/25  accuracy 0.61" in line and "0:39 left" in line
    shown = [name for name in VALUES if f" {name} " in line]
    assert shown == list(VALUES)[: len(shown)]  # in their order, what is left out is the end
    if width == 300:
        assert shown == list(VALUES) and line.endswith(f"  {'#' * 14}{'-' * 16}")


def test_a_log_file_gets_whole_lines_with_time_rate_and_time_left(clock, capsys):
    with Progress(total=100, desc="sft") as bar:
        for step in range(1, 101):
            clock[0] = 1.0 * step
            bar.set_postfix({"loss": f"{step}"})
            bar.update()
    text = capsys.readouterr().err
    lines = text.splitlines()
    assert "\r" not in text and text.endswith("\n")
    assert lines[0] == "sft 1/100  loss 1  after 0:01, 1.0 s/step, 1:39 left"
    assert lines[-1] == "sft 100/100  loss 100  after 1:40, 1.0 s/step, 0:00 left"
    steps = [int(re.match(r"sft (\d+)/", line)[1]) for line in lines]
    assert steps == [1, *range(11, 101, 10), 100]


def test_a_run_that_continues_counts_the_rate_of_what_it_did_itself(clock, capsys):
    bar = Progress(total=10, initial=8, desc="grpo")
    clock[0] = 4.0
    bar.update()
    assert capsys.readouterr().err == "grpo 9/10  after 0:04, 4.0 s/step, 0:04 left\n"


def test_without_a_total_and_when_disabled(clock, capsys):
    assert list(Progress(iter("ab"), desc="x", disable=True)) == ["a", "b"]
    assert capsys.readouterr().err == ""
    clock[0] = 0.0
    bar = Progress(desc="x", unit="row")
    clock[0] = 0.5
    bar.update(2)
    assert capsys.readouterr().err == "x 2  after 0:00, 4.0 rows/s\n"


def test_clock():
    assert [_clock(s) for s in (0, 9.6, 75, 3600, 86399)] == ["0:00", "0:10", "1:15", "1:00:00", "23:59:59"]


def test_on_a_terminal_the_line_is_drawn_over_itself_and_other_lines_go_above():
    code = (
        "from grpo.runs.log import progress, say\n"
        "with progress(total=3, desc='grpo') as bar:\n"
        "    for i in range(3):\n"
        "        bar.set_postfix({'accuracy': f'0.{i}'}); bar.update(); bar._bar.refresh()\n"
        "        i == 1 and say('a warning')\n"
    )
    master, slave = pty.openpty()
    done = subprocess.run([sys.executable, "-c", code], stderr=slave, stdin=slave, stdout=subprocess.DEVNULL)
    os.close(slave)
    text = os.read(master, 100_000).decode()
    os.close(master)
    assert done.returncode == 0 and "grpo 3/3  accuracy 0.2" in text and "\r" in text
    assert "a warning\r\n" in text
    assert "\n" not in text.partition("accuracy 0.1")[0]
