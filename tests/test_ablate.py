"""Ablations: every arm and seed runs once, a kill loses nothing, and table, JSON and figure say what pairs show."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from experiments import ablate
from experiments.lab import figure, results, runner
from experiments.lab.plan import nodes_of, only, read_plan
from experiments.waits import waits
from grpo.results.statistics import Difference, crossed

REPO = Path(__file__).parent.parent
COMMON = str(REPO / "experiments/demo/common.yaml")
QUICK = {
    "sft": {"steps": 1, "batch_size": 2}, "data": {"count": 8}, "model": {"path": "tiny"},
    "sandbox": {"enabled": False},
    "eval": {"data": {"count": 6}, "samples": 2, "pass_at": [1], "every": 1}, "sampling": {"max_new_tokens": 40},
}  # fmt: skip
GRPO = {"steps": 2, "prompts_per_step": 2, "group_size": 3, "drop_zero_spread": False, "max_refills": 0}


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """Two arms of SFT and GRPO, two steps; one has a weight of the user's, in the folder that one runs from."""
    (tmp_path / "warm.yaml").write_text(yaml.safe_dump({"include": COMMON, **QUICK}))
    (tmp_path / "my_grpo.yaml").write_text(yaml.safe_dump({"include": COMMON, **QUICK, "grpo": GRPO}))
    (tmp_path / "halves.py").write_text("def half(tokens):\n    return tokens.mask * 0.5\n")
    text = {
        "about": "Two arms.",
        "stages": {
            "warm": {"file": str(tmp_path / "warm.yaml"), "command": "sft"},
            "grpo": str(tmp_path / "my_grpo.yaml"),
        },
        "settings": {"grpo": ["optim.lr=1e-3"]},
        "variants": {"plain": [], "halved": {"grpo": ['loss.weight=["halves:half"]']}},
        "target": 0.1,
    }
    file = tmp_path / "two arms.yaml"
    file.write_text(yaml.safe_dump(text, sort_keys=False))
    return file


def arguments(plan: Path, *more: str) -> list[str]:
    folder = plan.parent
    return [str(plan), "--seeds", "3", "4", "--runs", str(folder / "runs"), "--out", str(folder / "out"), *more]


