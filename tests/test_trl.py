"""Rewards move between TRL and this project unchanged, in both directions."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_models import plain
from helpers_runs import grpo as run_stage
from helpers_runs import lines, memorised, metrics, write_module
from helpers_slow import slow

from data import DataConfig, load_problems
from grpo.model.policy import ModelConfig, load_policy
from grpo.runs.settings import load_config
from rewards import accuracy_reward, format_reward, get_reward, reflection_reward

TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"

# as open-r1 writes them (src/open_r1/rewards.py): conversational completions, a gold column, **kwargs
OPEN_R1 = r'''
import math
import re


def format_reward(completions, **kwargs):
    """Reward function that checks if the completion has a specific format."""
    pattern = r"^<think>\n.*?\n</think>\n<answer>\n.*?\n</answer>$"
    completion_contents = [completion[0]["content"] for completion in completions]
    matches = [re.match(pattern, content, re.DOTALL | re.MULTILINE) for content in completion_contents]
    return [1.0 if match else 0.0 for match in matches]


def tag_count_reward(completions, **kwargs) -> list[float]:
    def count_tags(text: str) -> float:
        return sum(0.25 for tag in ("<think>", "</think>", "<answer>", "</answer>") if text.count(tag) == 1)

    contents = [completion[0]["content"] for completion in completions]
    return [count_tags(c) for c in contents]


def len_reward(completions: list[list[dict]], solution: list[str], **kwargs) -> list[float]:
    contents = [completion[0]["content"] for completion in completions]
    correctness = [s in c for c, s in zip(contents, solution)]
    lengths = [len(content) for content in contents]
    low, high = min(lengths), max(lengths)
    if high == low:
        return [0.0] * len(completions)
    share = [0.5 - (n - low) / (high - low) for n in lengths]
    return [float(s) if right else float(min(0, s)) for s, right in zip(share, correctness)]


def get_cosine(max_len):
    def cosine_reward(completions, completion_ids, **kwargs):
        return [math.cos(len(ids) / max_len * math.pi) for ids in completion_ids]

    return cosine_reward


cosine_reward = get_cosine(6)


class Curriculum:
    """A callable object; looks at the trainer's state and skips some rows."""

    __name__ = "curriculum"

    def __call__(self, prompts, completions, trainer_state, log_metric, log_extra, **kwargs):
        log_metric("step", trainer_state.global_step)
        log_extra("prompt", [p[-1]["content"] for p in prompts])
        return [None if i % 2 else float(trainer_state.global_step) for i in range(len(completions))]


curriculum = Curriculum()


async def remote(completions, **kwargs):
    return [0.5] * len(completions)
'''
TEXT = '''
def correctness(prompts, completions, answer, **kwargs):
    """TRL's documentation: text prompts and completions."""
    assert all(isinstance(x, str) for x in (*prompts, *completions))
    return [1.0 if a in c else 0.0 for c, a in zip(completions, answer)]
