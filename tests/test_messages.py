"""What the command line says to someone who writes it as another program wants it, and how fast."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_runs import command, grpo, one_line

from grpo import __version__, cli
from grpo.model import hub
from grpo.model.checks import ModelError
from grpo.presets import PRESETS
from grpo.runs.hints import OTHER_LOSSES, SYNONYMS, known_keys, program
from grpo.runs.settings import ConfigError, load_config

REPO = Path(__file__).parents[1]
DEMO = str(REPO / "experiments" / "demo" / "grpo.yaml")


def said(capsys, *words: str) -> str:
    """What a command that ends with code 2 says, in one line."""
    try:
        code = cli.main(list(words))
    except SystemExit as stop:  # argparse
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and "Traceback" not in error and error.count("\n") == 1, error
    return error


# ---- other trainers' names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "ours"),
    [
        ("learning_rate=1e-5", "optim.lr"),
        ("lr=1e-5", "optim.lr"),
        ("num_generations=8", "grpo.group_size"),
        ("max_completion_length=100", "sampling.max_new_tokens"),
        ("grpo.num_generations=8", "grpo.group_size"),
        ("actor.kl_coef=0.1", "loss.beta"),
        ("bf16=true", "model.dtype=bfloat16"),
        ("max_rows=3", "sampling.max_rows"),
        ("batch_siz=3", "sft.batch_size"),
    ],
)
def test_a_setting_of_another_trainer_names_ours(setting, ours):
    with pytest.raises(ConfigError, match=f"unknown key '{setting.split('=')[0]}'; did you mean '{ours}'"):
        load_config(None, [setting])


def test_every_synonym_leads_to_a_key_and_none_hides_one():
    keys = set(known_keys())
    assert {to.partition("=")[0] for to in SYNONYMS.values()} - keys == {"rewards.NAME.weight"}
    assert not keys & SYNONYMS.keys()
    for setting in (to for to in SYNONYMS.values() if "=" in to):
        load_config(None, [setting])


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--lr", "1e-5"], "no option --lr; write optim.lr=1e-5"),
        (["--config", DEMO, "--learning-rate=1e-5"], "write optim.lr=1e-5"),
        (["--config", DEMO, "--grpo.steps", "3"], "write grpo.steps=3"),
        (["--num_generations", "grpo.steps=3"], "write grpo.group_size=VALUE"),
        (["--bf16", "true"], "write model.dtype=bfloat16"),
        (["--confg", DEMO], "no option --confg; did you mean --config?"),
        (["--deepspeed", "x.json"], "no option --deepspeed; settings are written key.sub=value"),
        ([DEMO], f"{DEMO!r} is a file: write --config {DEMO}"),
        (["steps"], "'steps' is not of the form key.sub=value"),
    ],
)
def test_words_that_are_no_settings(capsys, words, advice):
    assert advice in said(capsys, "grpo", *words)


@pytest.mark.parametrize("name", OTHER_LOSSES)
def test_the_name_of_another_loss_is_no_typo_of_a_preset(name):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"loss.preset={name}"])
    assert "did you mean" not in str(caught.value) and OTHER_LOSSES[name] in str(caught.value)
    assert name not in PRESETS


def test_settings_that_the_advice_on_a_loss_names_load():
    for advice in OTHER_LOSSES.values():
        if "write " in advice:
            load_config(None, [advice.partition("write ")[2]])


# ---- texts and paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["{question}", "{question}\\n"])
def test_braces_without_quotes(tmp_path, template):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"prompt.template={template}"])
    if template == "{question}":
        assert "prompt.template is one value" in str(caught.value)
        assert """needs quotes: prompt.template='"{question}"' in a shell""" in str(caught.value)
    assert load_config(None, ['prompt.template="{question}"']).prompt.template == "{question}"
    (tmp_path / "c.yaml").write_text("prompt: {template: {question}}\n")
    with pytest.raises(ConfigError, match="a text with braces needs quotes"):
        load_config(str(tmp_path / "c.yaml"))


def test_a_tilde_is_the_home_folder_in_files_and_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("run: ~/runs/x\nmodel: {path: ~/model}\neval: {data: {source: ~/t.jsonl}}\n")
    config = load_config("~/c.yaml", ["data.source=~/mine.jsonl", "reject.sft_from=~/base", 'prompt.system="~/"'])
    assert config.run == f"{tmp_path}/runs/x" and config.model.path == f"{tmp_path}/model"
    assert config.data.source == f"{tmp_path}/mine.jsonl" and config.eval.data.source == f"{tmp_path}/t.jsonl"
    assert config.reject.sft_from == f"{tmp_path}/base" and config.prompt.system == "~/"
    (tmp_path / "d.yaml").write_text("include: ~/c.yaml\nseed: 3\n")
    assert load_config(str(tmp_path / "d.yaml")).run == f"{tmp_path}/runs/x"


# ---- commands -----------------------------------------------------------------------------------------------


def test_a_command_that_does_not_exist_names_the_nearest(capsys):
    assert "no command 'reprot'; did you mean 'report'?" in said(capsys, "reprot")
    assert "no command 'train'; there are base, sft, grpo," in said(capsys, "train")


@pytest.mark.parametrize(("name", "missing"), [("report", "folder"), ("export", "model, folder")])
def test_a_command_without_its_folder_says_so(capsys, name, missing):
    assert f"grpo {name}: the following arguments are required: {missing}; see" in said(capsys, name)


def test_nothing_at_all_shows_the_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([])
    assert stop.value.code == 2 and "\n    report " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["base", "grpo", "export", "report", "config"])
def test_help_of_a_command_has_an_example(capsys, name):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0 and f"example: {program()} {name} " in capsys.readouterr().out


IMPORTED = """
import sys
from grpo import cli
try:
    code = cli.main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
