"""A wrong configuration: every mistake named at once, with its file and line, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_runs import PARITY, command, grpo, one_line, write_module
from hypothesis import given
from hypothesis import strategies as st

from grpo import cli
from grpo.runs.settings import ConfigError, load_config


def errors(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(str(file), list(overrides))
    return str(caught.value).replace(str(tmp_path) + "/", "").split("\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\ngrpo:\n  group_sise: 4", "c.yaml:3: unknown key 'grpo.group_sise'; did you mean 'grpo.group_size'"),
        ("grpo: {steps: 2}\nsamplin: {temperature: 1}", "c.yaml:2: unknown key 'samplin.temperature'; did you mean"),
        ("zzz: 1", "c.yaml:1: unknown key 'zzz'; see `"),
        ("max_rows: 1", "c.yaml:1: unknown key 'max_rows'; did you mean 'sampling.max_rows'?"),
        ("seed.x: 1", "c.yaml:1: unknown key 'seed.x'"),
        ("rewards: {accuracy: {wieght: 1}}", "c.yaml:1: unknown key 'rewards.accuracy.wieght'; did you mean"),
        ("\nseed: 1.5", "c.yaml:2: seed must be int, not 1.5"),
        ("seed: true", "c.yaml:1: seed must be int, not True"),
        ("run: 5", "c.yaml:1: run must be str, not 5"),
        ("grpo: {steps: 1e3}", "c.yaml:1: grpo.steps must be int, not '1e3'"),
        ("optim: {betas: [0.9]}", "c.yaml:1: optim.betas must be tuple[float, float], not [0.9]"),
        ("optim: {lr: true}", "c.yaml:1: optim.lr must be float, not True"),
        ("optim: {lr: fast}", "c.yaml:1: optim.lr must be float, not 'fast'"),
        ("loss: 3", "c.yaml:1: loss is a group of settings, not 3"),
        ("rewards: {accuracy: 0.5}", "c.yaml:1: rewards.accuracy is a group of settings, not 0.5"),
        ("rewards: [accuracy]", "c.yaml:1: rewards must be dict"),
        ("optim:\n  lr: -1\n", "c.yaml:2: optim.lr must be above 0, not -1.0"),
        ("optim: {lr: .nan}", "c.yaml:1: optim.lr must be above 0, not nan"),
        ("optim: {lr: .inf}", "c.yaml:1: optim.lr must be above 0, not inf"),
        ("seed: -1", "c.yaml:1: seed must be 0 or more, not -1"),
        ("data: {start: -1}", "c.yaml:1: data.start -1"),
        ("model:\n  dtype: bf16", "c.yaml:2: model.dtype must be one of float32, bfloat16, not 'bf16'"),
        ("loss: {kl: k33}", "c.yaml:1: loss.kl must be one of k1, k2, k3, not 'k33'; did you mean 'k3'?"),
        ("loss: {preset: dapoo}", "c.yaml:1: loss.preset has no 'dapoo'; did you mean 'dapo'?"),
        ("loss: {preset: [1]}", "c.yaml:1: loss.preset has no [1]"),
        ("grpo: {group_size: 1}", "c.yaml:1: grpo.group_size must be at least 2"),
        ("eval: {samples: 2, pass_at: [1, 4]}", "c.yaml:1: eval.pass_at [1, 4] must lie between 1 and eval.samples=2"),
        ("loss: {surrogate: reinforce, ratio: sequence}", "loss.ratio does nothing with loss.surrogate=reinforce"),
        ("loss: {kl_ratio: true, kl_in: reward}", "c.yaml:1: loss.kl_ratio does nothing with loss.kl_in=reward"),
        ("loss: {preset: maxrl, kl_in: reward, beta: 0.1}", "loss.kl_in must be loss with loss.advantage=maxrl"),
        ("loss: {max_length: 64}", "c.yaml:1: loss.max_length does nothing with loss.aggregation=sequence_mean"),
        ("loss: {tau_neg: 1.5}", "c.yaml:1: loss.tau_neg does nothing with loss.surrogate=clip"),
        ("loss: {delta: 1.1}", "c.yaml:1: loss.delta must be above 1 + loss.eps_high, not 1.1"),
        ("loss: {eps_low: 1.5}", "c.yaml:1: loss.eps_low must be at most 1"),
        ("loss: {max_length: 0}", "c.yaml:1: loss.max_length must be above 0, not 0"),
        ("optim: {betas: [0.9, 1.0]}", "c.yaml:1: optim.betas [0.9, 1.0] must lie in [0, 1)"),
        ("run: ' '", "c.yaml:1: run must name a folder"),
        ("rewards: {accuracy: {weight: .nan}}", "c.yaml:1: rewards.accuracy.weight must be a finite number, not nan"),
        ("rewards: {acuracy: }", "c.yaml:1: rewards.acuracy cannot be used: no reward is called 'acuracy'; did you"),
        ("rewards: {length: {args: {cach: 1}}}", "c.yaml:1: rewards.length cannot be used: length_reward has no"),
        ("rewards: {'no.such:one': }", "c.yaml:1: rewards.no.such:one cannot be used: reward 'no.such:one': importing"),
        ("loss: {surrogate: clop}", "c.yaml:1: loss.surrogate cannot be used: unknown surrogate 'clop'"),
        ("seed: 1\nseed: 2", "c.yaml:2: 'seed' is given twice"),
        ("- 1", "c.yaml:1: expected `key: value` lines"),
        ("seed: [1", "c.yaml:1: not valid YAML"),
        ("seed: \x00", "c.yaml: not valid YAML"),
        ("seed: !!python/object/apply:os.system [ls]", "c.yaml:1: not valid YAML: could not determine a constructor"),
        ("seed: 2020-13-45", "c.yaml:1: not valid YAML: seed: month must be in 1..12"),
        ("a: &a {b: *a}", "c.yaml: not valid YAML: aliases (*name) are not read"),
        ("include: none.yaml", "none.yaml: cannot be read: No such file or directory"),
        ("include: c.yaml", "c.yaml: includes itself"),
        ("include: [1]", "c.yaml:1: include must be a file name, or a list of them"),
        ("include: {a: 1}", "c.yaml:1: unknown key 'include.a'"),
        ("include: 3", "c.yaml:1: include must be a file name, or a list of them"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(tmp_path, text, said):
    found = errors(tmp_path, text)
    assert len(found) == 1 and said in found[0], found


def test_all_mistakes_are_reported_at_once_each_on_its_line(tmp_path):
    (tmp_path / "base.yaml").write_text("grpo:\n  stepps: 1\n")
    found = errors(
        tmp_path, "include: base.yaml\nseed: x\nloss: {kl: k9}\nrewards: {acc: }\n", "optim.lr=0", "nonsense"
    )
    for place in ("base.yaml:2: unknown", "c.yaml:2: seed", "c.yaml:3: loss.kl", "c.yaml:4: rewards.acc",
                  "command line: optim.lr", "command line: 'nonsense'"):  # fmt: skip
        assert sum(place in line for line in found) == 1, (place, found)
    assert len(found) == 6


def test_a_mistake_that_an_override_mends_is_none(tmp_path):
    (tmp_path / "c.yaml").write_text("seed: x\nrewards: 5\n")
    config = load_config(str(tmp_path / "c.yaml"), ["seed=3", "rewards.accuracy.weight=2"])
    assert config.seed == 3 and config.rewards["accuracy"].weight == 2


@pytest.mark.parametrize("depth", [15, 30])
def test_yaml_bombs_end_in_an_error(tmp_path, depth):
    levels = ["a0: &a0 {x: 1, y: 1}"] + [f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}" for i in range(1, depth)]
    assert any("aliases (*name) are not read" in line for line in errors(tmp_path, "\n".join(levels)))


@given(
    st.text(max_size=80) | st.lists(st.sampled_from(list("abseed:{}[]&*!|>-#\n '\"0129.")), max_size=40).map("".join)
)
def test_any_text_is_a_configuration_or_a_config_error(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    for arguments in ((str(file), []), (None, [f"seed={text}"]), (None, [f"rewards={text}"]), (None, [text])):
        try:
            load_config(*arguments)
        except ConfigError as error:
            assert all(line.strip() for line in str(error).split("\n"))


@pytest.mark.parametrize("stage", ["sft", "grpo", "reject", "eval", "sample", "config"])
def test_the_command_ends_with_code_2_and_leaves_no_run_folder(tmp_path, capsys, stage):
    assert grpo(stage, tmp_path / "run", "grpo.stepps=3") == 2
    assert "command line: unknown key 'grpo.stepps'; did you mean 'grpo.steps'?" in one_line(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("stage", "settings", "said"),
    [
        ("grpo", {}, "no reward is configured"),
        ("grpo", {"rewards.accuracy.weight": 1, "sampling.temperature": 0}, "sampling.temperature is 0"),
        ("reject", {"sampling.temperature": 0}, "sampling.temperature is 0"),
        ("sft", {"eval.at_end": "true", "eval.data.source": "missing.jsonl"}, "missing.jsonl"),
    ],
)
def test_what_would_fail_later_fails_before_the_run_folder(tmp_path, capsys, stage, settings, said):
    assert cli.main([*command(stage, tmp_path / "run"), *(f"{k}={v}" for k, v in settings.items())]) == 2
    assert said in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_a_module_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    broken = write_module(tmp_path, monkeypatch, "def f(:\n")
    for text in (f"rewards: {{{broken}:f: }}", f"loss: {{surrogate: {broken}:f}}"):
        (line,) = errors(tmp_path, text)
        assert broken in line and "invalid syntax" in line
    fine = write_module(tmp_path, monkeypatch, PARITY)
    (line,) = errors(tmp_path, f"rewards: {{{fine}:parti: }}")
    assert "did you mean 'parity'?" in line
