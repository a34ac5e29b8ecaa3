"""log.to: what each tracker gets of a run, and that none of them can end one."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
from helpers_runs import grpo, lines, one_line, write_module

from grpo.runs import trackers
from grpo.runs.config import Config
from grpo.runs.trackers import Trackers, numbers, tracked

RECORD = "heard = []\n\ndef hear(event, step, values):\n    heard.append((event, step, values))\n"
TRAINED = {"rewards__format__weight": 1, "eval__at_end": "true", "grpo__drop_zero_spread": "false"}


@pytest.fixture
def stub(monkeypatch):
    """stub(name): a module with wandb's interface that notes what it is called with."""

    def make(name: str) -> list:
        calls: list = []
        module = ModuleType(name)
        module.__spec__ = SimpleNamespace(name=name)
        module.Table = lambda columns, data: ("table", columns, data)
        for function in ("init", "log", "finish"):
            note = lambda *args, _name=function, **named: calls.append((_name, args, named))  # noqa: E731
            setattr(module, function, note)
        monkeypatch.setitem(sys.modules, name, module)
        return calls

    return make


def test_a_function_by_import_path_hears_the_whole_run(tmp_path, monkeypatch):
    name = write_module(tmp_path, monkeypatch, RECORD)
    assert grpo("grpo", tmp_path / "run", f'log.to=["{name}:hear"]', **TRAINED) == 0
    heard = sys.modules[name].heard
    events = [event for event, _, _ in heard]
    assert events == ["settings", "scalars", "texts", "scalars", "scalars", "scalars", "evaluation", "end"]
    settings = heard[0][2]
    assert settings["stage"] == "grpo" and settings["config"]["grpo"]["steps"] == 4
    rows = lines(tmp_path / "run" / "metrics.jsonl")
    for row, (_, step, values) in zip(rows, (h for h in heard if h[0] == "scalars"), strict=True):
        assert {"step": step, **values} == {key: value for key, value in row.items() if value is not None}
    texts = heard[2][2]
    assert 0 < len(texts) <= trackers.TEXTS and all(isinstance(row["completion"], str) for row in texts)
    assert heard[-2][1] == 4 and heard[-2][2]["problems"] == 3 and heard[-1][1:] == (4, {})


