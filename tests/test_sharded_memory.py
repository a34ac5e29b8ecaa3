"""With shards no process holds a whole model: while it is loaded, compared, sharded, evaluated and saved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from data.embedded.tiny_model import build_tokenizer

ROOT = Path(__file__).resolve().parents[1]
MEASURED = """
import json, sys, threading, time
from dataclasses import replace
from pathlib import Path
import torch
from data import DataConfig
from grpo.distributed import all_gather, process_group, rank
from grpo.evaluation import evaluate
from grpo.model.policy import ModelConfig, load_policy
from grpo.runs.config import Config, EvalConfig
from grpo.runs.folder import fingerprint
from grpo.types import SamplingConfig

def held():  # MB of this process's memory, without files that are mapped into it
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1e3

def peak(work):
    most, done = [held()], threading.Event()
    def watch():
        while not done.wait(0.001):
            most[0] = max(most[0], held())
    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return most[0] - before

def load():
    global policy
    policy = load_policy(model, training=True, parallel="fsdp")
    digests.append(fingerprint(policy))

def shard():
    policy.freeze_reference()
    policy.start_training("fsdp", config.by_layer("sft"))

def evaluation():
    evaluate(config, policy)

def evaluation_of_a_model():
    evaluate(config, load_policy(model, parallel="fsdp", by_layer=config.by_layer("eval")))

def gathered():
    policy.by_layer = False
    evaluate(config, policy)

torch.set_num_threads(1)
digests, model = [], ModelConfig(sys.argv[1], dtype="bfloat16")
held_out = EvalConfig(data=DataConfig(count=3), samples=1, pass_at=(1,))
config = Config(eval=held_out, parallel="fsdp", sampling=SamplingConfig(max_new_tokens=2))
config = replace(config, sandbox=replace(config.sandbox, enabled=False))
with process_group("cpu"):
    evaluate(config, load_policy(ModelConfig("tiny-init"), parallel="fsdp"))  # what libraries take for themselves
    before = held()
    figures = {"load": peak(load), "shard": peak(shard), "between": held() - before}
    figures |= {"save": peak(lambda: policy.save(Path(sys.argv[2]))), "evaluation": peak(evaluation)}
    figures |= {"gathered": peak(gathered), "another": peak(evaluation_of_a_model)}
    every = all_gather(figures)
    if rank() == 0:
        most = {key: max(one[key] for one in every) for key in figures}
        print(json.dumps(most | {"parameters": sum(p.numel() for p in policy.parameters()), "digest": digests[0]}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory in /proc")
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_process_holds_a_whole_model(tmp_path, dtype):
    config = LlamaConfig(
        vocab_size=2048, hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8,
        bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    name, folder = str(tmp_path / "m"), tmp_path / "m"
    if dtype == torch.bfloat16:  # as one that was downloaded before
        name, folder = "some/one", tmp_path / "models--some--one" / "snapshots" / ("a" * 40)
        (tmp_path / "models--some--one" / "refs").mkdir(parents=True)
        (tmp_path / "models--some--one" / "refs" / "main").write_text("a" * 40)
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    (tmp_path / "measured.py").write_text(MEASURED)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    # glibc would keep freed blocks of these sizes for itself
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "100000"}
    own |= {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [*run, str(tmp_path / "measured.py"), name, str(tmp_path / "out")]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    whole = figures["parameters"] * 4 / 1e6  # MB in fp32
    assert figures["load"] < 0.3 * whole, figures
    assert 0.9 * whole < figures["between"] < 1.1 * whole  # half of the policy and half of its reference
    assert figures["shard"] < 1.2 * whole and figures["save"] < 1.2 * whole, figures
    beyond = {name: (figures[name] - figures["between"]) / whole for name in ("evaluation", "another", "gathered")}
    assert beyond["evaluation"] < 0.3 < 0.45 < beyond["gathered"], beyond  # a layer and buffers; all layers, in bf16
    assert beyond["another"] < 0.5 + 0.3, beyond  # half of one more model besides
    saved, there = load_file(tmp_path / "out" / "model.safetensors"), load_file(folder / "model.safetensors")
    assert saved.keys() == there.keys()
    assert all(torch.equal(x, there[name].float()) and x.dtype == torch.float32 for name, x in saved.items())
