"""From a problem to token ids: through the model's chat template, or as plain text.

    messages = [system, user]  --chat template-->  text  --tokenizer-->  ids
    template with {system}, {question}           -->  text  --tokenizer-->  ids

The model is asked, as in DeepSeek-R1 (arXiv:2501.12948, table 1), to think in `<think>` tags and
to answer in `<answer>` tags. Some chat templates (R1's distilled models) open the first tag themselves. That
piece of the response is the prompt's `prefill`: the trainer puts it before the generated text, so that a
format reward sees whole tags.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.errors import DataError
from data.problems import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the "
    "answer. The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> "
    "tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>."
)
"""DeepSeek-R1-Zero's instruction."""


@dataclass(frozen=True)
class PromptConfig:
    """How a problem becomes a prompt."""

    style: str = "auto"
    """`chat` (the tokenizer's chat template), `plain` (`template` below), or `auto`: chat if there is one."""

    system: str = SYSTEM
    """Instruction before the question: the system message of a chat, {system} in the plain template."""

    instruction: str = ""
    """Text after the question after a blank line; for models that heed no system message."""

    template: str = "{system}\nUser: {question}\nAssistant:"
    """The plain prompt; {question} and, if wanted, {system} are filled in, other braces stay as they are."""

    def __post_init__(self) -> None:
        if self.style not in ("auto", *STYLES):
            raise DataError(f"prompt.style: unknown style {self.style!r}; it is auto, {' or '.join(STYLES)}")
        if "{question}" not in self.template:
            raise DataError("prompt.template: there is no {question} in it")


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model reads it."""

    ids: list[int]
    """Token ids, without padding; never ends in an EOS that the tokenizer put there."""

    text: str
    """The rendered text that was tokenized (a BOS that the tokenizer adds is not in it)."""

    messages: list[dict[str, str]] | None
    """The chat messages that were rendered; None for a plain prompt."""

    prefill: str
    """The beginning of the response that the prompt already holds, such as "<think>\\n"; mostly ""."""


def build_prompt(problem: Problem, tokenizer: PreTrainedTokenizerBase, config: PromptConfig) -> Prompt:
    """Render and tokenize the prompt of one problem.

    Args:
        problem: its question is the user's turn.
        tokenizer: a transformers tokenizer; its chat template runs in transformers' Jinja sandbox.
        config: style and texts.

    Raises:
        DataError: there is no chat template but style is chat, or it fails, or the prompt has no token.
    """
    style = config.style
    if style == "auto":
        style = "chat" if tokenizer.chat_template else "plain"
    question = problem.question + (f"\n\n{config.instruction}" if config.instruction else "")
    prompt = STYLES[style](question, tokenizer, config)
    if not prompt.ids:
        raise DataError(f"the prompt of problem {problem.id} has no token")
    return prompt


def without_prefill(response: str, prefill: str) -> str:
    """The part of a full response that is left to write after a prompt which already holds `prefill`.

    White space after the tag may differ: "<think>7 + 5" goes on after a prefill of "<think>\\n" as well.

    Raises:
        DataError: the response does not begin that way.
    """
    if response.startswith(prefill):
        return response[len(prefill) :]
    if response.startswith(prefill.strip()):
        return response[len(prefill.strip()) :].lstrip()
    raise DataError(f"the response {response[:40]!r} does not begin with the prompt's {prefill!r}")


# --------------------------------------------------------------------------- the two styles


def _chat(question: str, tokenizer: PreTrainedTokenizerBase, config: PromptConfig) -> Prompt:
    """Through the chat template, which writes every special token itself, BOS included."""
    if not tokenizer.chat_template:
        raise DataError("prompt.style is chat, but the tokenizer has no chat template: use plain or auto")
    messages, text = _render_messages(question, tokenizer, config.system.strip())
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return Prompt(ids, text, messages, _opened(text.rpartition(messages[-1]["content"])[2]))


def _plain(question: str, tokenizer: PreTrainedTokenizerBase, config: PromptConfig) -> Prompt:
    """Through `config.template`, after a BOS if the tokenizer adds one; an EOS that it adds is left off."""
    values = {"{system}": config.system, "{question}": question}
    # In one pass: a question that says "{system}" keeps it.
    text = re.sub(r"\{system\}|\{question\}", lambda match: values[match[0]], config.template).lstrip()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:1] != [bos] and tokenizer(text)["input_ids"][:1] == [bos]:
        ids = [bos, *ids]
    return Prompt(ids, text, None, _opened(text.rpartition(question)[2]))


STYLES: dict[str, Callable[[str, Any, PromptConfig], Prompt]] = {"chat": _chat, "plain": _plain}
"""A style turns (question, tokenizer, config) into a prompt."""


def _render_messages(
    question: str, tokenizer: PreTrainedTokenizerBase, system: str
) -> tuple[list[dict[str, str]], str]:
    """The messages and their text; a system text that the template has no place for joins the user's turn."""
    question = question.strip()
    if system:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        try:
            text = _render(messages, tokenizer)
        except DataError:  # "System role not supported"; any other error comes back below
            text = ""
        if system in text:  # some templates drop what they do not know
            return messages, text
        question = f"{system}\n\n{question}"
    messages = [{"role": "user", "content": question}]
    return messages, _render(messages, tokenizer)


def _render(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program of the model's author: it may raise anything
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"the chat template fails: {type(error).__name__}: {reason}") from error


def _opened(tail: str) -> str:
    """What of the response stands at the end of the prompt: "<think>\\n", or a think block left empty."""
    match = re.search(r"<think>\s*(</think>\s*)?\Z", tail)
    return match[0] if match else ""
