"""experiments/sft_cost.py measures what it says, on the demo's model in place of SmolLM2."""

from __future__ import annotations

import pytest
from helpers_slow import slow

from experiments import sft_cost


@pytest.mark.parametrize(("settings", "trained"), [slow([], 193_920), (["model.lora.rank=4"], 18_944)])
def test_a_run_is_counted_timed_and_its_memory_read(settings, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(sft_cost, "CONFIG", "experiments/demo/sft.yaml")
    found = sft_cost.measured(settings, tmp_path)
    assert found["trained"] == trained
    assert len(found["seconds"]) == sft_cost.STEPS - 1 and min(found["seconds"]) > 0
    assert 0.1 < found["gb"] < 5


def test_a_run_that_fails_says_why(tmp_path):
    with pytest.raises(SystemExit, match=r"grpo sft .*\ngrpo: .*no such file"):
        sft_cost.measured([f"data.root={tmp_path / 'none'}"], tmp_path)
