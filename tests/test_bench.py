"""`grpo bench` and `make bench`: what they time, count and print."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from grpo import bench, cli
from grpo.bench import bandwidth, key_bytes, limits, table
from grpo.runs.settings import load_config

TINY = ["model.path=tiny-init", "grpo.prompts_per_step=2", "grpo.group_size=3", "sampling.max_new_tokens=9",
        "data.count=4"]  # fmt: skip
CONFIG = Path(__file__).parent.parent / "experiments" / "bench" / "tiny.yaml"


@pytest.fixture(scope="module")
def result() -> dict:
    started = time.perf_counter()
    return bench.bench(load_config(str(CONFIG), TINY), steps=2) | {"whole": time.perf_counter() - started}


def test_every_step_is_timed_in_its_parts(result):
    assert {len(result[key]) for key in ("tokens", "seconds", "sampling_seconds", "update_seconds")} == {2}
    for whole, *parts in zip(result["seconds"], result["sampling_seconds"], result["update_seconds"], strict=True):
        assert whole == pytest.approx(sum(parts)) and min(parts) > 0
    assert sum(result["seconds"]) < result["whole"]
    assert all(6 <= n <= 2 * 3 * 9 for n in result["tokens"]) and len(result["prompt_tokens"]) == 2
    assert result["sampler_gap"] < 1e-5 and result["peak_gb"] > 0.1
    assert 0 < result["sampling_limit_seconds"] < 2 * max(result["sampling_seconds"])
    assert 0 < result["update_limit_seconds"] < 2 * max(result["update_seconds"])


def test_the_table_holds_medians_and_shares():
    figures = {
        "tokens": [90, 100, 400], "seconds": [3.0, 4.0, 9.0], "sampling_seconds": [1.0, 2.0, 5.0],
        "update_seconds": [2.0, 2.5, 4.0], "sampling_limit_seconds": 0.5, "update_limit_seconds": 1.0, "peak_gb": 1.5,
        "sampler_gap": 2e-8, "threads": 1, "bandwidth_gb_per_second": 30.0,
    }  # fmt: skip
    lines = [line.split() for line in table(figures).splitlines()]
    assert lines[1] == ["sampling", "2.00", "50.0", "25%"]
    assert lines[2] == ["update", "2.50", "40.0", "40%"]
    assert lines[3] == ["step", "4.00", "25.0"]
    assert "3.00 to 9.00 s" in table(figures) and "1.50 GB" in table(figures) and "30 GB/s" in table(figures)


# ---- the limits ----------------------------------------------------------------------------------------------


def test_keys_are_counted_as_decoding_reads_them(make_policy, make_rollouts):
    policy, rollouts = make_policy(), make_rollouts([5, 7], [3, 1, 4, 2], group_size=2)
    layers = policy.decoder.layers
    a_token = 2 * len(layers) * layers[0].key_heads * layers[0].size * 4
    own = sum(seen for length in (3, 1, 4, 2) for seen in range(1, length + 1))
    assert key_bytes(policy, rollouts) == (5 * 3 + 7 * 4 + own) * a_token


@pytest.mark.parametrize("beta, passes", [(0.0, 3), (0.04, 4)])
def test_the_limits_are_products_and_what_is_read(beta, passes, make_policy, make_rollouts, monkeypatch):
    policy, rollouts = make_policy(), make_rollouts([5, 7], [3, 1, 4, 2], group_size=2)
    monkeypatch.setattr(bench, "product_seconds", lambda linear, rows: rows * (100.0 if linear is policy.head else 1.0))
    body = sum(isinstance(m, torch.nn.Linear) for m in policy.model.modules()) - 1
    config = load_config(str(CONFIG), [f"loss.beta={beta}", "tokens_per_micro_batch=8"])
    sampling, update = limits(policy, rollouts, config, 20, 1e4)
    assert sampling == pytest.approx(20 * (body + 100.0) + key_bytes(policy, rollouts) / 1e4)
    numbers = sum(p.numel() for p in policy.model.parameters())
    assert update == pytest.approx(passes * (body * (20 + 12) + 100.0 * 20) + 28 * numbers / 1e4)


@pytest.mark.parametrize("on_gpu, calls", [(False, 6), (True, 120)])
def test_a_time_is_that_of_one_call(on_gpu, calls, monkeypatch):
    done, waits = [], []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(len(done)))
    seconds = bench._median_seconds(lambda: done.append(time.sleep(0.002)), SimpleNamespace(is_cuda=on_gpu))
    assert 0.002 <= seconds < 0.02 and len(done) == calls
    assert waits == (list(range(20, 121, 20)) if on_gpu else [])


def test_memory_is_read_at_a_likely_speed():
    assert 1e8 < bandwidth(torch.device("cpu")) < 1e13


# ---- on the command line -------------------------------------------------------------------------------------


def test_the_command_prints_one_line_of_json(capsys):
    assert cli.main(["bench", "--config", str(CONFIG), "--json", "--steps", "1", *TINY]) == 0
    figures = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert len(figures["seconds"]) == 1 and figures["threads"] == 1


@pytest.fixture
def script():
    path = CONFIG.parent.parent / "bench.py"
    spec = importlib.util.spec_from_file_location("make_bench", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_row_compares_medians_with_trls(script):
    parts = {"sampling_seconds": [1.0, 2.0, 5.0], "update_seconds": [0.0, 0.0, 0.0], "tokens": [90, 100, 400]}
    results = {
        "tiny trl float32": {**parts, "seconds": [9.0, 10.0, 20.0], "peak_gb": 4.0},
        "tiny ours float32": {**parts, "seconds": [1.0, 2.0, 3.0], "peak_gb": 1.0, "sampling_limit_seconds": 1.0,
                              "update_limit_seconds": 0.0},
        "growth group 4": {**parts, "seconds": [1.0], "peak_gb": 1.0},
    }  # fmt: skip
    results["tiny ours float32"]["update_seconds"] = [1.0, 1.0, 1.0]
    ours = [cell.strip() for cell in script.row("tiny ours float32", results).strip("|").split("|")]
    assert ours == ["tiny ours float32", "2.00 [1.00, 3.00]", "50", "100", "50%, 0%", "1.00", "5.00"]
    assert script.row("tiny trl float32", results).count("1.00") == 1  # compared with itself
    assert script.row("growth group 4", results).split("|")[-2].strip() == ""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_system_has_its_row_and_settings_that_load(device, script, monkeypatch):
    arguments = script.argparse.Namespace(model="tiny", device=device, steps=1)
    rows, commands = dict(script.runs(arguments)), []
    systems = ("trl", "ours", "plain", "graphs") if device == "cuda" else ("trl", "ours", "plain")
    compared = {f"{m} {s} {d}" for m in ("tiny", "smollm2") for s in systems for d in ("float32", "bfloat16")}
    assert {name for name in rows if name.split()[0] in ("tiny", "smollm2")} == compared
    monkeypatch.setattr(script, "last_line", commands.append)
    for name in ("tiny ours float32", "smollm2 graphs bfloat16") if device == "cuda" else ("tiny ours float32",):
        rows[name]()
        command = commands.pop()
        config = load_config(command[command.index("--config") + 1], command[command.index("--steps") + 2 :])
        assert config.model.cuda_graphs == ("graphs" in name)
        assert config.model.device == device and config.model.dtype == name.split()[-1]


def test_a_run_that_fails_is_named_with_what_it_said(script):
    with pytest.raises(SystemExit, match=r"(?s)-c.*failed:.*no such thing"):
        script.last_line([script.sys.executable, "-c", "raise SystemExit('no such thing')"])
