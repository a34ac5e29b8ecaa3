"""`gpu_check.sh`, tried on a CPU with small numbers: its rows, its budget, and what it says of what fails."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
LAUNCH = REPO / "experiments" / "launch"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, LAUNCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def check(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO))
    return load("gpu_check")


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO))
    return load("gpu_rows")


@pytest.mark.slow
def test_the_gpu_check_runs_on_a_cpu(tmp_path):
    """Its rehearsal: every kind of row, in a small size."""
    environment = os.environ | {"DEVICE": "cpu", "SCALE": "small", "BUDGET": "600", "OMP_NUM_THREADS": "1",
                                "PYTHON": sys.executable}  # fmt: skip
    done = subprocess.run(
        [LAUNCH / "gpu_check.sh", "out"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "gpu_check.md").read_text()
    rows = {cells(line)[0]: cells(line) for line in text.splitlines() if line.startswith("| ")}
    assert text.strip() == done.stdout.strip() and {len(cells) for cells in rows.values()} == {9}
    assert "passed" in rows["tests"][-1] and "failed" not in rows["tests"][-1]
    for size in (4, 8):
        for graphs in ("graphs", "no graphs"):
            row = rows[f"sampling small bfloat16 {size} rows, {graphs}"]
            assert all(float(row[column]) > 0 for column in (2, 4, 5)) and "ms a token" in row[-1]
    assert all(float(cell) > 0 for cell in rows["step small float32 4x2x6 ours"][1:6])
    for name in ("real base", "real sft", "real grpo, evaluated"):
        assert re.search(r"greedy [\d.]+% right \[.*\] of 4, sampled [\d.]+%", rows[name][-1]), rows[name]
    assert re.search(r"3 steps, [\d.]+ s each, reward", rows["real grpo"][-1])
    for pair in ("2-sft - 1-base", "3-eval - 2-sft", "3-eval - 1-base"):
        assert "in pairs over 4 problems" in rows[f"real {pair}"][-1]


def test_work_that_fails_does_not_end_the_gpu_check_and_its_rows_are_kept(check, tmp_path, monkeypatch, capsys):
    limits = []

    def fails(seconds):
        limits.append(seconds)
        yield "first, one", {"note": "made"}
        assert "| first, one |" in (tmp_path / "gpu_check.md").read_text()  # at once
        raise RuntimeError("CUDA error: a | b\nand more")

    def long(seconds):
        time.sleep(2.5)
        yield "long", {"note": "done"}

    def work(arguments, scratch):
        yield "first", 50.0, fails
        yield "second", 1.0, lambda seconds: iter([("second", {"note": f"had {seconds:.0f} s"})])
        yield "other", 1.0, fails
        yield "long", 80.0, long
        yield "last", 80.0, fails

    monkeypatch.setattr(check, "work", work)
    arguments = ["gpu_check.py", str(tmp_path), "first", "second", "l", "--device", "cpu", "--budget", "5"]
    monkeypatch.setattr(check.sys, "argv", arguments)
    assert check.main() == 0
    lines = [cells(line) for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [(line[0], line[-1]) for line in lines] == [
        ("first, one", "made"), ("first", "RuntimeError: CUDA error: a b and more"), ("second", "had 1 s"),
        ("long", "done"), ("last", "no time was left"),
    ]  # fmt: skip
    assert len(limits) == 1 and limits[0] <= 5
    assert set(json.loads((tmp_path / "gpu_check.json").read_text())) == {line[0] for line in lines}


def test_lines_of_a_process_come_as_it_prints_them_and_it_is_ended_in_time(rows):
    """Also those before it fails, or takes too long."""
    code = "import time, sys; print('{\"a\": 1}', flush=True); {}"
    for end, reason in (("time.sleep(60)", "not done after 2 s"), ("sys.exit('no such card')", "no such card")):
        lines, started = rows.json_lines([sys.executable, "-c", code.replace("{}", end)], 2.0), time.monotonic()
        assert next(lines) == {"a": 1}
        with pytest.raises(RuntimeError, match=reason):
            next(lines)
        assert time.monotonic() - started < 20
    assert list(rows.json_lines([sys.executable, "-c", code.replace("{}", "")], 60.0)) == [{"a": 1}]


@pytest.mark.slow
def test_grpo_is_stopped_in_time_and_what_it_made_is_kept(rows, tmp_path):
    run = tmp_path / "run"
    settings = [f"run={run}", "model.device=cpu", "grpo.steps=100000", "data.count=16", "sampling.max_new_tokens=16"]
    settings += ["grpo.prompts_per_step=2", "grpo.group_size=4", "optim.warmup_steps=0"]
    started = time.monotonic()
    said = rows.grpo_until(
        started + 40, ["grpo", "--config", "experiments/demo/grpo.yaml", "model.path=tiny", *settings], run
    )
    assert time.monotonic() - started < 120
    steps = len((run / "metrics.jsonl").read_text().splitlines())
    assert said.startswith(f"{steps} steps, ") and steps > 0
    rows.export(run, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").is_file()
    with pytest.raises(RuntimeError, match=r"grpo: no step was made: grpo: .*no\.yaml"):
        rows.grpo_until(time.monotonic() + 60, ["grpo", "--config", "no.yaml"], tmp_path / "none")


def test_sampling_is_timed_with_and_without_graphs(rows, tmp_path):
    model = rows.random_model("small", tmp_path, "cpu")
    found = list(rows.sampling_rows(model, "cpu", "float32", [8, 16], tokens=8))
    assert [row["name"] for row in found] == [
        "8 rows, no graphs", "8 rows, graphs", "16 rows, no graphs", "16 rows, graphs"
    ]  # fmt: skip
    most = [8 * 2, 8 * 8, 16 * 2, 16 * 8]  # a token in 512 ends a row
    assert all(0.8 * n < row["tokens"][0] <= n for n, row in zip(most, found, strict=True))
    assert all("no graph was captured" in row["note"] for row in found[1::2])  # there are none on a CPU
    assert min(row["sampling_seconds"][0] for row in found) > 0


def test_the_gpu_checks_table_tells_the_share_of_the_peak(check):
    plain = {"tokens": [100], "seconds": [4.0], "sampling_seconds": [3.0], "update_seconds": [1.0], "peak_gb": 12.5}
    ours = plain | {"tflops": [98.9], "peak_share": 0.1, "sampler_gap": [0.02]}
    expected = ["0.5B", "4.00", "3.00", "1.00", "25", "12.50", "98.9", "10.0%", "sampler_gap 2e-02"]
    assert cells(check.row("0.5B", ours)) == expected
    assert cells(check.row("0.5B plain", plain))[5:] == ["12.50", "", "", ""]
    sampling = {"tokens": [100], "sampling_seconds": [0.5], "peak_gb": 1.0, "note": "fast"}
    assert cells(check.row("s", sampling)) == ["s", "", "0.50", "", "200", "1.00", "", "", "fast"]


def test_without_a_gpu_the_check_says_so(check, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(check.sys, "argv", ["gpu_check.py", str(tmp_path)])
    assert check.main() == 2 and "no GPU here" in capsys.readouterr().err
