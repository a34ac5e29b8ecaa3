"""A sample of `make chaos`, and a fault that it must see."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import chaos
import pytest

CHAOS = [sys.executable, str(Path(chaos.__file__)), "--dtypes", "float32"]


@pytest.mark.slow
def test_a_run_that_is_killed_anywhere_ends_as_if_it_never_was(tmp_path):
    """In a process of its own: its children are forked, which wants one that has computed nothing yet."""
    out = subprocess.run([*CHAOS, "--kills", "4", "--folder", tmp_path / "runs"], capture_output=True, text=True)
    assert out.returncode == 0, out.stdout + out.stderr
    *_, total = (line for line in out.stdout.splitlines() if line.startswith("|"))
    _, name, runs, kills, _, restarts, lost, identical, _ = (cell.strip() for cell in total.split("|"))
    assert (name, kills, restarts, lost) == ("**all**", "4", "4", "0") and runs == identical
    assert not (tmp_path / "runs").exists()


def test_it_sees_a_difference_of_a_byte_and_what_a_kill_left_behind(tmp_path):
    def write(name: str, file: str, content: str) -> Path:
        path = tmp_path / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return tmp_path / name

    for name, seconds in (("whole", 1), ("run", 2)):
        write(name, "metrics.jsonl", f'{{"step": 1, "loss": 0.5, "seconds": {seconds}}}\n')
        write(name, "completions.jsonl", "a\n")
        write(name, "model/model.safetensors", "abc")
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert chaos.same(run, whole)
    changes = {
        "metrics.jsonl": '{"step": 1, "loss": 0.25, "seconds": 1}\n',
        "completions.jsonl": "b\n",
        "model/model.safetensors": "abd",
        "model/more": "",
        "eval.json": "{}",
        "manifest.json.partial": "",
    }
    for file, content in changes.items():
        before = (run / file).read_text() if (run / file).exists() else None
        write("run", file, content)
        assert not chaos.same(run, whole), file
        (run / file).unlink() if before is None else (run / file).write_text(before)
    assert chaos.same(run, whole)


def test_a_run_that_does_not_end_is_lost(tmp_path, monkeypatch):
    """An exit code that is not 0, however often the run is started, and one that differs from the whole."""
    monkeypatch.setattr(chaos, "start", lambda *_: 0)
    whole = chaos.Whole(tmp_path, 1.0, 10)
    for codes, kills, lost in (([2], 0, 1), ([-9, -9, 2], 2, 1), ([-9, 0], 1, 0), ([0], 0, 0), ([-9, -9, None], 2, 1)):
        left = list(codes)
        monkeypatch.setattr(chaos, "wait", lambda *_, left=left: left.pop(0))
        monkeypatch.setattr(chaos, "same", lambda *_: False)
        tally = chaos.torment([], tmp_path, tmp_path / "log", whole, 2, chaos.random.Random(3))
        assert (tally.kills, tally.restarts, tally.lost, tally.identical) == (kills, kills, lost, 0)
