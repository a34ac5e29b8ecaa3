"""README.md and docs/ say what the code does."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers_runs import lines
from readme import GLOSSARY, REPO, glossary
from test_architectures import ARCHITECTURES
from test_checks import REFUSED

from experiments.lab.plan import read_plan
from grpo import cli
from grpo.advantages import ADVANTAGES
from grpo.loss import AGGREGATIONS, KL_ESTIMATORS, PRESETS, RATIOS, SURROGATES, LossConfig, policy_loss
from grpo.runs.hints import known_keys
from grpo.runs.settings import load_config
from grpo.weights import WEIGHTS
from rewards import reward_names

README = (REPO / "README.md").read_text(encoding="utf-8")
PAGES = {
    path: path.read_text(encoding="utf-8") for path in (REPO / "README.md", *sorted((REPO / "docs").rglob("*.md")))
}
TEXT = "\n".join(PAGES.values())
LOSSES = (REPO / "docs" / "losses.md").read_text(encoding="utf-8")
CELL = re.compile(r"(\d\.\d+) \[(\d\.\d+), (\d\.\d+)\]")
MAKEFILE = (REPO / "Makefile").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:make [a-z]|\.venv/bin/)")


def files(language: str) -> dict[str, str]:
    """The pages' blocks of a language that begin with their file's name: {name: text}."""
    named = (re.match(r"# (\w+\.\w+)\b", block) for lang, block in BLOCK.findall(TEXT) if lang == language)
    return {m[1]: m.string for m in named if m}


def commands() -> list[str]:
    """The commands in shell blocks and in backticks."""
    shell = [line for language, block in BLOCK.findall(TEXT) if not language for line in block.splitlines()]
    inline = re.findall(r"`([^`]+)`", BLOCK.sub("", TEXT) + "\n".join(files("yaml").values()))
    inline = [" ".join(code.split()) for code in inline]
    return sorted({c.split(" #")[0].strip() for c in [*shell, *inline] if COMMAND.match(c)})


COMMANDS = commands()


# ---- length, links, names -----------------------------------------------------------------------------------


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 250
    first_screen = README.splitlines()[:25]
    assert {"make demo", "make test"} <= {line.partition("  ")[0] for line in first_screen}
    assert any(CELL.search(line) for line in first_screen), "no headline figure"


@pytest.mark.parametrize("page", [*PAGES, REPO / "CHANGELOG.md"], ids=lambda p: p.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for target in links:
        assert "://" in target or target in anchors or (page.parent / target).exists(), target
        assert "#L" not in target, f"{target}: a line number goes stale"


def test_a_link_that_names_a_function_leads_to_the_file_that_defines_it() -> None:
    named = re.findall(r"\[`(\w+)`\]\((?:\.\./)?([\w/]+\.py)\)", TEXT)
    assert len(named) > 12
    for name, file in named:
        source = (REPO / file).read_text(encoding="utf-8")
        assert re.search(rf'^(def|class) {name}\b|register_reward\("{name}"\)', source, re.MULTILINE), (name, file)


def test_settings_that_are_named_exist() -> None:
    keys = known_keys()
    groups = {key.split(".")[0] for key in keys if "." in key}
    named = set(re.findall(r"(?<![\w./:])([a-z_]+(?:\.[a-z_0-9]+)+)(?![\w/(:])", re.sub(r"\]\([^)]*\)", "]", TEXT)))
    named = {
        name
        for name in named
        if name.split(".")[0] in groups and not name.endswith((".py", ".md", ".yaml", ".json", ".jsonl"))
    }
    assert len(named) > 20
    assert [name for name in named if name not in keys and name not in groups] == []


def test_the_glossary_is_the_code_s() -> None:
    assert GLOSSARY.read_text(encoding="utf-8") == glossary(), "run `make docs`"


def test_every_architecture_that_is_tested_or_refused_is_listed() -> None:
    text = (REPO / "docs" / "models.md").read_text(encoding="utf-8")
    listed = text.partition("The architectures:")[2].partition("\n\n")[0].partition(".\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == set(ARCHITECTURES)
    table = text.partition("## What is refused")[2].partition("\n\n## ")[0]
    rows = [row.split("|")[2] for row in table.splitlines() if row.startswith("|")]
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(REFUSED)


def test_every_reward_is_listed() -> None:
    text = (REPO / "docs" / "rewards.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[`(\w+)`\]", text, re.MULTILINE)) == reward_names()


PRESETS_TEXT = (REPO / "grpo" / "presets.py").read_text(encoding="utf-8").partition("PRESETS: dict")[2]
# the paper that a preset's comment names, on its line or above it
PAPERS = {
    name: (re.search(r"arXiv:([\d.]+\d)", line) or re.search(r"arXiv:([\d.]+\d)", above))[1]
    for above, line, name in re.findall(r'((?:^ +#.*\n)?)(^ +"(\w+)": LossConfig.*)', PRESETS_TEXT, re.MULTILINE)
    if "arXiv" in above + line
}


def test_the_choices_of_a_loss_are_the_code_s() -> None:
    def named(start: str, end: str = "\n") -> set[str]:
        return set(re.findall(r"`(\w+)`", LOSSES.partition(start)[2].partition(end)[0]))

    assert named("| advantage | `loss.advantage` |") == set(ADVANTAGES)
    assert named("| ratio | `loss.ratio` |") == set(RATIOS)
    assert named("| surrogate | `loss.surrogate` |") == set(SURROGATES)
    assert named("| weights | `loss.weight` |") == set(WEIGHTS)
    assert named("`loss.beta` |") == {*KL_ESTIMATORS, "loss", "reward"}
    assert named("| aggregation | `loss.aggregation` |") == set(AGGREGATIONS)
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]*) ?\|.*\| (yes|no)\b.*$", LOSSES, re.MULTILINE)
    assert [row[:2] for row in rows] == [(name, PAPERS.get(name, "")) for name in PRESETS]
    assert f"the {len(PRESETS)} presets" in README
    assert {name for name, _, trained in rows if trained == "yes"} == trained_presets()


def trained_presets() -> set[str]:
    """The presets of which there are results: those of the ablations whose table lies in experiments/results."""

    def named(loss: LossConfig) -> tuple:
        return loss.advantage, loss.ratio, loss.surrogate, loss.aggregation, loss.weight, loss.kl_in

    found = set()
    for file in (REPO / "experiments" / "ablations").glob("*.yaml"):
        results = REPO / "experiments" / "results" / file.stem / "results.json"
        if results.is_file():
            plan = read_plan(file)
            for variant in json.loads(results.read_text(encoding="utf-8"))["variants"]:
                losses = [load_config(one.file, some).loss for one, some in plan.of(variant) if one.command == "grpo"]
                found |= {name for name, preset in PRESETS.items() for loss in losses if named(preset) == named(loss)}
    return found


# ---- commands -----------------------------------------------------------------------------------------------


def test_there_are_commands() -> None:
    targets = {c.split()[1] for c in COMMANDS if c.startswith("make")}
    assert targets >= {"demo", "test", "minimal", "sft", "grpo", "reject", "final", "eval", "bench"}
    assert sum("-m grpo" in c for c in COMMANDS) > 4


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_commands_have_a_target_and_a_valid_configuration(command: str) -> None:
    target, *rest = shlex.split(command)[1:]
    assert re.search(rf"^{target}:.*##", MAKEFILE, re.MULTILINE)
    given = dict(word.split("=", 1) for word in rest)
    assert given.keys() <= {"EXP", "ARGS", "REWARD", "MODEL", "NAME", "SEEDS"}
    file = REPO / "experiments" / given.get("EXP", "demo") / f"{target}.yaml"
    if file.exists():
        load_config(str(file), shlex.split(given.get("ARGS", "")))
    else:
        assert "EXP" not in given or target == "report"


@pytest.mark.parametrize("command", [c for c in COMMANDS if "-m grpo" in c])
def test_grpo_commands_parse(command: str, tmp_path, monkeypatch) -> None:
    written(tmp_path, monkeypatch)
    arguments = cli._arguments(shlex.split(command.partition("-m grpo")[2]))
    file = getattr(arguments, "config", None)
    if file and file != "FILE":
        load_config(file, arguments.overrides)


def test_scripts_are_there_with_their_files() -> None:
    scripts = [shlex.split(c) for c in COMMANDS if ".py" in c]
    assert scripts
    for words in scripts:
        for word in words[1:]:
            assert (REPO / word).exists() or not word.endswith((".py", ".yaml")), word


def test_a_setting_in_args_is_one_too() -> None:
    for args in re.findall(r'`ARGS="([^"]+)"`', TEXT):
        if args != "key=value ...":
            load_config(None, shlex.split(args))


# ---- the examples, followed ---------------------------------------------------------------------------------

SMALL = ["model.path=tiny", "data.count=40", "grpo.steps=1", "grpo.prompts_per_step=4", "grpo.group_size=4"]
SMALL += ["sampling.max_new_tokens=100", "eval.at_end=false"]


def written(folder: Path, monkeypatch) -> None:
    """The README's files in a folder with a copy of experiments/, where we are from now on."""
    shutil.copytree(REPO / "experiments", folder / "experiments", ignore=shutil.ignore_patterns("results"))
    for name, text in {**files("python"), **files("yaml")}.items():
        (folder / name).write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, Path(name).stem, raising=False)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)