def test_a_run_that_continues_tells_the_steps_that_were_left(tmp_path, monkeypatch):
    name = write_module(tmp_path, monkeypatch, RECORD)
    settings = {"optim__schedule": "constant", "eval__at_end": "false"}
    with monkeypatch.context() as patch:
        patch.setattr("grpo.runs.folder.Run.finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert grpo("sft", tmp_path / "run", sft__steps=2, **settings) == 130
    assert grpo("sft", tmp_path / "run", f'log.to=["{name}:hear"]', sft__steps=4, **settings) == 0
    assert [step for event, step, _ in sys.modules[name].heard if event == "scalars"] == [3, 4]


@pytest.mark.parametrize("when", ["settings", "scalars", "texts", "evaluation", "end"])
def test_a_tracker_that_fails_is_named_once_and_the_run_ends_well(tmp_path, monkeypatch, capsys, when):
    body = RECORD.replace("    heard", f"    if event == {when!r}:\n        raise OSError('server\\n gone')\n    heard")
    name = write_module(tmp_path, monkeypatch, body)
    assert grpo("grpo", tmp_path / "run", f'log.to=["{name}:hear"]', **TRAINED) == 0
    said = capsys.readouterr().err
    assert said.count("WARNING: log.to:") == 1 and f"{name}:hear failed (OSError: server gone)" in said
    assert when == "end" or "end" not in [event for event, _, _ in sys.modules[name].heard]


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_wandb_and_trackio_get_settings_scalars_a_table_and_the_evaluation(tmp_path, stub, package):
    calls = stub(package)
    assert grpo("grpo", tmp_path / "run", f"log.to=[{package}]", "log.project=mine", **TRAINED) == 0
    (first, _, named), *logged, (last, _, _) = calls
    assert (first, last) == ("init", "finish")
    assert named["project"] == "mine" and named["name"] == str(tmp_path / "run") and named["resume"] == "allow"
    assert named["config"]["grpo"]["group_size"] == 4
    assert ("id" in named) == (package == "wandb")
    steps = [named["step"] for _, _, named in logged]
    assert steps == [1, 1, 2, 3, 4, 4]
    assert logged[0][1][0]["train/reward"] == lines(tmp_path / "run" / "metrics.jsonl")[0]["reward"]
    kind, columns, data = logged[1][1][0]["completions"]
    assert kind == "table" and "completion" in columns and all(len(row) == len(columns) for row in data)
    assert 0 <= logged[-1][1][0]["eval/sampled/accuracy"] <= 1


def test_tensorboard_writes_event_files_that_it_reads(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert grpo("grpo", tmp_path / "run", "log.to=[tensorboard]", **TRAINED) == 0
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    read.Reload()
    rows = lines(tmp_path / "run" / "metrics.jsonl")
    reward = read.Scalars("train/reward")
    assert [(event.step, pytest.approx(event.value, rel=1e-5)) for event in reward] == [
        (row["step"], row["reward"]) for row in rows
    ]
    assert read.Scalars("eval/sampled/accuracy")[0].step == 4
    texts = {tag: read.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in read.Tags()["tensors"]}
    assert "grpo.group_size: 4" in texts["settings/text_summary"]
    assert lines(tmp_path / "run" / "completions.jsonl")[0]["problem"] in texts["completions/text_summary"]


def test_only_the_first_process_tells(monkeypatch, stub):
    calls = stub("wandb")
    config = Config(log=Config().log.__class__(to=("wandb",)))
    manifest = {"stage": "grpo", "seed": 0, "started": "now"}
    monkeypatch.setattr("grpo.distributed.rank", lambda: 1)
    with tracked(config, manifest) as listeners:
        assert listeners == [] and calls == []
    monkeypatch.setattr("grpo.distributed.rank", lambda: 0)
    with tracked(config, manifest) as listeners:
        assert len(listeners) == 1 and calls[0][0] == "init"
    assert calls[-1][0] == "finish"


def test_a_tracker_that_is_not_there_is_said_before_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert grpo("sft", tmp_path / "run", "log.to=[wandb]") == 2
    assert "log.to wandb cannot be used: wandb is not installed: pip install wandb" in one_line(capsys)
    assert grpo("sft", tmp_path / "run", "log.to=[wanbd]") == 2
    assert "unknown tracker 'wanbd'" in one_line(capsys) and not (tmp_path / "run").exists()


def test_texts_are_of_the_first_step_and_each_tenth_and_few(monkeypatch):
    heard: list = []
    monkeypatch.setitem(trackers.TRACKERS, "list", lambda: lambda *event: heard.append(event))
    some = Trackers(("list",), {}, print)
    for step in range(1, 21):
        for number in range(12):
            some.tell("text", step, {"completion": f"{step} {number}"})
        some.tell("scalars", step, {"a": 1.0, "b": None})
    some.close()
    texts = [(step, rows) for event, step, rows in heard if event == "texts"]
    assert [step for step, _ in texts] == [1, 10, 20]
    assert texts[1][1] == [{"completion": f"10 {number}"} for number in range(trackers.TEXTS)]
    assert ("scalars", 3, {"a": 1.0}) in heard


def test_numbers_are_named_by_their_place():
    nested = {"sampled": {"accuracy": 0.5, "pass_at": {"4": 1}, "ok": True, "ci95": [0, 1]}, "source": "demo"}
    assert numbers("evaluation", nested) == {"eval/sampled/accuracy": 0.5, "eval/sampled/pass_at/4": 1.0}
    assert numbers("scalars", {"kl": 0.1}) == {"train/kl": 0.1}
