"""From a problem to token ids: through the model's chat template, or as plain text.

    messages = [system, (earlier turns,) user]  --chat template-->  text  --tokenizer-->  ids
    template with {system}, {question}           -->  text  --tokenizer-->  ids

The model is asked, as in DeepSeek-R1 (arXiv:2501.12948, table 1), to think in `<think>` tags and
to answer in `<answer>` tags. Some chat templates (R1's distilled models) open the first tag themselves. That
piece of the response is the prompt's `prefill`: the trainer puts it before the generated text, so that a
format reward sees whole tags.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from data.chat import opened, render, thinking_switch
from data.config import DataConfig
from data.errors import DataError
from data.problem import Problem

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
    """Instruction before the question: the system message of a chat that has none, {system} in the plain template."""

    instruction: str = ""
    """Text after the question after a blank line; for models that heed no system message."""

    template: str = "{system}\nUser: {question}\nAssistant:"
    """The plain prompt; {question} and, if wanted, {system} are filled in, other braces stay as they are."""

    template_args: dict[str, Any] = field(default_factory=dict)
    """Variables of the chat template: `enable_thinking: true` (Qwen3), `date_string: 26 Jul 2024` (Llama 3)."""

    date: Any = ""
    """The day, as 2024-07-26, for a chat template that prints today's; empty: today, and other prompts tomorrow."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "date", str(self.date or ""))  # YAML reads a day as a date
        try:
            datetime.fromisoformat(self.date or "2024-07-26")
        except ValueError:
            raise DataError(f"prompt.date: {self.date!r} is no day such as 2024-07-26") from None
        if taken := sorted(TAKEN & self.template_args.keys()):
            raise DataError(f"prompt.template_args: {taken[0]!r} is not the template's variable, but set by us")
        if self.style not in ("auto", "chat", "plain"):
            raise DataError(f"prompt.style: unknown style {self.style!r}; it is auto, chat or plain")
        if "{question}" not in self.template:
            raise DataError("prompt.template: there is no {question} in it")


