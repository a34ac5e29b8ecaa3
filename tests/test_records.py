"""What a step leaves on the disk: all completions by rule, and each token of two groups before and after the step."""

from __future__ import annotations

import itertools
import math
import statistics
from pathlib import Path

import pytest
import torch
from helpers_runs import PARITY, lines, write_module
from helpers_runs import grpo as run_stage
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from data.embedded.tiny_model import build_tokenizer
from grpo.logprobs import logps_without_grad
from grpo.model.policy import load_policy
from grpo.records import is_token_step, loops, spread_shares, token_texts
from grpo.runs.config import Config, GRPOConfig
from grpo.runs.log import RunLog
from grpo.runs.settings import load_config
from grpo.scoring import RewardSet
from grpo.types import Rollouts

# ---- texts of tokens -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that has seen no sign beyond ASCII, so that such a sign is several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ["the sum of two"] * 9, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("text", ["the sum √2 ≈ 1.41", "中文 answer", "a😀b", "plain", "", "≈"])
def test_signs_of_several_tokens_are_whole(bytes_tokenizer, text):
    ids = bytes_tokenizer(text)["input_ids"]
    texts = token_texts(bytes_tokenizer, ids)
    assert len(texts) == len(ids) and "".join(texts) == text and "\ufffd" not in "".join(texts)


def test_half_a_sign_at_the_end_and_bytes_that_are_no_text_lose_nothing(bytes_tokenizer):
    ids = bytes_tokenizer("a√")["input_ids"]
    texts = token_texts(bytes_tokenizer, ids[:-1])
    assert len(texts) == len(ids) - 1 and texts[0] == "a" and "\ufffd" in texts[-1]
    [lone] = [i for i in bytes_tokenizer("√")["input_ids"][1:2]]
    texts = token_texts(bytes_tokenizer, [lone] * 9)
    assert len(texts) == 9 and "".join(texts) == bytes_tokenizer.decode([lone] * 9)


def test_the_embedded_tokenizer_keeps_its_spaces():
    tokenizer = build_tokenizer()
    ids = tokenizer("<think>6 + 19 = 25.</think>\n<answer>25</answer>")["input_ids"]
    texts = token_texts(tokenizer, ids)
    assert "".join(texts) == tokenizer.decode(ids) and " +" in texts


# ---- metrics ---------------------------------------------------------------------------------------------------


def test_shares_of_the_spread_are_by_hand():
    rewards = RewardSet({"a": None, "b": None, "c": None}, torch.tensor([1.0, 2.0, 5.0]))
    # one group: a alone differs; the other: b alone, with twice the weight; c is the same throughout
    scores = torch.tensor([[0.0, 1, 3], [1, 1, 3], [1, 0, 3], [1, 1, 3]])
    shares = spread_shares(scores, rewards, 2)
    # variances about the group's mean: a 2 x 0.25, b 2 x 1
    assert shares == pytest.approx({"spread_share_a": 0.2, "spread_share_b": 0.8, "spread_share_c": 0.0})
    against = spread_shares(torch.tensor([[0.0, 1, 0], [3, 0, 0]]), rewards, 2)  # b pulls the other way
    assert against["spread_share_b"] < 0 and sum(against.values()) == pytest.approx(1)
    killed = torch.tensor([[1.0, 1, 0], [1, 1, 0], [1, 0, 0], [math.nan] * 3])  # its score is unknown, not 0
    assert spread_shares(killed, rewards, 4) == pytest.approx(spread_shares(killed[:3], rewards, 3))
    flat = spread_shares(torch.ones(4, 3), rewards, 2)
    assert all(x != x for x in flat.values())


@pytest.mark.parametrize(
    ("ids", "is_one"),
    [([7] * 12, True), ([7] * 11, False), ([1, 2, 3, 4] * 3, True), ([9, *([1, 2, 3, 4, 5] * 3)], True),
     (list(range(60)), False), ([], False), ([1, 2, 3, 4] * 2, False)],
)  # fmt: skip
def test_a_loop_is_the_same_three_times_over(ids, is_one):
    assert loops(ids) == is_one


def test_the_pass_after_the_step_is_made_as_often_as_its_cost_allows():
    often = [is_token_step(s, Config(grpo=GRPOConfig(steps=25, prompts_per_step=32))) for s in range(25)]
    assert all(often)
    seldom = [s for s in range(25) if is_token_step(s, Config(grpo=GRPOConfig(steps=25, prompts_per_step=8)))]
    assert seldom == [0, 4, 8, 12, 16, 20, 24]
    # two of eight groups, in every fourth step: a sixteenth of the forward passes
    assert is_token_step(2, Config(grpo=GRPOConfig(steps=3, prompts_per_step=1)))  # the last


# ---- a run -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Two steps of GRPO, one update each, with a learning rate that moves the tokens."""
    folder = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch:
        name = write_module(folder, patch, PARITY)
        settings = [
            "grpo.steps=2",
            "grpo.prompts_per_step=4",
            "grpo.max_refills=1",
            "optim.lr=1e-3",
            "optim.warmup_steps=0",
        ]
        assert run_stage("grpo", folder / "run", f"rewards.{name}:parity.weight=2", *settings) == 0
    return folder / "run"


