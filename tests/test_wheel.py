"""The package as it is installed: a wheel, made of the source distribution, used from an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools")
pytest.importorskip("wheel")

REPO = Path(__file__).resolve().parents[1]
SMALL = ["sft.steps=4", "sft.batch_size=8", "data.count=64", "grpo.steps=2", "grpo.prompts_per_step=4"]
SMALL += ["grpo.group_size=4", "eval.data.count=8", "eval.samples=2", "eval.pass_at=[1,2]", "log.save_every=1"]
BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, 'build_' + sys.argv[1])(sys.argv[2]))"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel's content, as site-packages would hold it: built offline from the unpacked source distribution."""
    folder = tmp_path_factory.mktemp("package")
    listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (REPO / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, folder / "source" / name)

    def build(kind: str, source: Path) -> Path:
        command = [sys.executable, "-c", BUILD, kind, str(folder)]
        done = subprocess.run(command, cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return folder / done.stdout.splitlines()[-1]

    with tarfile.open(build("sdist", folder / "source")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    wheel = build("wheel", next((folder / "unpacked").iterdir()))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, folder: Path, *words: str, code: int = 0) -> str:
    """A command in a folder, with the wheel's packages in place of the checkout's. Returns what it wrote."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_the_wheel_holds_what_the_package_needs_and_says_what_it_is(installed):
    metadata = next(installed.glob("*.dist-info/METADATA")).read_text(encoding="utf-8")
    assert "\nName: grpo-reference\n" in metadata and "\nLicense-Expression: Apache-2.0\n" in metadata
    ours = {path.relative_to(REPO / "experiments") for path in (REPO / "experiments" / "demo").glob("*.yaml")}
    theirs = {path.relative_to(installed / "grpo" / "experiments") for path in installed.rglob("*.yaml")}
    assert ours <= theirs and all((installed / name / "py.typed").exists() for name in ("grpo", "rewards", "data"))
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"grpo", "rewards", "data"}
    band = "results/expected/demo.json"  # which the report draws behind the demo's curves
    assert (installed / "grpo" / "experiments" / band).read_text() == (REPO / "experiments" / band).read_text()
    checkout = {path.relative_to(REPO) for name in ("grpo", "rewards", "data") for path in (REPO / name).rglob("*.py")}
    assert checkout <= {path.relative_to(installed) for path in installed.rglob("*.py")}


@pytest.mark.slow
def test_the_demo_runs_in_an_empty_folder_and_its_results_stay_there(installed, tmp_path):
    where = run(installed, tmp_path, "-c", "import grpo; print(grpo.__file__)")
    assert str(installed) in where
    text = run(installed, tmp_path, "-m", "grpo", "demo", *SMALL)
    assert text.count("accuracy, sampled") == 1 and "report: runs/demo/report.html" in text
    header = next(line for line in text.splitlines() if "1-base" in line and "2-sft" in line)
    assert header.split() == ["1-base", "2-sft", "3-grpo"]
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert not list(installed.glob("**/runs/demo"))
    text = run(installed, tmp_path, "-m", "grpo", "sample")
    assert text.count("\n    total ") == 3


@pytest.mark.slow
def test_single_commands_and_the_readme_s_examples_run_in_an_empty_folder(installed, tmp_path):
    assert "accuracy, sampled" in run(installed, tmp_path, "-m", "grpo", "eval", "eval.data.count=4")
    for page in ("README.md", *(str(path.relative_to(REPO)) for path in sorted((REPO / "docs").glob("*.md")))):
        blocks = re.findall(r"^```(?:python|yaml)\n(# (\w+\.\w+)\b.*?)^```", (REPO / page).read_text(), re.M | re.S)
        for text, name in blocks:
            (tmp_path / name).write_text(text, encoding="utf-8")
    found = sorted(tmp_path.glob("my_*.yaml"))
    files = [path for path in found if "variants:" not in path.read_text()]  # an ablation's plan is no configuration
    assert len(files) >= 2
    for file in files:
        config = run(installed, tmp_path, "-m", "grpo", "config", "--config", file.name)
        assert "my_" in config
    settings = [*SMALL, "model.path=tiny", "eval.at_end=false"]
    loss = next(file for file in files if "surrogate" in file.read_text())
    assert "complete; the model is in" in run(
        installed, tmp_path, "-m", "grpo", "grpo", "--config", loss.name, *settings
    )


API = """
from grpo import evaluate, load_config, load_policy, train_grpo

config = load_config("experiments/demo/grpo.yaml", ["model.path=tiny", "run=runs/mine", *{small}])
policy = train_grpo(config)
again = load_policy(config.model.__class__("runs/mine"))
assert all((a == b).all() for a, b in zip(policy.model.parameters(), again.model.parameters()))
print("accuracy", evaluate(config, policy)["sampled"]["accuracy"])
"""


@pytest.mark.slow
def test_the_python_interface(installed, tmp_path):
    (tmp_path / "mine.py").write_text(API.format(small=SMALL), encoding="utf-8")
    assert re.search(r"^accuracy [\d.]+$", run(installed, tmp_path, "mine.py"), re.MULTILINE)
    assert (tmp_path / "runs" / "mine" / "model" / "README.md").exists()


def test_import_is_quick_and_without_pytorch():
    code = "import sys, grpo; assert 'torch' not in sys.modules; grpo.load_config; print(grpo.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "train_grpo" in done.stdout


@pytest.mark.parametrize("name", ["rewards.py", "data.py", "data/__init__.py", "data/mine.jsonl", "rewards/notes.txt"])
def test_files_of_the_user_s_with_our_names_do_no_harm(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("raise SystemExit('imported')\n")
    code = "import grpo; from rewards.sandbox import Sandbox; import data\n" + (
        "print(data.load_problems and Sandbox('format', {})(['<think>a 1</think><answer>2</answer>']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[1.0]\n"), done.stderr
    noted = f"NOTE: {name} is not imported" in done.stderr
    assert noted == name.endswith(".py") and done.stderr.count("\n") == noted


def test_a_module_that_was_imported_before_us_is_named(tmp_path):
    (tmp_path / "data.py").write_text("mine = 1\n")
    code = "import data\ntry:\n    import grpo\nexcept ImportError as error:\n    print(error)"
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "data.py: imported before grpo, which has a package of that name; rename it" in done.stdout
