"""A chat template's variables, its date, the hash of what it makes, and prompts that are too long."""

from __future__ import annotations

import inspect
import re
import warnings

import pytest
from helpers_prompts import CHATML, PROBLEM, make_tokenizer
from transformers import PreTrainedTokenizerFast

from data import DataConfig, DataError, Problem, PromptConfig, build_prompt, fitting, prompts_hash
from data.prompts import TAKEN

QWEN3 = CHATML.replace(
    "assistant\n",
    "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}",
)
DATED = "Today is {{ strftime_now('%d %b %Y') }}.\n" + CHATML
LLAMA3 = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}\n"
)


def prompt_of(template: str, **config):
    return build_prompt(PROBLEM, make_tokenizer(template), PromptConfig(**config))


def test_the_templates_variables_are_settings():
    assert prompt_of(QWEN3).prefill == prompt_of(QWEN3, template_args={"enable_thinking": True}).prefill == ""
    assert prompt_of(QWEN3, template_args={"enable_thinking": False}).prefill == "<think>\n\n</think>\n\n"
    assert prompt_of(LLAMA3 + CHATML, template_args={"date_string": "1 May 2025"}).text.startswith("1 May 2025\n")


def test_a_variable_that_does_nothing_is_refused():
    with pytest.raises(DataError, match="the tokenizer's chat template has no 'enable_thinkin'"):
        prompt_of(QWEN3, template_args={"enable_thinkin": False})
    with pytest.raises(DataError, match="are for a chat template, but this prompt is plain"):
        build_prompt(PROBLEM, make_tokenizer(), PromptConfig(template_args={"enable_thinking": True}))
    with pytest.raises(DataError, match="'add_generation_prompt' is not the template's variable"):
        PromptConfig(template_args={"add_generation_prompt": False})


def test_what_transformers_takes_for_itself_is_no_variable():
    parameters = inspect.signature(PreTrainedTokenizerFast.apply_chat_template).parameters.values()
    named = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    assert named - {"self"} <= TAKEN


@pytest.mark.parametrize("template", [DATED, LLAMA3 + CHATML])
def test_the_date_can_be_set_and_is_missed_once_where_it_shows(template):
    set_to = prompt_of(template, date="2024-07-26")
    assert "26 Jul 2024" in set_to.text and set_to == prompt_of(template, date="2024-07-26")
    tokenizer, many = make_tokenizer(template), [Problem(f"x/y/{i}", f"{i} + 1?", "2") for i in range(20)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        texts = [build_prompt(problem, tokenizer, PromptConfig()).text for problem in many]
    assert re.search(r"\d\d \w{3} 20\d\d", texts[-1]) and "26 Jul 2024" not in texts[-1]
    assert [str(w.message) for w in caught] == [
        "the chat template prints today's date, so that prompts differ from day to day: set prompt.date"
    ]


def test_a_template_that_prints_no_date_is_not_warned_of():
    unused = "{% if asked is defined %}{{ strftime_now('%Y') }}{% endif %}" + CHATML
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompt_of(CHATML), prompt_of(DATED, date="2024-07-26"), prompt_of(CHATML, date="2024-07-26")
        prompt_of(unused), prompt_of(LLAMA3 + CHATML, template_args={"date_string": "1 May 2025"})


def test_a_date_that_cannot_be_set_is_refused():
    with pytest.raises(DataError, match="asks for the time in a way of its own"):
        prompt_of("{% set form = '%Y' %}{{ strftime_now(form) }}" + CHATML, date="2024-07-26")


def test_variables_and_date_come_from_yaml_as_they_are_written(tmp_path):
    from grpo.runs.settings import load_config

    (tmp_path / "c.yaml").write_text("prompt: {date: 2024-07-26, template_args: {enable_thinking: false}}\n")
    config = load_config(str(tmp_path / "c.yaml"), ["prompt.template_args.date_string=1 May 2025"]).prompt
    assert config.date == "2024-07-26"
    assert config.template_args == {"enable_thinking": False, "date_string": "1 May 2025"}
    with pytest.raises(DataError, match="'tomorrow' is no day such as 2024-07-26"):
        PromptConfig(date="tomorrow")


def test_the_hash_is_of_what_the_model_reads():
    base = prompt_of(DATED, date="2024-07-26")
    others = [
        prompt_of(DATED, date="2024-07-27"), prompt_of(CHATML), prompt_of(DATED, date="2024-07-26", system="Think."),
        build_prompt(Problem("x/train/0", "1 + 2?", "3"), make_tokenizer(DATED), PromptConfig(date="2024-07-26")),
    ]  # fmt: skip
    assert prompts_hash([base]) == prompts_hash([prompt_of(DATED, date="2024-07-26")])
    assert len({prompts_hash(prompts) for prompts in ([base], *([other] for other in others), [base, base])}) == 6


# --------------------------------------------------------------------------- prompts that are too long


def test_long_prompts_are_left_out_where_that_is_asked_for():
    tokenizer, config = make_tokenizer(), PromptConfig(style="plain", template="{question}")  # a token a letter
    problems = [Problem(f"x/y/{length}", "a" * length, "1") for length in (5, 30, 6, 40, 7)]
    with pytest.warns(UserWarning, match=r"^2 of 5 problems left out: .* data.max_prompt_tokens=7 \(up to 40\)$"):
        kept = fitting(problems, tokenizer, config, DataConfig(count=1, max_prompt_tokens=7))
    assert [problem.id for problem in kept] == ["x/y/5", "x/y/6", "x/y/7"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fitting(problems, tokenizer, config, DataConfig(count=1, max_prompt_tokens=40)) == problems
        assert fitting(problems, tokenizer, config, DataConfig(count=1)) == problems
    with pytest.raises(
        DataError, match=r"data\.max_prompt_tokens=4: every prompt is longer, the shortest has 5 tokens"
    ):
        fitting(problems, tokenizer, config, DataConfig(count=1, max_prompt_tokens=4))
    with pytest.raises(DataError, match="must not be negative"):
        DataConfig(max_prompt_tokens=-1)