def follow(config: str, *more: str) -> dict:
    """Run the README's command for a configuration, but small. Returns the metrics of its step."""
    [command] = [c for c in COMMANDS if c.endswith(f"--config {config}")]
    words = shlex.split(command.partition("-m grpo")[2])
    assert cli.main([*words, *SMALL, *more]) == 0
    return lines(Path(load_config(config, []).run) / "metrics.jsonl")[0]


def test_the_surrogate_changes_the_gradient_and_nothing_else(tmp_path, monkeypatch) -> None:
    written(tmp_path, monkeypatch)
    sandbox = "sandbox.enabled=false"
    mine = follow("my_loss.yaml", sandbox)
    assert cli.main(["grpo", "--config", "experiments/demo/grpo.yaml", *SMALL, sandbox, "run=plain"]) == 0
    plain = lines(Path("plain/metrics.jsonl"))[0]
    assert mine["reward"] == plain["reward"] and plain["spread"] > 0
    assert mine["grad_norm"] != pytest.approx(plain["grad_norm"], rel=0.01)


def test_the_surrogate_halves_the_push_away_from_bad_completions(tmp_path, monkeypatch) -> None:
    written(tmp_path, monkeypatch)
    logps = torch.full((2, 3), -1.0, requires_grad=True)
    mask, advantages = torch.ones(2, 3, dtype=torch.bool), torch.tensor([1.0, -1.0])
    grads = {}
    for surrogate in ("clip", "my_loss:gentle"):
        config = LossConfig(surrogate=surrogate, beta=0.0)
        loss, _ = policy_loss(logps, logps.detach(), None, advantages, mask, config)
        [grads[surrogate]] = torch.autograd.grad(loss, logps)
    torch.testing.assert_close(grads["my_loss:gentle"][0], grads["clip"][0])
    torch.testing.assert_close(grads["my_loss:gentle"][1], grads["clip"][1] / 2)


