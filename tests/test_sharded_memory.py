"""With shards no process holds a whole model: while it is loaded, compared, sharded and saved, reference included."""

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
from pathlib import Path
import torch
from grpo.distributed import all_gather, process_group, rank
from grpo.model.policy import ModelConfig, load_policy
from grpo.runs.folder import fingerprint

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
    policy = load_policy(ModelConfig(sys.argv[1], dtype="bfloat16"), training=True, parallel="fsdp")
    digests.append(fingerprint(policy))

def shard():
    policy.freeze_reference()
    policy.start_training("fsdp")

torch.set_num_threads(1)
digests = []
with process_group("cpu"):
    load_policy(ModelConfig("tiny-init"))  # what libraries take for themselves is taken
    before = held()
    figures = {"load": peak(load), "shard": peak(shard), "between": held() - before}
    figures["save"] = peak(lambda: policy.save(Path(sys.argv[2])))
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
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "1000000"}
    own |= {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [*run, str(tmp_path / "measured.py"), name, str(tmp_path / "out")]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    whole = figures["parameters"] * 4 / 1e6  # MB in fp32
    assert figures["load"] < 0.3 * whole, figures
    assert 0.9 * whole < figures["between"] < 1.1 * whole  # half of the policy and half of its reference
    assert figures["shard"] < 1.2 * whole and figures["save"] < 1.2 * whole, figures
    saved, there = load_file(tmp_path / "out" / "model.safetensors"), load_file(folder / "model.safetensors")
    assert saved.keys() == there.keys()
    assert all(torch.equal(x, there[name].float()) and x.dtype == torch.float32 for name, x in saved.items())