def test_every_completion_is_there_with_all_that_is_known_of_it(run):
    rows, metrics = lines(run / "completions.jsonl"), lines(run / "metrics.jsonl")
    for step in (1, 2):
        some, row = [r for r in rows if r["step"] == step], metrics[step - 1]
        assert len(some) == 4 * (row["groups"] + row["dropped"])
        assert sum(r["length"] for r in some) == row["sampled_tokens"]
        assert sum(r["truncated"] for r in some) / len(some) == pytest.approx(row["truncated"])
        assert sum(r["total"] for r in some) / len(some) == pytest.approx(row["reward"])
        assert sum(not r["kept"] for r in some) == 4 * row["dropped"]
    for row in rows:
        assert row["question"] and row["problem"] and row["total"] == 2 * next(iter(row["rewards"].values()))
        assert row["kept"] == ("advantage" in row) == ("dropped" not in row)
        assert row["kept"] or row["dropped"] == "all 4 of the group have the same total reward"


def test_tokens_of_two_groups_are_there_the_one_of_the_largest_spread_among_them(run):
    for step in (1, 2):
        rows = [r for r in lines(run / "completions.jsonl") if r["step"] == step and r["kept"]]
        groups: dict[str, list[dict]] = {}
        for row in rows:
            groups.setdefault(row["problem"], []).append(row)
        chosen = [name for name, some in groups.items() if "tokens" in some[0]]
        assert len(chosen) == min(2, len(groups))

        def spread(name, groups=groups):
            return statistics.stdev(row["total"] for row in groups[name])

        assert max(map(spread, chosen)) == max(map(spread, groups))


def test_log_probs_before_are_the_sampler_s_model_s_and_those_after_are_the_next_one_s(run):
    """The run's last step: its log-probs after it are those of the model that the run saved."""
    rows = [r for r in lines(run / "completions.jsonl") if "tokens" in r]
    config = load_config(str(run / "config.yaml"), checked=False)
    for step, model, name in ((1, config.model.path, "before"), (2, str(run / "model"), "after")):
        policy = load_policy(config.model.__class__(model))
        for row in [r for r in rows if r["step"] == step][:4]:
            ids = row["tokens"]["ids"]
            template = config.prompt.template.format(question=row["question"])
            rollouts = Rollouts(
                prompts=[policy.tokenizer(template)["input_ids"]],
                prompt_index=torch.zeros(1, dtype=torch.long),
                completion_ids=torch.tensor([ids]),
                mask=torch.ones(1, len(ids), dtype=torch.bool),
                sampler_logps=torch.zeros(1, len(ids)),
                truncated=torch.zeros(1, dtype=torch.bool),
            )
            logps, _ = logps_without_grad(policy, rollouts, 1.0, 4096)
            assert row["tokens"][name] == pytest.approx(logps[0].tolist(), abs=2e-3)
            assert "".join(row["tokens"]["text"]).startswith(row["completion"][:3])
    moved = [abs(a - b) for r in rows for a, b in zip(r["tokens"]["after"], r["tokens"]["before"], strict=True)]
    assert max(moved) > 0.01
    assert all("ratio" not in r["tokens"] and "weight" not in r["tokens"] for r in rows)  # they are all 1


# ---- bounds ----------------------------------------------------------------------------------------------------


def write_steps(folder: Path, steps: int, megabytes: float, flagged: tuple[int, ...] = ()) -> list[int]:
    folder.mkdir()
    log = RunLog(folder, megabytes=megabytes, steps=steps)
    for step in range(1, steps + 1):
        for _ in range(4):
            log.sample(step, completion="x" * 100)
        log.keep_samples(step, step in flagged)
    log.close()
    return sorted({row["step"] for row in lines(folder / "completions.jsonl")})


def test_all_steps_are_kept_while_the_bound_allows_and_evenly_chosen_ones_otherwise(tmp_path):
    assert write_steps(tmp_path / "all", 20, 1.0) == list(range(1, 21))
    kept = write_steps(tmp_path / "some", 201, 0.02, flagged=(77, 133))
    assert (tmp_path / "some" / "completions.jsonl").stat().st_size <= 22_000
    assert {1, 77, 133, 201} <= set(kept) and 15 < len(kept) < 60
    even = [s for s in kept if s not in (1, 77, 133, 201)]
    gaps = {b - a for a, b in itertools.pairwise(even)}
    assert len(gaps) <= 2


def test_a_stop_loses_no_warning_and_repeats_none(tmp_path):
    log = RunLog(tmp_path)
    log.warn(3, "kl", "far", value=1.0)
    state = log.position()
    log.warn(9, "kl", "farther")
    log.close()
    again = RunLog(tmp_path, state)
    assert again.warned == {"kl": 3} and len(lines(tmp_path / "warnings.jsonl")) == 1
    [row] = lines(tmp_path / "warnings.jsonl")
    assert row == {"step": 3, "kind": "kl", "text": "far", "value": 1.0}
    again.close()