def test_the_weight_leaves_out_the_tokens_that_the_policy_is_sure_of(tmp_path, monkeypatch) -> None:
    written(tmp_path, monkeypatch)
    mine = follow("my_mask.yaml", "sandbox.enabled=false")
    assert 0 < mine["weight"] < 1
    logged = [row["tokens"] for row in lines(Path("runs/my_mask/completions.jsonl")) if row.get("advantage")]
    figures = [pair for t in logged for pair in zip(t["entropy"], t["weight"], strict=True)]
    assert {bool(weight) for entropy, weight in figures if entropy > 0.31} == {True}
    assert {bool(weight) for entropy, weight in figures if entropy < 0.29} == {False}


def test_the_reward_is_trained_on_beside_those_of_the_included_file(tmp_path, monkeypatch) -> None:
    written(tmp_path, monkeypatch)
    metrics = follow("my_reward.yaml")  # in its worker process
    assert 0 < metrics["reward_brief"] < 1 and {"reward_accuracy", "reward_format", "reward_reflection"} <= set(metrics)
    parts = {"accuracy": 1.0, "format": 0.2, "reflection": 0.2, "brief": 0.1}
    total = sum(weight * metrics[f"reward_{name}"] for name, weight in parts.items())
    assert metrics["reward"] == pytest.approx(total, abs=1e-5)


def test_the_reward_reads_text_and_messages_alike(tmp_path, monkeypatch) -> None:
    written(tmp_path, monkeypatch)
    brief = importlib.import_module("my_rewards").brief
    texts = ["a" * 100, "b" * 500, ""]
    chat = [[{"role": "assistant", "content": text}] for text in texts]
    assert brief(texts, answer=["1"] * 3) == brief(chat, prompts=[""] * 3) == [0.75, 0.0, 1.0]


def test_the_loop_is_minimal_s() -> None:
    source = (REPO / "grpo" / "minimal.py").read_text(encoding="utf-8")
    [quoted] = [b for lang, b in BLOCK.findall(README) if lang == "python" and not re.match(r"# \w+\.py\n", b)]
    code = [line.strip() for line in source.splitlines()]
    quoted_lines = [line.strip() for line in quoted.splitlines() if line.strip()]
    places = [code.index(line) if line in code else line for line in quoted_lines]
    assert len(quoted_lines) > 5
    assert [line for line in places if isinstance(line, str)] == []
    assert all(a < b for a, b in pairwise(places)), "in another order"


# ---- figures ------------------------------------------------------------------------------------------------


def test_figures_of_the_demo_are_those_of_the_results() -> None:
    known = []
    for file in (REPO / "experiments" / "results").rglob("results.json"):
        known += triples(json.loads(file.read_text(encoding="utf-8"))["variants"])
    pages = ("README.md", "docs/paper.md", "docs/findings/stages.md", "docs/findings/reflection.md")
    shown = [cell for page in pages for cell in CELL.findall(PAGES[REPO / page])]
    assert len(shown) >= 40
    for cell in shown:
        close = 0.5 * 10.0 ** -len(cell[0].partition(".")[2]) + 1e-9
        wanted = [float(x) for x in cell]
        assert any(all(abs(x - y) <= close for x, y in zip(wanted, t, strict=True)) for t in known), cell


def triple(values: list) -> list[tuple[float, float, float]]:
    if not all(isinstance(v, int | float) for v in values):
        return []
    return [(sum(values) / len(values), min(values), max(values))]


def triples(results: dict) -> list[tuple[float, float, float]]:
    """Mean, lowest and highest over the seeds of every figure of every variant and stage."""
    found = []
    for seeds in (seeds for stages in results.values() for seeds in stages.values()):
        for part in ("sampled", "greedy"):
            for name in seeds[0][part]:
                found += triple([seed[part][name] for seed in seeds])
        found += triple([seed["sampled"]["pass_at"][str(seed["samples"])] for seed in seeds])
    return found
