"""`gpu_check.sh`, tried on a CPU with small numbers: its rows, its budget, and what it says of what fails."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
LAUNCH = REPO / "experiments" / "launch"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture
def check(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO))
    spec = importlib.util.spec_from_file_location("gpu_check", LAUNCH / "gpu_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_gpu_check_runs_on_a_cpu(tmp_path):
    environment = os.environ | {"DEVICE": "cpu", "SCALE": "small", "BUDGET": "240", "OMP_NUM_THREADS": "1",
                                "PYTHON": sys.executable}  # fmt: skip
    done = subprocess.run(
        [LAUNCH / "gpu_check.sh", "out"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "gpu_check.md").read_text()
    rows = {cells(line)[0]: cells(line) for line in text.splitlines() if line.startswith("| ")}
    assert text.strip() == done.stdout.strip() and {len(cells) for cells in rows.values()} == {9}
    assert "12 passed" in rows["tests"][-1] and "failed" not in rows["tests"][-1]
    assert [part.split()[0] for part in rows["demo"][-1].split(", ")[:4]] == ["2-sft", "3-grpo", "4-reject", "5-final"]
    for system in ("ours", "plain"):
        assert all(float(cell) > 0 for cell in rows[f"small float32 2x6 {system}"][1:6])


def test_a_row_of_the_gpu_check_that_fails_does_not_end_it(check, tmp_path, monkeypatch, capsys):
    limits = []

    def fails(seconds):
        limits.append(seconds)
        raise RuntimeError("CUDA error: a | b\nand more")

    def rows(arguments, scratch):
        yield "first", 50.0, fails
        yield "second", 1.0, lambda seconds: {"note": f"had {seconds:.0f} s"}
        yield "long", 80.0, lambda seconds: time.sleep(2.5) or {"note": "done"}
        yield "last", 80.0, fails

    monkeypatch.setattr(check, "rows", rows)
    monkeypatch.setattr(check.sys, "argv", ["gpu_check.py", str(tmp_path), "--device", "cpu", "--budget", "5"])
    assert check.main() == 0
    lines = [cells(line) for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [(line[0], line[-1]) for line in lines] == [
        ("first", "RuntimeError: CUDA error: a b and more"), ("second", "had 1 s"), ("long", "done"),
        ("last", "no time was left"),
    ]  # fmt: skip
    assert len(limits) == 1 and limits[0] <= 5
    assert set(json.loads((tmp_path / "gpu_check.json").read_text())) == {"first", "second", "long", "last"}


def test_the_gpu_checks_table_tells_the_share_of_the_peak(check):
    plain = {"tokens": [100], "seconds": [4.0], "sampling_seconds": [3.0], "update_seconds": [1.0], "peak_gb": 12.5}
    ours = plain | {"tflops": [98.9], "peak_share": 0.1, "sampler_gap": [0.02]}
    expected = ["0.5B", "4.00", "3.00", "1.00", "25", "12.50", "98.9", "10.0%", "sampler_gap 2e-02"]
    assert cells(check.row("0.5B", ours)) == expected
    assert cells(check.row("0.5B plain", plain))[5:] == ["12.50", "", "", ""]
    assert len(set(check.CASES["full"])) == 16 == len(check.CASES["full"])  # 2 shapes, 2 types, 2 groups, 2 lengths


def test_without_a_gpu_the_check_says_so(check, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(check.sys, "argv", ["gpu_check.py", str(tmp_path)])
    assert check.main() == 2 and "no GPU here" in capsys.readouterr().err