@pytest.mark.slow
def test_two_arms_two_seeds_killed_and_continued(plan: Path) -> None:
    """The whole: killed in the middle, continued, with the same results as one that was never stopped."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "experiments.ablate", *arguments(plan)]
    options = {"env": environment, "cwd": plan.parent, "start_new_session": True, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen(command, **options)
    folder, deadline = plan.parent / "runs" / "two arms", time.monotonic() + 200
    while not list(folder.glob("seed3/grpo-*/curve.jsonl")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    begun = {path: path.stat().st_mtime_ns for path in folder.glob("*/warm-*/eval.json")}
    assert begun and not (plan.parent / "out").exists()
    done = subprocess.run(command, env=environment, cwd=plan.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in begun} == begun  # what was complete is not done again
    assert sorted(p.name.split("-")[0] for p in (folder / "seed3").iterdir()) == ["grpo", "grpo", "warm"]  # shared
    out = plan.parent / "out" / "two arms"
    found = json.loads((out / "results.json").read_text())
    check_json(found, folder)
    check_page((out / "results.md").read_text(), found)
    svg = (out / "figure.svg").read_bytes()
    text = "".join(ElementTree.fromstring(svg).itertext())
    assert all(word in text for word in ("plain", "halved", "held-out accuracy", "accuracy - plain"))
    assert figure.draw(in_folder(plan), found, plan.parent / "again.svg")
    assert (plan.parent / "again.svg").read_bytes() == svg and b"<dc:date>" not in svg
    pasted = [line for line in done.stdout.splitlines() if line.startswith("[halved, seed")]
    words = shlex.split(next(line.partition("] ")[2] for line in pasted if "-m grpo grpo" in line))
    assert 'loss.weight=["halves:half"]' in words and words[:4] == ["python", "-m", "grpo", "grpo"]
    subprocess.run(command, env=environment, cwd=plan.parent, check=True, capture_output=True)
    assert json.loads((out / "results.json").read_text()) == found and (out / "figure.svg").read_bytes() == svg


def in_folder(plan: Path):
    """The plan, read where its modules are found."""
    sys.path.insert(0, str(plan.parent))
    try:
        return read_plan(plan)
    finally:
        sys.path.remove(str(plan.parent))


def check_json(found: dict, folder: Path) -> None:
    """The figures are those of the run folders."""
    assert found["seeds"] == [3, 4] and found["baseline"] == "plain" and set(found["differences"]) == {"halved"}
    for kind in ("sampled", "greedy"):
        a, b = (np.array(found["right"][name][kind]) for name in ("halved", "plain"))
        assert a.shape == (2, 6)
        d, expected = found["differences"]["halved"][kind], crossed(a, b)
        assert [d["mean"], d["low"], d["high"]] == pytest.approx([expected.mean, expected.low, expected.high], abs=1e-3)
    for name in ("plain", "halved"):
        evaluations = found["variants"][name]["grpo"]
        assert [e["sampled"]["accuracy"] for e in evaluations] == pytest.approx(
            [sum(each) / 6 for each in found["right"][name]["sampled"]], abs=1e-4
        )
        assert [[row["step"] for row in rows] for rows in found["curves"][name]] == [[0, 1, 2]] * 2
        assert [rows[-1]["completions"] for rows in found["curves"][name]] == [12, 12]
        for seed, training in zip((3, 4), found["training"][name], strict=True):
            assert training["step"] == [1, 2] and len(training["reward_accuracy"]) == 2
            steps = [json.loads(line) for line in (folder_of(folder, seed, name) / "metrics.jsonl").open()]
            assert training["reward"] == pytest.approx([step["reward"] for step in steps], rel=1e-3)
        assert len(found["signs"][name]) == 2
        for stage in ("warm", "grpo"):
            costs = found["costs"][name][stage]
            assert [one["saved"] for one in costs] == [193_920] * 2 and all(one["seconds"] > 0 for one in costs)
    assert found["curves"]["plain"][0][0] == found["curves"]["halved"][0][0]  # both begin at one SFT model
    manifests = [json.loads(path.read_text()) for path in folder.glob("seed*/*/manifest.json")]
    seconds = [
        (datetime.fromisoformat(one["finished"]) - datetime.fromisoformat(one["started"])).total_seconds()
        for one in manifests
    ]
    assert len(seconds) == 6 and found["hours"] == pytest.approx(sum(seconds) / 3600, abs=0.01)
    assert {"torch", "transformers"} <= found["versions"].keys() and found["processor"] and "commit" in found


def test_of_each_warning_the_first_step_is_kept(tmp_path):
    rows = [{"step": 3, "kind": "kl"}, {"step": 8, "kind": "truncated"}, {"step": 13, "kind": "kl"}]
    (tmp_path / "warnings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    node = SimpleNamespace(training=tmp_path)
    assert results.first_signs(node) == {"kl": 3, "truncated": 8}
    assert results.first_signs(SimpleNamespace(training=tmp_path / "none")) == {}


def test_the_cost_of_a_stage_is_what_it_saved_and_its_median_step(tmp_path):
    (tmp_path / "model").mkdir()
    weights = {"A": torch.zeros(4, 6), "B": torch.zeros(3)}
    save_file(weights, tmp_path / "model/adapter_model.safetensors")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": 1, "seconds": s}) + "\n" for s in (9, 1, 2)))
    node = SimpleNamespace(folder=tmp_path, training=tmp_path)
    assert results.cost(node) == {"saved": 27, "seconds": 2.0}
    nothing = SimpleNamespace(folder=tmp_path / "none", training=tmp_path / "none")
    assert results.cost(nothing) == {"saved": None, "seconds": None}


def test_no_two_arms_of_sixteen_look_the_same():
    assert len({figure.style(number) for number in range(16)}) == 16


def test_the_reward_for_a_word_pays_by_the_papers_formula_right_or_wrong():
    assert waits(["Wait, 6 + 19 = 25.", "<think>WAIT. wait.</think>", "awaiting 25"]) == [0.21, 0.3, 0.0]


def folder_of(folder: Path, seed: int, name: str) -> Path:
    """The GRPO run of a variant."""
    halved = {path: "halves" in (path / "config.yaml").read_text() for path in folder.glob(f"seed{seed}/grpo-*")}
    return next(path for path, is_halved in halved.items() if is_halved == (name == "halved"))


def check_page(page: str, found: dict) -> None:
    d = found["differences"]["halved"]["sampled"]
    assert (
        f"halved - plain, sampled: {d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}] (2 seeds, 6 problems)" in page
    )
    assert found["command"] in page and found["processor"] in page
    assert page.count("| plain | ") == page.count("| halved | ") == 3 and "## Completions until 0.1" in page


def test_runs_are_named_by_their_settings_and_code(plan: Path, monkeypatch) -> None:
    there = in_folder(plan)
    before = {node.folder for chain in nodes_of(there, Path("r"), [0]).values() for node in chain}
    assert len(before) == 3
    monkeypatch.setattr("experiments.lab.plan.code_hash", lambda config: {"grpo": "changed"})
    after = {node.folder for chain in nodes_of(there, Path("r"), [0]).values() for node in chain}
    assert not before & after  # with another loss or trainer, say, nothing of before is used


def test_some_arms_alone_run_as_the_whole_plan_would_run_them(plan: Path) -> None:
    whole, some = in_folder(plan), only(in_folder(plan), ["halved"])
    assert list(some.variants) == ["halved"] and some.baseline == "halved"
    assert only(whole, ["halved", "plain"]).baseline == "plain"
    folders = [[node.folder for node in nodes_of(p, plan.parent, [1])["halved", 1]] for p in (whole, some)]
    assert folders[0] == folders[1]
    with pytest.raises(ValueError, match="--arms: no variant is called 'half'; there are plain, halved"):
        only(whole, ["plain", "half"])


def test_a_stage_by_another_name_runs_as_its_file_says(tmp_path: Path) -> None:
    grpo = REPO / "experiments/demo/grpo.yaml"
    file = tmp_path / "plan.yaml"
    file.write_text(f"stages: {{sft: {grpo}}}\nvariants: {{a: []}}")
    assert read_plan(file).stages[0].command == "grpo"


def test_each_stage_starts_from_the_run_before_it(plan: Path) -> None:
    chain = nodes_of(in_folder(plan), Path("r"), [7])["halved", 7]
    assert [node.stage.command for node in chain] == ["sft", "grpo"]
    assert f"model.path={chain[0].folder}" in chain[1].command and chain[1].parent == chain[0].folder
    assert not any("model.path" in word for word in chain[0].command) and chain[0].steps == 1


# ---- words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            Difference(0.1, 0.05, 0.15, 256, 3),
            r"\+0.100 \[\+0.050, \+0.150\] \(3 seeds, 256 problems\). 0 is outside.*more",
        ),
        (Difference(-0.1, -0.15, -0.05, 256, 3), "0 is outside the interval: a is less often right"),
        (Difference(0.01, -0.1, 0.12, 256, 3, 9), "no difference is shown. About 9 more seeds would settle it"),
        (Difference(0.01, -0.1, 0.12, 256, 3, None), "no difference is shown. No number of seeds would settle"),
        (Difference(0.1, 0.05, 0.15, 256, 1), "one seed, 256 problems.*run at least three"),
    ],
)
def test_differences_in_words(found: Difference, said: str) -> None:
    assert re.search(said, results.in_words("a", "b", "sampled", found))


def test_completions_until_the_target() -> None:
    points = [{"accuracy": a, "completions": c} for a, c in ((0.4, 0), (0.6, 100), (0.5, 200), (0.9, 300))]
    assert results.needed(points, 0.5) == 50 and results.needed(points, 0.4) == 0 and results.needed(points, 0.6) == 100
    assert results.needed(points, 0.7) == 250 and results.needed(points, 0.95) is None
    assert results.needed(points, 0.0) is None and results.needed([], 0.5) is None


def test_spread_is_mean_lowest_highest() -> None:
    assert results.spread([0.5, 0.25, None, 0.75]) == "0.500 [0.250, 0.750]"
    assert results.spread([1.0, 2.0]) == "1.50 [1.00, 2.00]" and results.spread([None]) == "-"


def test_without_held_out_curves_the_figure_shows_the_training(plan: Path) -> None:
    """The accuracy of the samples where there is one, and the loss of SFT else."""
    found = {"seeds": [0], "curves": {"plain": [[]], "halved": [[]]}, "differences": {}}
    for figure_, said in (("reward_accuracy", "accuracy of the samples trained on"), ("loss", "training loss")):
        run = {"step": [1, 2], figure_: [0.5, 0.25]}
        drawn = plan.parent / f"{figure_}.svg"
        if not figure.draw(in_folder(plan), {**found, "training": {"plain": [run], "halved": [run]}}, drawn):
            pytest.skip("matplotlib is not installed")
        text = "".join(ElementTree.fromstring(drawn.read_bytes()).itertext())
        assert said in text and "halved" in text


def test_a_figure_of_the_training_has_a_panel_for_each_metric_that_is_watched(plan: Path) -> None:
    watched = replace(in_folder(plan), watch=("kl", "length", "nothing"))
    run = {"step": [1, 2], "kl": [0.0, 0.5], "length": [40.0, None]}
    found = {"training": {"plain": [run], "halved": [run]}}
    assert not figure.draw_training(in_folder(plan), found, plan.parent / "none.svg")
    if not figure.draw_training(watched, found, plan.parent / "watched.svg"):
        pytest.skip("matplotlib is not installed")
    text = "".join(ElementTree.fromstring((plan.parent / "watched.svg").read_bytes()).itertext())
    assert all(word in text for word in ("kl", "length", "nothing", "plain", "halved"))


def test_json_has_a_line_per_list() -> None:
    found = {"a": [[1.5, 2.0], [None]], "b": {"c": ["x", "y"]}, "d": []}
    text = results.to_json(found)
    assert json.loads(text) == found and "[ 1.5, 2.0 ]" in text and '"c": [ "x", "y" ]' in text


def test_arms_with_other_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="evaluated on different problems"):
        results.difference([{"a": 1.0, "b": 0.0}], [{"a": 1.0, "c": 0.0}])


def test_the_progress_table_says_how_far_each_run_is(plan: Path) -> None:
    node = nodes_of(in_folder(plan), plan.parent / "r", [7])["halved", 7][1]
    node.folder.mkdir(parents=True)
    assert runner.progress_table([node], 2).splitlines()[2].split() == ["halved", "grpo", "7", "0", "of", "2", "-", "-"]
    (node.folder / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5, "seconds": 90}\n{"st')
    rows = runner.progress_table([node], 2).splitlines()
    assert rows[0].split() == ["arm", "stage", "seed", "step", "reward", "left"] and rows[-1].startswith("2 more runs")
    assert rows[2].split() == ["halved", "grpo", "7", "1", "of", "2", "0.500", "1:30"]
    assert runner.progress_table([node], 1).endswith("\n1 more run after these")


# ---- plans --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted((REPO / "experiments/ablations").glob("*.yaml")), ids=lambda f: f.stem)
def test_shipped_ablations_are_valid(file: Path, monkeypatch) -> None:
    monkeypatch.chdir(REPO)
    assert read_plan(file).about


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "stages: {sft: F}\nvariants: {a: {sftt: [sft.steps=1]}}",
            "variants.a: no stage is called 'sftt'; there are sft",
        ),
        ("stages: {sft: no/such.yaml}\nvariants: {a: []}", "stages: no such file: no/such.yaml"),
        ("stages: {sft: F}", "needs `stages: {NAME: FILE}` and `variants: {NAME: SETTINGS}`"),
        ("- a", "needs `stages:"),
        ("stages: {sft: F}\nvariants: {a: sft.steps=1}", "variants.a: settings are lists of `key.sub=value`"),
        ("stages: {sft: F}\nvariants: {a: {sft: [{sft.steps: 1}]}}", "variants.a: settings are lists"),
        ("stages: {sft: F}\nvariants: {a: [sft.stepps=1]}", "unknown key 'sft.stepps'; did you mean 'sft.steps'?"),
        ("stages: [", "while parsing a flow node"),
        ("stages: {warm: COMMON}\nvariants: {a: []}", "stages.warm: state its command, one of base, sft, grpo, reject"),
        ("stages: {sft: F}\nvariants: {a: []}\nbaseline: b", "baseline: no variant is called 'b'; there are a"),
        ("stages: {sft: F}\nvariants: {a: []}\ntarget: 80", "target: is an accuracy from 0 to 1, not 80"),
        ("stages: {sft: F}\nvariants: {a: []}\nseeds: [1]", "no key is called 'seeds'"),
        ("stages: {sft: F}\nvariants: {a: {sft: skip}}", "variants.a: leaves out every stage"),
        ("stages: {a: F}\nvariants: {}", "variants: is empty"),
        ("stages: {}\nvariants: {a: []}", "stages: is empty"),
        ("stages: {a: F}\nvariants: {b: skip}", "variants.b: a stage is left out in a variant, by its name"),
        ("stages: {a: F}\nsettings: {a: skip}\nvariants: {b: []}", "settings: a stage is left out in a variant"),
        ("stages: {a: F}\nvariants: {b: []}\nrows: lst", "rows: is all or last, not 'lst'"),
        ("stages: {a: F}\nvariants: {b: []}\nwatch: kl", "watch: is a list of metrics"),
    ],
)
def test_a_plan_that_is_wrong_runs_nothing(tmp_path, capsys, monkeypatch, text, reason):
    monkeypatch.setattr(runner, "run_all", lambda *_: pytest.fail("ran"))
    file = tmp_path / "plan.yaml"
    file.write_text(text.replace("COMMON", COMMON).replace("F}", f"{REPO / 'experiments/demo/sft.yaml'}}}"))
    assert ablate.main([str(file)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"ablate: {file}: ") and reason in error


def test_some_arms_alone_do_not_replace_the_results_of_all(plan: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(runner, "run_all", lambda *_: pytest.fail("ran"))
    assert ablate.main([str(plan), "--arms", "plain"]) == 2
    assert "give --out DIR as well" in capsys.readouterr().err


def test_a_missing_plan_is_one_line(tmp_path, capsys):
    assert ablate.main([str(tmp_path / "none.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "none.yaml: no such file" in error and "reflection" in error


def test_a_run_that_fails_ends_the_ablation_with_its_last_line(plan: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(plan.parent)
    text = yaml.safe_load(plan.read_text())
    text["variants"] = {"bad": ["model.path=./none"]}
    plan.write_text(yaml.safe_dump(text, sort_keys=False))
    assert ablate.main(arguments(plan, "--jobs", "1")) == 2
    assert "[bad, seed 3] warm failed: grpo: model.path=./none: cannot be loaded" in capsys.readouterr().err
