"""Two processes do what one does: the same samples, loss and gradient; and what happens when one of them dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from helpers_runs import command, lines, manifest, metrics, weights, write_module
from helpers_slow import slow
from safetensors.torch import load_file
from test_resume import stop_at

from grpo import cli, commands, distributed

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "model.path": "tiny",
    "data.source": "demo",
    "data.count": 200,
    "seed": 7,  # no number of it lies within 1e-4 of where another token begins: rounding changes no sample
    "grpo.steps": 4,
    "grpo.prompts_per_step": 5,
    "sampling.max_new_tokens": 60,
    "sampling.max_rows": 8,
    "tokens_per_micro_batch": 300,
    "rewards.accuracy.weight": 1,
    "rewards.format.weight": 0.2,
    "optim.eps": 1e-4,  # with Adam's usual 1e-8, rounding of a gradient near 0 would turn a whole step around
    "threads": 1,
}


def arguments(stage: str, run: Path, **settings: object) -> list[str]:
    return command(stage, run, *(f"{k}={v}" for k, v in {**SETTINGS, **settings}.items()))


def start(words: list[str], *modules: Path, program: Sequence[str] = ("-m", "grpo")) -> subprocess.Popen:
    """torchrun with two processes; modules: folders with modules of the user's."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *program]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *modules)))}
    return subprocess.Popen(
        [*run, *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(process: subprocess.Popen, seconds: float = 150) -> tuple[int, str]:
    text = process.communicate(timeout=seconds)[0]
    return process.returncode, text


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run of one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    assert cli.main(arguments("grpo", run)) == 0
    return run


def assert_same(run: Path, alone: Path) -> None:
    for ours, theirs in zip(*(lines(folder / "completions.jsonl") for folder in (run, alone)), strict=True):
        for row in (ours, theirs):
            row |= row.pop("tokens", {})
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            is_number = isinstance(value, float) or (isinstance(value, list) and isinstance(value[0], float))
            assert ours[name] == (pytest.approx(value, abs=1e-4, rel=1.1e-2) if is_number else value), name
    for ours, theirs in zip(metrics(run), metrics(alone), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, abs=1e-5, rel=1e-4), name
    expected = weights(alone)
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("parallel", [slow("ddp"), "fsdp"])
def test_two_processes_do_what_one_does(tmp_path, alone, parallel):
    code, text = ended(start(arguments("grpo", tmp_path / "run", parallel=parallel)))
    assert code == 0, text
    assert_same(tmp_path / "run", alone)
    assert text.count("complete; the model is in") == 1  # one process speaks
    assert manifest(tmp_path / "run")["finished"]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_fine_tuning_on_rejection_samples_with_two(tmp_path, parallel):
    own = {"reject.samples": 3, "reject.reflection": "any", "data.count": 12, "eval.at_end": "true", "seed": 0}
    own["sampling.max_new_tokens"] = 100
    assert cli.main(arguments("reject", tmp_path / "one", **own)) == 0
    code, text = ended(start(arguments("reject", tmp_path / "two", **own, parallel=parallel)))
    assert code == 0, text
    for name in ("samples.jsonl", "rejection.json", "eval.json"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()
    assert_same(tmp_path / "two", tmp_path / "one")


def kill_one(run: Path, process: subprocess.Popen, number: int) -> None:
    """Kill -9 for the rank `number`, once there is a checkpoint."""
    deadline = time.monotonic() + 100
    while not list(run.glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[number]), signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in /proc")
@pytest.mark.parametrize("parallel, number", [slow("ddp", 0), slow("fsdp", 1)])
def test_a_killed_process_ends_the_run_which_goes_on_with_one(tmp_path, alone, parallel, number):
    run = tmp_path / "run"
    process = start(arguments("grpo", run, parallel=parallel))
    kill_one(run, process, number)
    killed = time.monotonic()
    code, text = ended(process, seconds=60)
    assert code and time.monotonic() - killed < 60
    assert "another process of the run has ended or does not answer" in text, text
    assert cli.main(["export", str(run), str(tmp_path / "model")]) == 0  # of slices, too
    assert weights(tmp_path).keys() == weights(alone).keys()
    assert cli.main(arguments("grpo", run)) == 0
    assert_same(run, alone)


@pytest.mark.slow
def test_a_signal_stops_both_after_the_same_step_with_all_of_it_saved(tmp_path, alone):
    run = tmp_path / "run"
    process = start(arguments("grpo", run, **{"log.save_every": 100}))
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").stat().st_size:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    code, text = ended(process, seconds=60)
    assert code and "all of it saved; run the same command to continue" in text, text
    assert len(list(run.glob("checkpoints/step-*"))) == 1
    assert cli.main(arguments("grpo", run)) == 0
    assert_same(run, alone)


@pytest.mark.slow
def test_a_reward_that_fails_in_one_process_ends_both_with_its_name(tmp_path, monkeypatch):
    body = (
        "def bad(completions, question, **columns):\n    if any('7' in q for q in question): raise KeyError('seven')\n"
    )
    name = write_module(tmp_path, monkeypatch, body + "    return [float(len(text)) for text in completions]\n")
    own = {f"rewards.{name}:bad.weight": 1, "sandbox.enabled": "false"}
    code, text = ended(start(arguments("grpo", tmp_path / "run", **own), tmp_path))
    assert code and f"grpo: reward '{name}:bad' raised KeyError('seven')" in text, text


EVALUATED = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from grpo import cli, commands
from grpo.distributed import rank

def note(config, policy, *_):
    policy.by_layer = False
    with policy.ready_to_sample():
        parameters = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    assert all(torch.equal(p, parameters[name]) and p.dtype == parameters[name].dtype for name, p in policy.values())
    save_file(parameters, Path(sys.argv[1]) / f"evaluated-{rank()}.safetensors")
    return {}

commands.evaluate = note
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_a_bf16_run_goes_on_in_two_and_both_evaluate_the_policy_whose_fp32_weights_are_saved(tmp_path, monkeypatch):
    own = {"model.dtype": "bfloat16", "sft.steps": 4, "eval.at_end": "true", "log.save_every": 1}
    monkeypatch.setattr(commands, "evaluate", lambda *_: {})
    assert cli.main(arguments("sft", tmp_path / "alone", **own)) == 0
    patch = stop_at(1)
    assert cli.main(arguments("sft", tmp_path / "run", **own)) == 130
    patch.undo()
    (tmp_path / "evaluated.py").write_text(EVALUATED)
    words = [str(tmp_path), *arguments("sft", tmp_path / "run", **own, parallel="fsdp")]
    code, text = ended(start(words, program=[str(tmp_path / "evaluated.py")]))
    assert code == 0 and "continues from its last checkpoint" in text, text
    assert_same(tmp_path / "run", tmp_path / "alone")
    saved = weights(tmp_path / "run")
    assert {x.dtype for x in saved.values()} == {torch.float32}
    for number in range(2):
        evaluated = load_file(tmp_path / f"evaluated-{number}.safetensors")
        assert {x.dtype for x in evaluated.values()} == {torch.float32, torch.bfloat16}
        assert evaluated.keys() == saved.keys()
        assert all(torch.equal(x, saved[name].to(x.dtype)) for name, x in evaluated.items())


ENDING = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core, and a main thread that does not give way:
sys.setswitchinterval(10)  # what gloo's threads still hold when it ends, they hold for good
from grpo.distributed import all_gather, process_group
from grpo.model.policy import ModelConfig, load_policy
with process_group("cpu"):
    policy = load_policy(ModelConfig("tiny-init"), 0, training=True)
    policy.start_training("fsdp")
    with policy.ready_to_sample():
        all_gather(0)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot choose the core")
def test_both_end_without_a_crash(tmp_path):
    """Of runs without a pause at the end, about half ended in "terminate called without an active exception"."""
    (tmp_path / "ending.py").write_text(ENDING)
    for _ in range(2):
        code, text = ended(start([], program=[str(tmp_path / "ending.py")]))
        assert code == 0, text


# ---- slices and shards --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(7))
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_slices_cover_everything_once(monkeypatch, count, processes):
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    slices, counted, lengths = [], [], set()
    for number in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        slices += range(count)[distributed.rank_slice(count)]
        if count:
            turns = distributed.round_robin(list(range(count)))
            counted += [item for item, counts in turns if counts]
            lengths.add(len(turns))
    assert slices == list(range(count))
    assert sorted(counted) == list(range(count)) and len(lengths) <= 1


SHARDED = """
import torch
from grpo.logprobs import completion_logps
from grpo.distributed import process_group
from grpo.model.sharding import is_shard
from grpo.model.optim import OptimConfig, Optimizer
from grpo.model.policy import ModelConfig, load_policy
from grpo.sampling import sample_groups
from grpo.types import SamplingConfig

with process_group("cpu"):
    policy = load_policy(ModelConfig("tiny", recompute=RECOMPUTE), 0, training=True)
    policy.freeze_reference()
    policy.start_training("fsdp")
    optimizer = Optimizer(policy.trainable(), OptimConfig(), 1)
    layers = policy.model.model.layers
    seen = []  # of each layer, after its forward pass: are its weights shards again?
    for layer in layers:
        layer.register_forward_hook(lambda m, i, o: seen.append(all(is_shard(p) for p in m.parameters())))
    for policy.by_layer in (False, True):
        with policy.ready_to_sample():
            seen.clear()
            rollouts = sample_groups(policy, [[5, 6, 7]], ["p"], 2, SamplingConfig(max_new_tokens=3), 0)
            assert {policy.by_layer} == set(seen) == {is_shard(p) for p in layers.parameters()}
        assert all(is_shard(p) for p in policy.parameters())
    with policy.reference() as reference, torch.no_grad():
        completion_logps(reference, rollouts, 1.0)
        assert all(is_shard(p) for p in reference.model.model.layers.parameters())
    assert all(is_shard(p) for p in reference.parameters())
    seen.clear()
    for _ in range(2):
        completion_logps(policy, rollouts, 1.0)[0].sum().backward()
        assert all(is_shard(p) for p in policy.model.parameters())
        assert all(is_shard(p.grad) and p.grad.to_local().numel() < p.numel() for p in layers.parameters())
    optimizer.reduce_gradients()
    optimizer.step(0)
    states = optimizer.adamw.state.values()
    assert all(is_shard(s["exp_avg"]) for s in states)
    assert len(seen) == 2 * len(layers) and all(seen), seen
    print("sharded", flush=True)
"""


@pytest.mark.parametrize("recompute", ["none", slow("full")])
def test_weights_gradients_and_optimiser_are_shards_during_the_update(tmp_path, recompute):
    (tmp_path / "sharded.py").write_text(SHARDED.replace("RECOMPUTE", repr(recompute)))
    code, text = ended(start([], program=[str(tmp_path / "sharded.py")]))
    assert code == 0 and text.count("sharded") == 2, text


def test_the_group_reduces_tensors_of_both_kinds(monkeypatch):
    """On a GPU metrics are summed on the processor and gradients on the card: NCCL alone cannot do the former."""
    made = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(distributed, "find_device", torch.device)
    monkeypatch.setattr(distributed.torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(distributed.torch.cuda, "set_device", lambda number: None)
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend, **_: made.update(backend=backend))
    monkeypatch.setattr(distributed.dist, "barrier", lambda: None)
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)
    with distributed.process_group("cuda"):
        pass
    kinds = dict(part.split(":") for part in made["backend"].split(","))
    assert kinds == {"cpu": "gloo", "cuda": "nccl"}
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match="process 1 of this machine has no GPU, there are 1: start 1 processes"):
        distributed.process_group("cuda").__enter__()
