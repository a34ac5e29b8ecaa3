"""The compiled kernels: made once where there is a compiler, and done without where there is none."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import torch

from grpo import kernels
from grpo.attention import Layout, attend, padded
from grpo.decoding import Grid, Slots
from grpo.logprobs import completion_logps
from grpo.prefix import start_decoding
from grpo.products import X86
from grpo.sampling import SamplingConfig, sample_groups

COMPILER = shutil.which(shlex.split(os.environ.get("CC", "cc"))[0])
compiled = pytest.mark.skipif(kernels.load() is None, reason="no compiler here")


def forget() -> None:
    for function in vars(kernels).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty cache folder; what was loaded before is loaded anew afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GRPO_KERNELS", raising=False)
    forget()
    yield tmp_path / "cache" / "grpo"
    forget()


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


OUTPUT = '"$(echo "$*" | sed "s/.*-o //;s/ .*//")"'
"""In such a script: the file that is to be written."""


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*")) if folder.exists() else []


def attention():
    layout = Layout(torch.tensor([5]), torch.tensor([7, 3]), torch.tensor([0, 0]))
    return [*torch.randn(3, 15, 2, 16, generator=torch.Generator().manual_seed(0)), layout]


# ---- with a compiler -----------------------------------------------------------------------------------------


@compiled
def test_the_library_is_compiled_once_and_kept(folder, monkeypatch):
    assert kernels.load() is kernels.load() is not None
    before = files(folder)
    assert before and all(file.suffix == ".so" for file in before)  # nothing of the compilation is left behind
    times = [file.stat().st_mtime_ns for file in before]
    forget()
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("compiled again"))
    assert kernels.load() is not None
    assert files(folder) == before and [file.stat().st_mtime_ns for file in before] == times


@compiled
def test_another_source_is_another_library(folder, tmp_path, monkeypatch):
    assert not hasattr(kernels.load(), "of_today")
    before = files(folder)
    sources = tuple(Path(shutil.copy(source, tmp_path)) for source in kernels.SOURCES)
    sources[-1].write_text(sources[-1].read_text() + "\n__attribute__((weak)) int of_today(void) { return 7; }\n")
    monkeypatch.setattr(kernels, "SOURCES", sources)
    forget()
    assert kernels.load().of_today() == 7  # in a header, too
    assert set(before) < set(files(folder))


@compiled
def test_a_compiler_may_be_several_words(tmp_path, monkeypatch):
    wrapper = script(tmp_path / "wrapper", 'exec "$@"')
    monkeypatch.setenv("CC", f"{wrapper} {COMPILER} -DNOTHING")
    assert kernels.load() is not None


@compiled
@pytest.mark.skipif(not X86, reason="another kind of processor")
def test_shorter_vectors_compute_the_same_and_a_token_alone_has_the_same_bits(monkeypatch):
    expected = attend(*attention())
    monkeypatch.setenv("CC", f"{COMPILER} -mno-avx512f")
    forget()
    assert kernels.vector() == 8
    *tokens, layout = attention()
    whole = attend(*tokens, layout)
    torch.testing.assert_close(whole, expected, atol=1e-6, rtol=1e-5)
    alone = attend(*(x[:6] for x in tokens), Layout(torch.tensor([5]), torch.tensor([1]), torch.tensor([0])))
    assert alone.equal(whole[:6])


@compiled
def test_a_compiler_without_openmp_computes_the_same(tmp_path, monkeypatch):
    expected = attend(*attention())
    body = f'case "$*" in *-fopenmp*) exit 1;; esac\necho used >> {tmp_path}/log\nexec {COMPILER} "$@"'
    monkeypatch.setenv("CC", script(tmp_path / "plain-cc", body))
    forget()
    assert attend(*attention()).equal(expected)
    assert (tmp_path / "log").exists()


# ---- without -------------------------------------------------------------------------------------------------


def test_they_can_be_switched_off(folder, monkeypatch):
    monkeypatch.setenv("GRPO_KERNELS", "0")
    assert kernels.load() is None and not kernels.take(attention()[0])
    assert not files(folder)


@pytest.mark.parametrize("way", ["CC", "PATH"])
def test_without_a_compiler_there_are_none(way, folder, monkeypatch):
    if way == "PATH":
        monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv(way, "/no/such/place")
    assert kernels.load() is None
    assert not files(folder)


@pytest.mark.parametrize("failure", ["exit 1", "kill -9 $$"])
def test_a_compiler_that_fails_leaves_nothing_half_written(failure, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", script(tmp_path / "bad-cc", f"echo half > {OUTPUT}\n{failure}"))
    assert kernels.load() is None
    assert not files(folder)
    assert attend(*attention()).equal(padded(*attention()))


def test_a_compiler_that_writes_nonsense_is_done_without(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", script(tmp_path / "odd-cc", f"echo nonsense > {OUTPUT}"))
    assert kernels.load() is None
    assert not [file for file in files(folder) if file.is_dir()]


def test_a_compiler_that_never_ends_is_not_waited_for(folder, tmp_path, monkeypatch):
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: run(*a, **{**k, "timeout": min(k["timeout"], 0.2)}))
    monkeypatch.setenv("CC", script(tmp_path / "slow-cc", "exec sleep 30"))
    assert kernels.load() is None
    assert not files(folder)


def test_a_cache_folder_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kernels.load() is None


# ---- the policy either way -----------------------------------------------------------------------------------


@compiled
def test_the_policy_computes_the_same_without_them(make_policy, make_rollouts, monkeypatch):
    policy, rollouts = make_policy(), make_rollouts([4, 1, 9], [5, 2, 1, 7, 3, 6], group_size=2)
    results = []
    for way, memory in (("1", Slots), ("0", Grid)):
        monkeypatch.setenv("GRPO_KERNELS", way)
        forget()
        assert type(start_decoding(policy, [[5, 7]], 2, 3).memory) is memory
        logps = completion_logps(policy, rollouts, 1.0)[0]
        config = SamplingConfig(max_new_tokens=12)
        sampled = sample_groups(policy, [[5, 7, 3], [9], [4, 4, 8, 2]], list("abc"), 4, config, seed=0)
        policy.model.zero_grad()
        logps.sum().backward()
        grads = [p.grad for p in policy.model.parameters()]
        results.append([logps.detach(), sampled.completion_ids, sampled.sampler_logps, *grads])
    torch.testing.assert_close(results[0][:3], results[1][:3], atol=1e-5, rtol=0)
    torch.testing.assert_close(results[0][3:], results[1][3:], atol=1e-4, rtol=1e-4)
