"""The soak: it runs the demo's stages, and finds what grows."""

from __future__ import annotations

import os
import subprocess

import pytest
import soak


def rounds(**grows: list[float]) -> list[soak.Held]:
    same = {"minutes": [0] * 10, "memory_mb": [100] * 10, "files": [6] * 10, "threads": [2] * 10, "children": [0] * 10}
    return [soak.Held(*values) for values in zip(*(same | grows).values(), strict=True)]


@pytest.mark.parametrize(
    "grows, found",
    [
        ({}, []),
        ({"memory_mb": [50] + [100] * 9}, []),  # the first round fills caches
        ({"memory_mb": [100, 100, 103, 100, 99, 100, 100, 101, 140, 100]}, []),
        ({"memory_mb": [100 + number for number in range(10)]}, ["memory by 5.9%"]),
        ({"files": [6, *range(6, 15)]}, ["files from 7 to 13"]),
        ({"threads": [2] * 7 + [3] * 3}, ["threads from 2 to 3"]),
        ({"children": [0] * 8 + [1] * 2}, ["children from 0 to 1"]),
    ],
)
def test_what_grows_is_found(grows, found):
    assert soak.grown(rounds(**grows)) == found


def test_what_a_process_holds_is_counted():
    before = soak.held(0.0)
    with open(os.devnull), open(os.devnull):
        child = subprocess.Popen(["sleep", "100"])
        during = soak.held(0.0)
        child.kill()
        child.wait()
    assert during.files >= before.files + 2 and during.children == before.children + 1
    assert soak.held(0.0).children == before.children and before.memory_mb > 100


@pytest.mark.slow
def test_a_short_soak_runs_all_stages(capsys):
    few = "sft.steps=1 grpo.steps=1 data.count=40 grpo.prompts_per_step=8 sampling.max_new_tokens=40 eval.at_end=false"
    assert soak.main(["--minutes", "0", *few.split()]) in (0, 1)  # so few rounds may well grow
    said = capsys.readouterr()
    assert said.out.count("\n| ") == 4 - 1 and said.err.count("5-final: complete") == 3