print(code, sorted({"torch", "transformers", "numpy"} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["trian"], 2),
        (["grpo", "--config", DEMO, "grpo.stepps=3", "optim.lr=-1", "loss.preset=dapoo"], 2),
    ],
    ids=str,
)
def test_help_and_typos_wait_for_no_library(words, code):
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", IMPORTED, *words], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"{code} []", done.stderr
    assert words != ["--version"] or done.stdout.startswith(f"grpo {__version__}\n")


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    """`grpo config | head -1`: the pipe is closed before anything is written to it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "grpo", "config"],
        cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141


# ---- stages and models --------------------------------------------------------------------------------------


def test_the_file_of_another_stage_is_refused(tmp_path, capsys):
    assert grpo("sft", tmp_path / "run", "--config", DEMO) == 2
    assert f"{DEMO}: this configuration is for `{program()} grpo`" in one_line(capsys)
    assert not (tmp_path / "run").exists()
    assert load_config(DEMO, ["stage=sft"]).stage == "sft"


@pytest.mark.parametrize("command", ["grpo", "sample", "eval"])
def test_a_missing_parent_names_the_command_that_makes_it(tmp_path, monkeypatch, capsys, command):
    """Also from a file of one's own that includes the stage's: as its command is not told from a file's name."""
    experiment = tmp_path / "experiments"
    experiment.mkdir()
    (experiment / "begin.yaml").write_text("stage: sft\nrun: runs/begun\n")
    (experiment / "other.yaml").write_text("stage: grpo\nrun: runs/other\nmodel: {path: runs/begun}\n")
    (experiment / "broken.yaml").write_text("stage: [\n")
    mine = tmp_path / "mine.yaml"
    mine.write_text("include: experiments/other.yaml\nrun: runs/mine\nrewards: {format: }\n")
    monkeypatch.chdir(tmp_path)
    advice = f"make it first: `python -m grpo sft --config {experiment / 'begin.yaml'}`"
    assert f"model.path=runs/begun: is not there yet; {advice}" in said(capsys, command, "--config", str(mine))
    (tmp_path / "runs" / "begun").mkdir(parents=True)
    (tmp_path / "runs" / "begun" / "manifest.json").write_text("{}")
    assert f"model.path=runs/begun: has no model yet; {advice}" in said(capsys, command, "--config", str(mine))
    assert not (tmp_path / "runs" / "mine").exists()


def test_a_complete_run_needs_its_parent_no_more(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(f"stage: sft\nrun: {tmp_path / 'parent'}\n")
    file, parent, child = tmp_path / "c.yaml", tmp_path / "parent", tmp_path / "child"
    settings = {"sft__steps": 1, "model__path": parent}
    assert cli.main(command("sft", parent, config=file, sft__steps=1)) == 0
    assert cli.main(command("sft", child, config=file, **settings)) == 0
    (parent / "model").rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert cli.main(command("sft", child, config=file, **settings)) == 0
    assert "this run is complete, nothing to do" in capsys.readouterr().err


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, tmp_path, capsys):
    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append(timeout)
            raise OSError("no route to host")

    monkeypatch.setattr(hub, "get_session", Session)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    for _ in range(2):
        with pytest.raises(ModelError, match="does not answer, and no copy was downloaded before"):
            hub.check("nobody/nothing", None)
    assert asked == [hub.SECONDS]
    assert grpo("sample", tmp_path / "run", model__path="nobody/nothing") == 2
    assert "model.path=nobody/nothing: cannot be loaded: no such folder is there" in one_line(capsys)


@pytest.mark.filterwarnings("ignore:'grpo.minimal' found in sys.modules")
def test_the_minimal_edition_says_what_its_argument_is(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["minimal", "one"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("grpo.minimal", run_name="__main__")
    assert stop.value.code == 2 and "invalid int value: 'one'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("called", "python", "words"),
    [
        ("/usr/bin/grpo", "/usr/bin/python3", "grpo"),
        ("grpo/__main__.py", "{here}/.venv/bin/python", ".venv/bin/python -m grpo"),
        ("grpo/__main__.py", "/usr/bin/python3", "python -m grpo"),
    ],
)
def test_a_command_that_is_named_can_be_pasted_into_the_shell(tmp_path, monkeypatch, called, python, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr(sys, "executable", python.format(here=tmp_path))
    assert program() == words


def test_make_names_the_experiments_that_there_are():
    found = subprocess.run(["make", "-n", "base", "EXP=none"], cwd=REPO, capture_output=True, text=True)
    assert found.returncode == 2 and found.stderr.count("\n") == 1
    assert "EXP=none: there is no folder experiments/none; there are " in found.stderr and "svamp" in found.stderr