'''


@pytest.fixture
def chat_model(tmp_path) -> Path:
    """The untrained embedded model with a chat template, so that completions are conversations."""
    policy = load_policy(ModelConfig("tiny-init"))
    policy.tokenizer.chat_template = TEMPLATE
    policy.save(tmp_path / "chat")
    return tmp_path / "chat"


# ---- peers' functions in a configuration of ours ------------------------------------------------------------


@pytest.mark.parametrize("sandbox", ["false", slow("true")])
def test_open_r1s_functions_work_in_a_configuration(tmp_path, monkeypatch, chat_model, sandbox):
    name = write_module(tmp_path, monkeypatch, OPEN_R1)
    functions = ("format_reward", "tag_count_reward", "len_reward", "cosine_reward", "curriculum", "remote")
    run = tmp_path / "run"
    settings = {"model__path": chat_model, "prompt__style": "chat", "grpo__drop_zero_spread": "false"}
    settings["sandbox__enabled"] = sandbox
    assert run_stage("grpo", run, *(f"rewards.{f}.function={name}:{f}" for f in functions), **settings) == 0
    rows = metrics(run)
    assert [row["reward_curriculum"] for row in rows] == [0.0, 1.0, 2.0, 3.0]  # steps that are done
    assert all(row["reward_remote"] == 0.5 and -0.5 <= row["reward_len_reward"] <= 0.5 for row in rows)
    samples = lines(run / "completions.jsonl")
    for sample in samples:
        text, given = sample["completion"], sample["rewards"]
        tags = ("<think>", "</think>", "<answer>", "</answer>")
        assert given["tag_count_reward"] == 0.25 * sum(text.count(tag) == 1 for tag in tags)
        assert -1 <= given["cosine_reward"] <= 1
    assert [s["rewards"]["curriculum"] for s in samples if s["step"] == 2][:4] == [1.0, None, 1.0, None]


@pytest.mark.parametrize("sandbox", ["false", "true"])
def test_functions_on_text_work_in_a_configuration(tmp_path, monkeypatch, sandbox):
    name, settings = write_module(tmp_path, monkeypatch, TEXT), {"sandbox__enabled": sandbox, "grpo__steps": 2}
    assert run_stage("grpo", tmp_path / "run", f"rewards.{name}:correctness.weight=0.5", **settings) == 0
    for sample in lines(tmp_path / "run" / "completions.jsonl"):
        assert sample["rewards"][f"{name}:correctness"] == float(sample["answer"] in sample["completion"])


TRL = """
from trl.rewards import get_cosine_scaled_reward, get_repetition_penalty_reward, get_soft_overlong_punishment

overlong = get_soft_overlong_punishment(max_completion_len=6, soft_punish_cache=3)
repetition = get_repetition_penalty_reward(ngram_size=2)
cosine = get_cosine_scaled_reward(max_len=6)
"""


@pytest.mark.parametrize("sandbox", ["false", slow("true")])
def test_trls_functions_work_in_a_configuration(tmp_path, monkeypatch, chat_model, sandbox):
    pytest.importorskip("trl")
    pytest.importorskip("math_verify")
    name = write_module(tmp_path, monkeypatch, TRL)
    made, plain = ("overlong", "repetition", "cosine"), ("accuracy", "reasoning_accuracy", "think_format")
    rewards = {f: f"{name}:{f}" for f in made} | {f: f"trl.rewards:{f}_reward" for f in plain}
    run = tmp_path / "run"
    settings = {"model__path": chat_model, "prompt__style": "chat", "grpo__drop_zero_spread": "false"}
    settings["sandbox__enabled"] = sandbox
    assert run_stage("grpo", run, *(f"rewards.{k}.function={v}" for k, v in rewards.items()), **settings) == 0
    for row in metrics(run):
        assert row["reward_accuracy"] == row["reward_reasoning_accuracy"] == row["reward_think_format"] == 0.0
        assert -1 <= row["reward_overlong"] < 0 and -1 <= row["reward_repetition"] <= 0 and row["reward_cosine"] < 0


def test_trls_accuracy_agrees_with_ours_on_what_our_trainer_hands_it(tmp_path):
    rewards = pytest.importorskip("trl.rewards")
    pytest.importorskip("math_verify")
    problems = load_problems(DataConfig(count=20))
    right = [rf"<think>so</think><answer>\boxed{{{p.answer}}}</answer>" for p in problems]
    wrong = [rf"<think>so</think><answer>\boxed{{{p.answer}1}}</answer>" for p in problems]
    texts, golds = right + wrong, [p.answer for p in problems] * 2
    chat = [[{"role": "assistant", "content": t}] for t in texts]
    expected = [1.0] * 20 + [0.0] * 20
    assert rewards.accuracy_reward(chat, solution=golds) == expected
    assert accuracy_reward(chat, solution=golds) == accuracy_reward(texts, answer=golds) == expected
    assert rewards.think_format_reward(chat) == format_reward(chat) == [1.0] * 40


# ---- ours in TRL's trainer ----------------------------------------------------------------------------------


OURS = [
    accuracy_reward,
    format_reward,
    reflection_reward,
    get_reward("length", max_length=4, cache=4),
    get_reward("repetition"),
    get_reward("reflection_reward", mode="ungated", require_tags=False),
]


def train_with_trl(folder: Path, model: Path, rows: list[dict], length: int) -> list[dict]:
    """Two steps of GRPOTrainer with our rewards. Returns what it logged at each."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    policy = load_policy(ModelConfig(str(model)))
    options = trl.GRPOConfig(
        output_dir=str(folder), max_steps=2, per_device_train_batch_size=8, num_generations=4, report_to=[],
        max_completion_length=length, use_cpu=True, bf16=False, logging_steps=1, save_strategy="no",
        disable_tqdm=True, beta=0.0,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        policy.model, OURS, args=options, train_dataset=datasets.Dataset.from_list(rows),
        processing_class=policy.tokenizer,
    )  # fmt: skip
    with plain(policy.model):
        trainer.train()
    return [row for row in trainer.state.log_history if "reward" in row]


@pytest.mark.parametrize("conversational", [False, True])
def test_our_functions_work_in_trls_trainer(tmp_path, conversational, chat_model):
    """Its log holds each of our rewards by name."""
    problems = load_problems(DataConfig(count=4))
    rows = [
        {
            "prompt": [{"role": "user", "content": p.question}] if conversational else p.question + "\n",
            "answer": p.answer,
            "solution": p.solution,
        }
        for p in problems
    ]
    logged = train_with_trl(tmp_path / "trl", chat_model, rows, length=6)
    assert len(logged) == 2
    for row in logged:
        for function in OURS:
            assert f"rewards/{function.__name__}/mean" in row
        assert row["rewards/accuracy_reward/mean"] == row["rewards/format_reward/mean"] == 0.0
        assert -1 <= row["rewards/length_reward/mean"] < 0


def test_our_functions_pay_in_trls_trainer_what_they_pay_here(tmp_path, tmp_path_factory):
    """A model that knows its problems by heart, or nearly, is right there too."""
    pytest.importorskip("trl")
    run, _ = memorised(tmp_path_factory)
    config = load_config(str(run / "config.yaml"))
    rows = [{"prompt": p.question + "\n", "answer": p.answer} for p in load_problems(config.data, config.seed)]
    logged = train_with_trl(tmp_path / "trl", run, rows, length=100)
    assert all(row["rewards/accuracy_reward/mean"] > 0.3 < row["rewards/format_reward/mean"] for row in logged)


def test_a_bound_reward_keeps_its_name_for_trls_log():
    assert get_reward("length", max_length=6, cache=5).__name__ == "length_reward"
