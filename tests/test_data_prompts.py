"""Prompts: chat templates of every kind, plain text, BOS and EOS, and the prefill."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from helpers_prompts import (
    CHATML,
    DROPS_SYSTEM,
    NO_SYSTEM,
    NO_THINKING,
    NOTHING_ADDED,
    PROBLEM,
    R1_DISTILL,
    THOUGHT_OVER,
    make_tokenizer,
)  # fmt: skip
from transformers import AutoTokenizer

from data import DataError, Problem, PromptConfig, build_prompt, without_prefill

SMOLLM2 = Path(__file__).parents[2] / "smollm2"


# --------------------------------------------------------------------------- chat


def test_auto_is_chat_if_there_is_a_template():
    assert build_prompt(PROBLEM, make_tokenizer(CHATML), PromptConfig()).messages is not None
    assert build_prompt(PROBLEM, make_tokenizer(), PromptConfig()).messages is None
    assert build_prompt(PROBLEM, make_tokenizer(CHATML), PromptConfig(style="plain")).messages is None


@pytest.mark.parametrize("adds", ["$A", "<bos> $A", "<bos> $A <eos>"])
def test_chat_is_the_template_and_not_a_token_more(adds):
    tokenizer = make_tokenizer(CHATML, adds)
    prompt = build_prompt(PROBLEM, tokenizer, PromptConfig(system="Think.", instruction="Now {question}"))
    assert prompt.messages == [
        {"role": "system", "content": "Think."},
        {"role": "user", "content": "What is {system} + 1?\n\nNow {question}"},
    ]
    assert prompt.text == (
        "<bos>system\nThink.<eos>\n<bos>user\nWhat is {system} + 1?\n\nNow {question}<eos>\n<bos>assistant\n"
    )
    assert tokenizer.decode(prompt.ids) == prompt.text, "no BOS but the template's, no EOS at the end"
    assert prompt.prefill == ""


@pytest.mark.parametrize(
    ("template", "prefill"),
    [
        (R1_DISTILL, "<think>\n"),
        (NO_THINKING, "<think>\n\n</think>\n\n"),
        (CHATML, ""),
        (NO_SYSTEM, ""),
        (NOTHING_ADDED, ""),
    ],
)
@pytest.mark.parametrize("question", ["1 + 1?", "Say <think>", "Is this <think>\n a tag?"])
def test_prefill_is_what_the_template_opened_not_the_question(template, prefill, question):
    prompt = build_prompt(Problem("x/y/0", question, "2"), make_tokenizer(template), PromptConfig())
    assert prompt.prefill == prefill
    assert prompt.text.endswith(prefill)


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM])
def test_system_text_joins_the_user_where_the_template_has_no_place_for_it(template):
    prompt = build_prompt(PROBLEM, make_tokenizer(template), PromptConfig(system="Think."))
    assert prompt.messages == [{"role": "user", "content": "Think.\n\nWhat is {system} + 1?"}]
    assert "Think.\n\nWhat is" in prompt.text


def test_white_space_around_the_users_turn_goes():
    prompt = build_prompt(PROBLEM, make_tokenizer(NOTHING_ADDED), PromptConfig(system="", instruction="Go.\n"))
    assert prompt.text == "What is {system} + 1?\n\nGo."


def test_no_system_text_no_system_message():
    prompt = build_prompt(PROBLEM, make_tokenizer(CHATML), PromptConfig(system=""))
    assert [message["role"] for message in prompt.messages] == ["user"]


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[9].content }}",
        "{% for %}",
        "{{ raise_exception('a\nb') }}",
        "{{ ''.__class__.__mro__[1].x }}",
    ],
)
@pytest.mark.parametrize("system", ["", "Think."])
def test_a_template_that_fails_is_one_line(template, system):
    with pytest.raises(DataError, match="the chat template fails: ") as caught:
        build_prompt(PROBLEM, make_tokenizer(template), PromptConfig(system=system))
    assert "\n" not in str(caught.value)


def test_chat_without_a_template_says_what_to_use():
    with pytest.raises(DataError, match="the tokenizer has no chat template: use plain or auto"):
        build_prompt(PROBLEM, make_tokenizer(), PromptConfig(style="chat"))


# --------------------------------------------------------------------------- plain


@pytest.mark.parametrize(
    ("adds", "bos"),
    [("$A", []), ("<bos> $A", ["<bos>"]), ("<bos> $A <eos>", ["<bos>"]), ("$A <eos>", []), ("<eos> $A", [])],
)
def test_plain_has_the_tokenizers_bos_and_never_its_eos(adds, bos):
    tokenizer = make_tokenizer(None, adds)
    prompt = build_prompt(PROBLEM, tokenizer, PromptConfig(system="S"))
    assert prompt.text == "S\nUser: What is {system} + 1?\nAssistant:"
    assert tokenizer.decode(prompt.ids) == "".join(bos) + prompt.text
    again = build_prompt(PROBLEM, tokenizer, PromptConfig(template="<bos>{question}"))
    assert tokenizer.decode(again.ids).count("<bos>") == 1, "a template's own BOS is not doubled"


def test_plain_template_fills_in_its_two_names_only_and_once():
    config = PromptConfig(system="{question}", template=r"{system}|{question} in \boxed{}: {x}", instruction="Go.")
    prompt = build_prompt(PROBLEM, make_tokenizer(), config)
    assert prompt.text == r"{question}|" + "What is {system} + 1?\n\nGo." + r" in \boxed{}: {x}"


def test_plain_without_a_system_text_begins_with_the_question():
    prompt = build_prompt(PROBLEM, make_tokenizer(), PromptConfig(system=""))
    assert prompt.text == "User: What is {system} + 1?\nAssistant:"


@pytest.mark.parametrize(("template", "prefill"), [("{question} <think>\n", "<think>\n"), ("{question}", "")])
def test_plain_prefill(template, prefill):
    problem = Problem("x/y/0", "Say <think>", "2")
    assert build_prompt(problem, make_tokenizer(), PromptConfig(template=template)).prefill == prefill


# --------------------------------------------------------------------------- both


def test_default_asks_for_the_tags():
    for tokenizer in (make_tokenizer(), make_tokenizer(CHATML), make_tokenizer(NO_SYSTEM)):
        text = build_prompt(PROBLEM, tokenizer, PromptConfig()).text
        assert all(tag in text for tag in ("<think>", "</think>", "<answer>", "</answer>", PROBLEM.question))


@pytest.mark.parametrize(
    ("config", "reason"),
    [({"style": "chatty"}, "auto, chat or plain"), ({"template": "{}"}, "no {question} in it")],
)
def test_bad_config(config, reason):
    with pytest.raises(DataError, match=reason):
        PromptConfig(**config)


def test_a_prompt_without_a_token():
    class Mute:
        chat_template = bos_token_id = None

        def __call__(self, text, **_):
            return {"input_ids": []}

    with pytest.raises(DataError, match="x/train/0 has no token"):
        build_prompt(PROBLEM, Mute(), PromptConfig(system=""))


IMAGE_TEXT = (
    "{% for m in messages %}[{{ m['role'] }}] {% for part in m['content'] %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}\n{% endfor %}[assistant] "
)


@pytest.mark.parametrize("template", [IMAGE_TEXT, "{{ messages[0]['content'] }}", "{{ messages[-1]['content'][:9] }}"])
def test_a_template_that_drops_the_question_is_refused_in_one_line(template):
    with pytest.raises(DataError, match="the question of problem x/train/0 is not in its prompt") as caught:
        build_prompt(PROBLEM, make_tokenizer(template), PromptConfig(system="Think. " * 5))
    assert "prompt.style=plain" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("response", "prefill", "rest"),
    [
        ("<think>\na", "", "<think>\na"),
        ("<think>\na", "<think>\n", "a"),
        ("<think>\na", "<think>", "\na"),
        ("<think>a", "<think>\n", "a"),
    ],
)
def test_without_prefill(response, prefill, rest):
    assert without_prefill(response, prefill) == rest


def test_an_empty_thought_cannot_be_taught_and_says_how_to_switch_thinking_on():
    with pytest.warns(UserWarning, match="empty thought, so the model does not think.*enable_thinking=true"):
        prefill = build_prompt(PROBLEM, make_tokenizer(NO_THINKING), PromptConfig()).prefill
    with pytest.raises(DataError, match=r"empty thought .* prompt\.template_args\.enable_thinking=true") as caught:
        without_prefill("<think>\n7 + 5 = 12\n</think>\n<answer>12</answer>", prefill)
    assert "\n" not in str(caught.value)


def test_a_thought_that_is_over_is_noticed_and_can_be_switched_on():
    """DeepSeek-V3.1 ends the prompt in a bare </think>: nothing of the response is there, and no thought will be."""
    tokenizer = make_tokenizer(THOUGHT_OVER)
    warning = (
        r"ends the prompt with </think>, a thought that is over, so .*; prompt\.template_args\.thinking=true lets it"
    )
    with pytest.warns(UserWarning, match=warning):
        prompt = build_prompt(PROBLEM, tokenizer, PromptConfig())
    assert prompt.text.endswith("assistant</think>") and prompt.prefill == ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build_prompt(PROBLEM, tokenizer, PromptConfig(template_args={"thinking": True})).prefill == "<think>"
        said = Problem("x/y/0", "Is this the end: </think>", "2")
        build_prompt(said, make_tokenizer(NOTHING_ADDED), PromptConfig())  # the user's text, not the template's
    with pytest.warns(UserWarning, match=r"a thought that is over.*; prompt\.style=plain lets it think"):
        build_prompt(PROBLEM, make_tokenizer(CHATML.replace("assistant\n", "assistant\n</think>\n")), PromptConfig())


def test_without_prefill_of_another_beginning():
    with pytest.raises(DataError, match="does not begin with the prompt's"):
        without_prefill("a", "<think>\n")


@pytest.mark.skipif(not (SMOLLM2 / "tokenizer.json").exists(), reason="SmolLM2 is not there")
def test_smollm2():
    tokenizer = AutoTokenizer.from_pretrained(SMOLLM2)
    prompt = build_prompt(PROBLEM, tokenizer, PromptConfig(system="Think."))
    assert prompt.text == (
        "<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\nWhat is {system} + 1?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True, return_dict=False)
    assert prompt.ids == ids
