"""The ablation runner: every variant and seed runs once, equal beginnings are shared, means and spreads are right."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from grpo import cli

REPO = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("ablate", REPO / "experiments" / "ablate.py")
ablate = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(ablate)

QUICK = [
    "sft.steps=1", "sft.batch_size=2", "data.count=4", "eval.data.count=2", "eval.samples=1", "eval.pass_at=[1]",
    "sampling.max_new_tokens=4", "sandbox.enabled=false",
]  # fmt: skip


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    base = tmp_path / "first.yaml"  # a stage's command does not depend on the names of files
    base.write_text(
        yaml.safe_dump(
            {"stage": "sft", "include": str(REPO / "experiments/demo/common.yaml"), "model": {"path": "tiny-init"}}
        )
    )
    grpo = tmp_path / "second.yaml"
    grpo.write_text(
        yaml.safe_dump(
            {
                "stage": "grpo",
                "include": str(REPO / "experiments/demo/common.yaml"),
                "rewards": {"format": {}},
                "grpo": {
                    "steps": 1,
                    "prompts_per_step": 2,
                    "group_size": 2,
                    "drop_zero_spread": False,
                    "max_refills": 0,
                },
            }
        )
    )
    variants = {"a": {"sft": QUICK, "grpo": QUICK[2:]}, "b": {"sft": QUICK, "grpo": [*QUICK[2:], "loss.preset=dapo"]}}
    file = tmp_path / "plan.yaml"
    file.write_text(
        yaml.safe_dump({"stages": {"sft": str(base), "grpo": str(grpo)}, "variants": variants}, sort_keys=False)
    )
    return file


@pytest.fixture
def in_process(monkeypatch) -> None:
    """Run the stages here: a process of its own for each spends its time importing PyTorch."""
    run = subprocess.run

    def here(command: list[str], **options: object) -> subprocess.CompletedProcess:
        if command[1:3] != ["-m", "grpo"]:
            return run(command, **options)
        return subprocess.CompletedProcess(command, cli.main(command[3:]), "", "")

    monkeypatch.setattr(ablate.subprocess, "run", here)


def test_a_small_ablation(plan: Path, tmp_path: Path, monkeypatch, in_process) -> None:
    arguments = [
        str(plan),
        "--seeds",
        "3",
        "--jobs",
        "1",
        "--runs",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert ablate.main(arguments) == 0
    runs = sorted(p.name.split("-")[0] for p in (tmp_path / "runs" / "plan" / "seed3").iterdir())
    assert runs == ["grpo", "grpo", "sft"]  # the cold start is shared
    results = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert {(v, s): len(e) for v, stages in results.items() for s, e in stages.items()} == {
        ("a", "sft"): 1, ("a", "grpo"): 1, ("b", "sft"): 1, ("b", "grpo"): 1,
    }  # fmt: skip
    monkeypatch.setattr(ablate, "code_hash", lambda config: {"grpo": "changed"})
    assert ablate.main(arguments) == 0  # with another loss or trainer, say, nothing of before is used
    runs = [p.name.split("-")[0] for p in (tmp_path / "runs" / "plan" / "seed3").iterdir()]
    assert sorted(runs) == ["grpo"] * 4 + ["sft"] * 2
    page = (tmp_path / "out" / "plan.md").read_text()
    assert page.count("| a | ") == page.count("| b | ") == 2 and "--seeds 3" in page


def test_a_variant_may_leave_stages_out_and_rows_may_be_the_last_stages(plan: Path, tmp_path: Path, in_process) -> None:
    text = yaml.safe_load(plan.read_text())
    path = ["model.path=tiny-init"]
    text["variants"] = {
        "sft alone": {"sft": QUICK, "grpo": "skip"},
        "grpo": {"sft": "skip", "grpo": [*QUICK[2:], *path]},
    }
    plan.write_text(yaml.safe_dump(text | {"rows": "last"}, sort_keys=False))
    places = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    arguments = [str(plan), "--seeds", "0", "1", "--jobs", "1", *places]
    assert ablate.main(arguments) == 0
    results = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert {variant: list(stages) for variant, stages in results.items()} == {"sft alone": ["sft"], "grpo": ["grpo"]}
    rows = [line.split(" | ") for line in (tmp_path / "out" / "plan.md").read_text().splitlines() if line[:2] == "| "]
    assert [row[0] for row in rows] == ["| variant", "| sft alone", "| grpo"] and rows[1][1] == "0.000 to 0.000"


def test_the_interval_over_seeds_is_students() -> None:
    assert ablate.interval([0.5, 0.6, 0.7]) == "0.352 to 0.848"  # 0.6 +- 4.303 * 0.1 / sqrt(3)
    assert ablate.interval([0.9, 1.0]) == "0.315 to 1.000" and ablate.interval([0.5]) == "-"


def test_spread_is_mean_lowest_highest() -> None:
    assert ablate._spread([0.5, 0.25, None, 0.75]) == "0.500 [0.250, 0.750]"
    assert ablate._spread([1.0, 2.0]) == "1.50 [1.00, 2.00]"
    assert ablate._spread([None]) == "-"


@pytest.mark.parametrize("file", sorted((REPO / "experiments/ablations").glob("*.yaml")), ids=lambda f: f.stem)
def test_shipped_ablations_are_valid(file: Path) -> None:
    from grpo.runs.settings import load_config

    plan = yaml.safe_load(file.read_text())
    for variant, settings in plan["variants"].items():
        assert settings == [] or set(settings) <= set(plan["stages"])
        for stage, config in ablate.stages_of(plan, variant):
            load_config(str(REPO / config), settings.get(stage, []) if isinstance(settings, dict) else settings)


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
        ("stages: {sft: experiments/demo/common.yaml}\nvariants: {a: []}", "write `stage: sft` in it"),
        ("stages: [", "while parsing a flow node"),
    ],
)
def test_a_plan_that_is_wrong_runs_nothing(tmp_path, capsys, monkeypatch, text, reason):
    monkeypatch.setattr(ablate, "run_seed", lambda *_: pytest.fail("ran"))
    file = tmp_path / "plan.yaml"
    file.write_text(text.replace("F}", f"{REPO / 'experiments/demo/sft.yaml'}}}"))
    assert ablate.main([str(file)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"ablate: {file}: ") and reason in error


def test_a_missing_plan_is_one_line(tmp_path, capsys):
    assert ablate.main([str(tmp_path / "none.yaml")]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.slow
def test_an_ablation_that_is_killed_goes_on_and_ends_with_the_same_results(plan: Path, tmp_path: Path) -> None:
    def command(name: str) -> list[str]:
        places = ["--runs", str(tmp_path / name / "runs"), "--out", str(tmp_path / name / "out")]
        return [
            sys.executable,
            str(REPO / "experiments" / "ablate.py"),
            str(plan),
            "--seeds",
            "3",
            "--jobs",
            "1",
            *places,
        ]

    environment = os.environ | {"PYTHONPATH": str(REPO)}
    subprocess.run(command("whole"), check=True, env=environment, capture_output=True)
    process = subprocess.Popen(command("killed"), env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    folder, deadline = tmp_path / "killed" / "runs" / "plan" / "seed3", time.monotonic() + 120
    while (
        not list(folder.glob("grpo-*/manifest.json")) and time.monotonic() < deadline
    ):  # in the middle of the second run
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    begun = {path: path.stat().st_mtime_ns for path in folder.glob("sft-*/eval.json")}
    assert begun and not (tmp_path / "killed" / "out").exists()
    subprocess.run(command("killed"), check=True, env=environment, capture_output=True)
    whole, killed = (json.loads((tmp_path / name / "out" / "plan.json").read_text()) for name in ("whole", "killed"))
    assert killed == whole
    assert {path: path.stat().st_mtime_ns for path in folder.glob("sft-*/eval.json")} == begun  # not done again
