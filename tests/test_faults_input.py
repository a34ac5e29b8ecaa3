"""Whatever outside files hold: settings, overrides, a run's records, a model's chat template."""

from __future__ import annotations

import functools
import json
import os

import fuzz_config
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import DataError, Problem, PromptConfig, build_prompt
from data.embedded.tiny_model import build_tokenizer
from grpo.report.page import page, read_run
from grpo.runs.folder import RunError, open_run
from grpo.runs.hints import known_keys
from grpo.runs.journal import Judged
from grpo.runs.journal import parse as parse_judged
from grpo.runs.settings import ConfigError, load_config

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
ROWS = st.dictionaries(
    st.sampled_from(
        ["step", "reward", "loss", "truncated", "x", "completion", "rewards", "problem", "stage", "sampled"]
    ),
    VALUES,
    max_size=5,
)
LINES = st.lists(ROWS.map(json.dumps) | st.text(max_size=20), max_size=5).map("\n".join).map(str.encode)
FILE = LINES | st.binary(max_size=80)


@settings(max_examples=30)
@given(metrics=FILE, completions=FILE, manifest=FILE, evaluation=FILE, rejection=FILE)
def test_the_report_reads_whatever_a_run_folder_holds(
    tmp_path_factory, metrics, completions, manifest, evaluation, rejection
):
    run = tmp_path_factory.mktemp("run")
    files = {"metrics.jsonl": metrics, "completions.jsonl": completions, "samples.jsonl": completions}
    for name, content in {**files, "manifest.json": manifest, "rejection.json": rejection}.items():
        (run / name).write_bytes(content)
    assert "<html" in page("x", [read_run(run)])


@given(st.sampled_from(known_keys()), VALUES)
def test_an_override_is_taken_as_it_stands_or_refused_with_its_key(key, value):
    if key == "model.path" or key.startswith(("rewards", "loss.surrogate")):
        return  # names of modules and folders
    text = json.dumps(value)
    try:
        config = load_config(None, [f"{key}={text}"])
    except ConfigError as error:
        for line in str(error).split("\n"):
            assert line.startswith("command line: ") and len(line) < 600
        return
    if key != "loss.preset" and isinstance(value, int | str) and not isinstance(value, bool):
        assert functools.reduce(getattr, key.split("."), config) == value


@given(FILE, FILE)
def test_any_manifest_and_settings_of_a_run_are_read_or_one_line(tmp_path_factory, manifest, written):
    folder = tmp_path_factory.mktemp("run")
    (folder / "manifest.json").write_bytes(manifest)
    (folder / "config.yaml").write_bytes(written)
    (folder / "samples.jsonl").touch()  # there is something to lose
    config = load_config(None, [f"run={json.dumps(str(folder))}"])
    try:
        open_run(config, "sft").lock.close()
    except RunError as error:
        assert str(folder) in str(error) and "\n" not in str(error)
    assert (folder / "manifest.json").read_bytes() == manifest and (folder / "config.yaml").read_bytes() == written


@given(ROWS.map(json.dumps).map(str.encode).map(lambda line: line + b"\n") | st.binary(max_size=60))
def test_a_line_is_a_judged_completion_or_nothing(line):
    assert parse_judged(line) is None  # no key of a row is one of a judged completion
    assert parse_judged(b"[" + line.strip() + b"]\n") is None


def test_a_judged_completion_comes_back_as_it_was():
    judged = Judged(3, "half a pair \ud800 and\n a line \u2028 more", True, False, 2, None, 7, True)
    assert parse_judged(json.dumps(vars(judged)).encode() + b"\n") == judged
    assert parse_judged(json.dumps([vars(judged)]).encode() + b"\n") is None
    assert parse_judged(json.dumps({**vars(judged), "more": 7}).encode() + b"\n") is None
    assert parse_judged(json.dumps(vars(judged)).encode()) is None


# ---- chat templates are programs of the model's author ------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__ }}",
        "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
        "{{ self.__init__.__globals__ }}",
        "{% for m in messages %}{{ m.update({'content': ''}) }}{% endfor %}",
        "{% for i in range(10000000) %}{{ messages[0].content }}{% endfor %}",
        "{{ 'x' | attr('__class__') }}{{ raise_exception('no') }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_a_chat_template_runs_in_jinja_s_sandbox(tmp_path, monkeypatch, template):
    monkeypatch.chdir(tmp_path)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(DataError) as caught:
        build_prompt(Problem("p/0", "1 + 1?", "2"), tokenizer, PromptConfig(style="chat", system=""))
    assert str(caught.value).startswith("the chat template fails: ") and "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


# ---- a sample of `make fuzz` --------------------------------------------------------------------------------


def test_mutated_configurations_and_data_are_accepted_or_refused_in_clear_lines(capsys):
    assert fuzz_config.fuzz(200, seed=1) == 0, capsys.readouterr().out


def test_the_fuzzer_finds_what_it_looks_for(monkeypatch):
    def broken(*_):
        raise KeyError("x")

    monkeypatch.setattr(fuzz_config, "load_config", broken)
    assert "KeyError" in fuzz_config.check_yaml(b"seed: 1", None)
    monkeypatch.setattr(fuzz_config, "load_config", lambda *_: (_ for _ in ()).throw(ConfigError("")))
    assert "no clear line" in fuzz_config.check_yaml(b"seed: 1", None)
    monkeypatch.setattr(fuzz_config, "load_problems", lambda *_: (_ for _ in ()).throw(DataError("a\nb")))
    assert "no clear line" in fuzz_config.check_jsonl(b"{}", None)