_TAKEN = """
conversation messages chat_template add_generation_prompt continue_final_message tokenize tools documents return_dict
return_tensors return_assistant_tokens_mask tokenizer_kwargs padding truncation max_length sanitize_control_tokens"""
TAKEN = frozenset(_TAKEN.split())
"""What `apply_chat_template` itself understands."""


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
        problem: its question is the user's turn, after `problem.turns`.
        tokenizer: a transformers tokenizer; its chat template runs in transformers' Jinja sandbox.
        config: style and texts.

    Raises:
        DataError: there is no chat template but style is chat, or it fails, has no place for the question or for one
            of `template_args`; or the prompt has no token.
    """
    style = config.style
    if style == "auto":
        style = "chat" if tokenizer.chat_template else "plain"
    question = problem.question + (f"\n\n{config.instruction}" if config.instruction else "")
    if style == "chat":
        prompt = _chat([*problem.turns, {"role": "user", "content": question.strip()}], tokenizer, config)
    elif problem.turns:
        raise DataError(f"{problem.called} is a conversation, which needs a chat template: prompt.style=chat")
    else:
        prompt = _plain(question, tokenizer, config)
    if question.strip() not in prompt.text:
        raise DataError(
            f"the question of {problem.called} is not in its prompt: the chat template leaves out text that is not "
            "in parts, as templates for images do; use prompt.style=plain or another tokenizer.chat_template"
        )
    if not prompt.ids:
        raise DataError(f"the prompt of {problem.called} has no token")
    if prompt.messages and prompt.text.rpartition(prompt.messages[-1]["content"])[2].rstrip().endswith("</think>"):
        what = "an empty thought" if prompt.prefill else "</think>, a thought that is over"
        warnings.warn(
            f"the chat template ends the prompt with {what}, so the model does not think before it answers; "
            f"{thinking_switch(tokenizer)}",
            stacklevel=1,  # of here, so that it is said once and not for each problem
        )
    return prompt


def prompts_hash(prompts: list[Prompt]) -> str:
    """SHA-256 of what the model reads: questions, template, date and tokenizer all show in it."""
    return hashlib.sha256(json.dumps([prompt.ids for prompt in prompts]).encode()).hexdigest()


def fitting(
    problems: list[Problem], tokenizer: PreTrainedTokenizerBase, config: PromptConfig, data: DataConfig
) -> list[Problem]:
    """The problems whose prompts have at most `data.max_prompt_tokens`; a warning counts those that are left out.

    Raises:
        DataError: none is left.
    """
    limit = data.max_prompt_tokens
    if not limit:
        return problems
    lengths = [len(build_prompt(problem, tokenizer, config).ids) for problem in problems]
    kept = [problem for problem, length in zip(problems, lengths, strict=True) if length <= limit]
    if not kept:
        raise DataError(
            f"data.max_prompt_tokens={limit}: every prompt is longer, the shortest has {min(lengths)} tokens"
        )
    if len(kept) < len(problems):
        count = f"{len(problems) - len(kept)} of {len(problems)} problems"
        warnings.warn(
            f"{count} left out: their prompts are longer than data.max_prompt_tokens={limit} (up to {max(lengths)})",
            stacklevel=2,
        )
    return kept


def after_response(tokenizer: PreTrainedTokenizerBase, config: PromptConfig) -> list[int]:
    """Token ids that the chat template writes after a response, the end of the turn first; none without a template."""
    if config.style == "plain" or not tokenizer.chat_template:
        return []
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": MARK}]
    text = render(turns, tokenizer, config.template_args, config.date, respond=False)
    return tokenizer(text.rpartition(MARK)[2], add_special_tokens=False)["input_ids"] if MARK in text else []


MARK = "response"


def without_prefill(response: str, prefill: str) -> str:
    """The part of a full response that is left to write after a prompt which already holds `prefill`.

    White space after the tag may differ: "<think>7 + 5" continues a prefill of "<think>\\n" as well.

    Raises:
        DataError: the response does not begin that way, for one because the prefill is a thought left empty.
    """
    if "</think>" in prefill:
        raise DataError(
            "the prompt ends with an empty thought (<think></think>), so there is no thinking to teach: switch it on, "
            "with Qwen3 prompt.template_args.enable_thinking=true, or use prompt.style=plain"
        )
    if response.startswith(prefill):
        return response[len(prefill) :]
    if response.startswith(prefill.strip()):
        return response[len(prefill.strip()) :].lstrip()
    raise DataError(f"the response {response[:40]!r} does not begin with the prompt's {prefill!r}")


# --------------------------------------------------------------------------- the two styles


def _chat(turns: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, config: PromptConfig) -> Prompt:
    """Through the chat template, which writes every special token itself, BOS included."""
    if not tokenizer.chat_template:
        raise DataError("prompt.style is chat, but the tokenizer has no chat template: use plain or auto")
    for name in config.template_args:
        if not re.search(rf"\b{re.escape(name)}\b", str(tokenizer.chat_template)):
            raise DataError(f"prompt.template_args: the tokenizer's chat template has no {name!r}")
    messages, text = _render_messages(turns, tokenizer, config)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return Prompt(ids, text, messages, opened(text.rpartition(messages[-1]["content"])[2]))


def _plain(question: str, tokenizer: PreTrainedTokenizerBase, config: PromptConfig) -> Prompt:
    """Through `config.template`, after a BOS if the tokenizer adds one; an EOS that it adds is left off."""
    if config.template_args:
        raise DataError("prompt.template_args are for a chat template, but this prompt is plain; see prompt.style")
    values = {"{system}": config.system, "{question}": question}
    # In one pass: a question that says "{system}" keeps it.
    text = re.sub(r"\{system\}|\{question\}", lambda match: values[match[0]], config.template).lstrip()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:1] != [bos] and tokenizer(text)["input_ids"][:1] == [bos]:
        ids = [bos, *ids]
    return Prompt(ids, text, None, opened(text.rpartition(question)[2]))


def _render_messages(
    turns: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, config: PromptConfig
) -> tuple[list[dict[str, str]], str]:
    """The messages and their text; a system text that the template has no place for joins the user's first turn."""
    system = config.system.strip()
    if system and all(turn["role"] != "system" for turn in turns):
        messages = [{"role": "system", "content": system}, *turns]
        try:
            text = render(messages, tokenizer, config.template_args, config.date)
        except DataError:  # "System role not supported"; any other error comes back below
            text = ""
        if system in text:  # some templates drop what they do not know
            return messages, text
        first = next(i for i, turn in enumerate(turns) if turn["role"] == "user")
        joined = {"role": "user", "content": f"{system}\n\n{turns[first]['content']}"}
        turns = [*turns[:first], joined, *turns[first + 1 :]]
    return turns, render(turns, tokenizer, config.template_args, config.date)
