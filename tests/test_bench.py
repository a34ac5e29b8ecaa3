"""`grpo bench` and `make bench`: what they time, count and print."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from grpo import cli
from grpo.commands import bench
from grpo.experience import Batch
from grpo.model.optim import Optimizer
from grpo.model.policy import load_policy
from grpo.runs.settings import load_config
from grpo.sampling import sample_groups
from grpo.trainer import update

TINY = ["model.path=tiny-init", "grpo.prompts_per_step=2", "grpo.group_size=3", "sampling.max_new_tokens=9",
        "data.count=4"]  # fmt: skip
CONFIG = Path(__file__).parent.parent / "experiments" / "bench" / "tiny.yaml"


@pytest.fixture(scope="module")
def result() -> dict:
    started = time.perf_counter()
    return bench.bench(load_config(str(CONFIG), TINY), steps=2) | {"whole": time.perf_counter() - started}


def test_every_step_is_timed_in_its_parts(result):
    lists = ("tokens", "seconds", "sampling_seconds", "update_seconds", "tflops", "sampler_gap")
    assert {len(result[key]) for key in lists} == {2}
    for whole, *parts in zip(result["seconds"], result["sampling_seconds"], result["update_seconds"], strict=True):
        assert whole == pytest.approx(sum(parts)) and min(parts) > 0
    assert sum(result["seconds"]) < result["whole"]
    assert all(6 <= n <= 2 * 3 * 9 for n in result["tokens"])
    assert max(result["sampler_gap"]) < 1e-5 and result["peak_gb"] > 0.1 and result["threads"] == 1


def test_the_first_step_may_be_short_and_never_counts(monkeypatch):
    limits = []

    def sample(*arguments):
        limits.append(arguments[4].max_new_tokens)
        return sample_groups(*arguments)

    monkeypatch.setattr(bench, "sample_groups", sample)
    figures = bench.bench(load_config(str(CONFIG), TINY), steps=2, warmup_tokens=3)
    assert limits == [3, 9, 9] and len(figures["tokens"]) == 2 and min(figures["tokens"]) > 2 * 3 * 3


# ---- operations ----------------------------------------------------------------------------------------------


class MatmulCounter(TorchDispatchMode):
    """Operations of all matmuls of two matrices inside (attention multiplies batches of them)."""

    flops = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        name = op.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_"):
            a, b = args[-2:]
            self.flops += 2 * a.shape[0] * a.shape[1] * b.shape[1]
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "settings",
    [
        ["loss.beta=0"],
        ["loss.beta=0.04"],
        ["loss.beta=0.04", "grpo.updates_per_batch=2"],
        ["loss.beta=0", "model.recompute=full"],
    ],
    ids=str,
)
def test_operations_are_those_of_the_matmuls_that_run(settings):
    config = load_config(str(CONFIG), [*TINY, *settings])
    policy = load_policy(config.model)
    policy.eos_ids = []  # no row goes on in vain after its end
    policy.freeze_reference()
    optimizer = Optimizer(policy.trainable(), config.optim, 1)
    with MatmulCounter() as counter:
        rollouts = sample_groups(policy, [[5, 6, 7, 8], [9, 10]], ["a", "b"], 3, config.sampling, seed=0)
        update(config, policy, optimizer, Batch(rollouts, torch.rand(6, 1), {}), torch.ones(1), 0)
    recomputed = config.model.recompute == "full"  # all but the last matmul of a layer, which nothing asks for
    assert bench.matmul_flops(policy, rollouts, config) == pytest.approx(counter.flops, rel=0.05 * recomputed)


def test_frozen_weights_have_no_gradient_to_compute_and_an_embedding_is_no_matmul(make_policy, make_rollouts):
    policy, rollouts = make_policy("qwen2"), make_rollouts([5, 7], [3, 1, 4, 2], group_size=2)
    config = load_config(str(CONFIG), ["loss.beta=0"])
    head = policy.head.weight.numel()
    body = sum(m.weight.numel() for m in policy.model.modules() if isinstance(m, torch.nn.Linear)) - head
    assert bench.matmul_flops(policy, rollouts, config) == body * 8 * (10 + 10) + head * 10 * 10
    policy.model.requires_grad_(False)
    assert bench.matmul_flops(policy, rollouts, config) == body * 6 * (10 + 10) + head * 8 * 10


@pytest.mark.parametrize(
    "card, dtype, peak",
    [("NVIDIA H200", "float32", 67), ("NVIDIA A100-SXM4-80GB", "bfloat16", 312), ("NVIDIA L40S", "bfloat16", None)],
)
def test_the_share_of_a_known_cards_peak(card, dtype, peak, monkeypatch):
    monkeypatch.setattr(bench, "processor", lambda device: card)
    figures = bench.bench(load_config(str(CONFIG), [*TINY, f"model.dtype={dtype}"]), steps=1)
    assert figures["peak_share"] == (peak and pytest.approx(figures["tflops"][0] / peak))
    assert ("of the card's peak" in bench.table(figures)) == bool(peak)


# ---- the machine and the table -------------------------------------------------------------------------------


def test_peak_memory_stays_when_memory_is_freed():
    before = bench.peak_memory(torch.device("cpu"))
    held = torch.ones(round((before + 0.2) * 1e9 / 4))  # more than all before it
    del held
    assert before + 0.2 < bench.peak_memory(torch.device("cpu")) < 3 * before + 0.5


def test_the_processor_is_named():
    assert len(bench.processor(torch.device("cpu"))) > 4


def test_the_table_holds_medians():
    figures = {
        "tokens": [90, 100, 400], "seconds": [3.0, 4.0, 9.0], "sampling_seconds": [1.0, 2.0, 5.0],
        "update_seconds": [2.0, 2.5, 4.0], "tflops": [0.5, 0.25, 0.1], "sampler_gap": [1e-8, 2e-8, 0.0],
        "peak_gb": 1.5, "peak_share": 0.125, "threads": 1, "processor": "abacus",
    }  # fmt: skip
    text = bench.table(figures)
    lines = [line.split() for line in text.splitlines()]
    assert lines[1] == ["sampling", "2.00", "50.0"]
    assert lines[2] == ["update", "2.50", "40.0"]
    assert lines[3] == ["step", "4.00", "25.0"]
    for part in ("3.00 to 9.00 s", "0.25 TFLOP/s, 12.5% of the card", "1.50 GB", "2.0e-08 nats", "abacus; 1 threads"):
        assert part in text


# ---- on the command line -------------------------------------------------------------------------------------


def test_the_command_prints_one_line_of_json(capsys):
    arguments = ["bench", "--config", str(CONFIG), "--json", "--steps", "1", "--warmup-tokens", "2", *TINY]
    assert cli.main(arguments) == 0
    figures = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert len(figures["seconds"]) == 1 and figures["threads"] == 1


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("make_bench", CONFIG.parent.parent / "bench.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def figures_of(*seconds: float, gb: float = 1.0) -> dict:
    return {"tokens": [100] * len(seconds), "seconds": list(seconds), "sampling_seconds": [s / 2 for s in seconds],
            "update_seconds": [s / 2 for s in seconds], "peak_gb": gb, "threads": 1, "processor": "abacus"}  # fmt: skip


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_is_compared_with_trls_fastest_and_leanest_split(script):
    results = {
        "tiny float32 trl/4": figures_of(20.0, gb=2.0),
        "tiny float32 trl/8": figures_of(9.0, 10.0, 20.0, gb=4.0),
        "tiny float32 trl/32": {"failed": "killed by signal 9"},
        "tiny bfloat16 trl/8": figures_of(1.0, gb=0.1),
        "tiny float32 ours": figures_of(1.0, 4.0, 5.0) | {"tflops": [0.5, 0.25, 0.125], "peak_share": None},
        "growth group 4": figures_of(1.0),
    }
    expected = ["4.00 [1.00, 5.00]", "50", "50", "0.25", "1.00", "4.00 [2.50, 9.00]", "0.25", "0.50"]
    assert cells(script.row("tiny float32 ours", results))[1:] == expected
    assert cells(script.row("tiny float32 trl/4", results))[1:] == [
        "20.00",
        "10",
        "10",
        "",
        "2.00",
        "0.50",
        "0.50",
        "1.00",
    ]
    assert cells(script.row("growth group 4", results))[6:] == ["", "", ""]
    assert {len(cells(line)) for line in script.table(results)} == {9}
    assert "killed by signal 9" in script.row("tiny float32 trl/32", results)


@pytest.fixture
def recorded(script, monkeypatch, tmp_path):
    """recorded(*flags): run the script with canned figures; its commands and the table that it wrote."""
    seconds = {"32": 3.0, "64": 2.0, "128": 4.0, "256": 5.0, "4": 9.0, "8": 8.0}

    def run(*flags):
        commands = []

        def last_line(command, limit=0):
            commands.append(command)
            text = " ".join(map(str, command))
            micro = command[command.index("--micro") + 1] if " trl " in text else ""
            return figures_of(seconds.get(micro, 1.0) + (" --recompute" in text))

        monkeypatch.setattr(script, "last_line", last_line)
        monkeypatch.setattr(script.sys, "argv", ["bench.py", "--out", str(tmp_path / "bench.md"), *flags])
        assert script.main() == 0
        return commands, (tmp_path / "bench.md").read_text()

    return run


def test_the_fastest_split_and_ours_run_in_turn(recorded):
    commands, text = recorded("--only", "tiny", "--pairs", "3")
    runs = ["ours" if "bench" in c else "plain" if "plain" in c else c[c.index("--micro") + 1] for c in commands]
    assert runs == 2 * ["32", "64", "128", "256", *(3 * ["64", "ours"]), "plain"]
    for command in commands:
        assert [command[command.index(flag) + 1] for flag in ("--steps", "--warmup-tokens")] == ["1", "16"]
    assert "abacus, 1 threads" in text and "Medians of 3 steps" in text
    rows = {line.split(" |")[0]: cells(line)[1:] for line in text.splitlines()}
    assert rows["| tiny float32 trl/64"][0] == "2.00 [2.00, 2.00]" and rows["| tiny float32 trl/32"][0] == "3.00"
    assert rows["| tiny float32 ours"][5] == "2.00 [2.00, 2.00]" and rows["| tiny float32 plain"][5] == "2.00"


def test_the_ratio_is_the_median_of_the_pairs(script):
    results = {
        "tiny float32 trl/8": figures_of(10.0, 30.0, 20.0),
        "tiny float32 ours": figures_of(5.0, 5.0, 10.0),  # in pairs 2, 6 and 2; of the medians 4
    }
    assert cells(script.row("tiny float32 ours", results))[6] == "2.00 [2.00, 6.00]"
    assert cells(script.row("tiny float32 trl/8", results))[6] == "1.00"


def test_runs_of_one_row_are_put_together_and_one_that_fails_speaks_for_all(script):
    runs = []
    for seconds, gb in ((4.0, 1.0), (2.0, 3.0), (3.0, 2.0)):
        merged = script.once_more(runs, lambda seconds=seconds, gb=gb: figures_of(seconds, gb=gb))
    assert merged["seconds"] == [4.0, 2.0, 3.0] and merged["peak_gb"] == 3.0 and merged["threads"] == 1
    assert script.once_more(runs, lambda: {"failed": "no memory"}) == {"failed": "no memory"}
    assert script.once_more(runs, lambda: figures_of(1.0)) == {"failed": "no memory"}


def test_rows_are_chosen_by_name_and_their_settings_load(recorded):
    commands, text = recorded("--only", "tiny bfloat16 ours", "growth prompt", "--growth", "--model", "tiny")
    assert [line.split(" |")[0] for line in text.splitlines() if line.startswith("| ")][1:] == [
        "| tiny bfloat16 ours", *(f"| growth prompt {n}" for n in (32, 128, 512))
    ]  # fmt: skip
    for command in commands:
        config = load_config(command[command.index("--config") + 1], command[command.index("--warmup-tokens") + 2 :])
        assert config.model.path == "tiny" and config.model.device == "cpu"
    assert "model.dtype=bfloat16" in commands[0]


def test_a_run_that_fails_is_a_row_that_says_why(script):
    python = [script.sys.executable, "-c"]
    assert script.last_line([*python, "print('noise'); print('{\"a\": 1}')"]) == {"a": 1}
    assert script.last_line([*python, "raise SystemExit('no such thing')"]) == {"failed": "no such thing"}
    assert "killed by signal 9, perhaps" in script.last_line([*python, "import os; os.kill(os.getpid(), 9)"])["failed"]
    started = time.perf_counter()
    assert "not done after 1 s" in script.last_line([*python, "import time; time.sleep(60)"], 1)["failed"]
    assert time.perf_counter() - started < 20
