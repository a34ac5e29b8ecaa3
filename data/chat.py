"""Through a tokenizer's chat template, in transformers' Jinja sandbox: from messages to text."""

from __future__ import annotations

import json
import re
import warnings
from datetime import datetime
from typing import TYPE_CHECKING, Any

from data.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render(
    messages: list[dict[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    variables: dict[str, Any],
    day: str = "",
    respond: bool = True,
) -> str:
    """The text of a conversation.

    Args:
        variables: of the template, beside those that transformers sets.
        day: as 2024-07-26, for a template that asks for today's; "": today, with a warning.
        respond: end where the response begins.

    Raises:
        DataError: the template fails.
    """

    def rendered(template: str) -> str:
        return tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=respond, **variables
        )

    try:
        template = tokenizer.get_chat_template()
        text = rendered(_on_day(template, day) if day else template)
        dated = not day and CLOCK in template and rendered(_on_day(template, "1999-01-02")) != text
    except DataError:
        raise
    except Exception as error:  # a template is a program of the model's author: it may raise anything
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"the chat template fails: {type(error).__name__}: {reason}") from error
    if dated:
        warnings.warn(
            "the chat template prints today's date, so that prompts differ from day to day: set prompt.date",
            stacklevel=1,  # of here, so that it is said once and not for each problem
        )
    return text


CLOCK = "strftime_now("
"""How a chat template asks transformers for the time."""


def _on_day(template: str, day: str) -> str:
    """The template with the day in place of its calls of the clock; transformers lets no function of ours in."""
    moment = datetime.fromisoformat(day)
    call = re.escape(CLOCK) + r"\s*(?P<quote>['\"])(?P<form>.*?)(?P=quote)\s*\)"
    template = re.sub(call, lambda match: json.dumps(moment.strftime(match["form"])), template)
    if CLOCK in template:
        raise DataError(
            "prompt.date: the chat template asks for the time in a way of its own; see prompt.template_args"
        )
    return template


def opened(tail: str) -> str:
    """What of the response stands at the end of the prompt: "<think>\\n", or a think block left empty."""
    match = re.search(r"<think>\s*(</think>\s*)?\Z", tail)
    return match[0] if match else ""


def thinking_switch(tokenizer: PreTrainedTokenizerBase) -> str:
    """How the chat template is told to let the model think: Qwen3's variable, DeepSeek-V3.1's, or none."""
    names = ("enable_thinking", "thinking")
    found = [name for name in names if re.search(rf"\b{name}\b", str(tokenizer.chat_template))]
    return f"prompt.template_args.{found[0]}=true lets it think" if found else "prompt.style=plain lets it think"
