"""README's first ablation, as it is written there, is a valid plan with the user's own weight."""

from __future__ import annotations

import re
from pathlib import Path

from experiments.lab.plan import nodes_of, read_plan

REPO = Path(__file__).parents[1]


def test_the_first_ablation_is_valid_as_it_is_written(tmp_path, monkeypatch):
    text = (REPO / "README.md").read_text(encoding="utf-8")
    for name, body in re.findall(r"```\w+\n# (\S+)\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(body)
    (tmp_path / "experiments").symlink_to(REPO / "experiments")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    plan = read_plan(Path("my_ablation.yaml"))
    chains = nodes_of(plan, Path("runs"), [0])
    assert 'loss.weight=["my_weight:unsure"]' in chains["unsure", 0][1].command
    assert chains["unsure", 0][0].folder == chains["all tokens", 0][0].folder  # SFT is shared
    assert "loss.weight" not in " ".join(chains["all tokens", 0][1].command)
