"""From a completion to its think and answer sections, in one pass over the text."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Four literals and nothing to backtrack over: `finditer` reads the text once, whatever is in it.
_TAG = re.compile(r"</?(?:think|answer)>")
MAX_TAGS = 100
"""A completion with more tags than this is nothing but tags."""


@dataclass(frozen=True)
class Sections:
    """What one completion holds between its tags."""

    think: str | None
    """The thought: the text between the only `<think>` and the only `</think>`; None if there isn't one."""
    answer: str | None
    """The text of the only answer span, if it opens after the thought is over and is closed; else None."""
    ok: bool
    """Exactly `<think>…</think><answer>…</answer>`, neither empty, only white space around and between."""


_BLANK = dict.fromkeys(
    [0xAD, 0x115F, 0x1160, 0x2800, 0x3164, 0xFEFF, 0xFFA0, *range(0x200B, 0x2010), *range(0x2060, 0x2070)]
)
"""Characters that nobody sees, and that Unicode does not count as white space."""
_DEEPSEEK = "<\uff5cend\u2581of\u2581sentence\uff5c>"
_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "<|return|>")
_ENDS += ("<|END_OF_TURN_TOKEN|>", "</s>", "<eos>", "<end_of_turn>", _DEEPSEEK)
"""How models end a turn or a text. Our trainer leaves these tokens off; others decode them with the completion."""


def completion_text(completion: str | Sequence[dict[str, Any]] | None) -> str:
    """The text of a completion, plain or conversational (TRL: a list of messages), without an end-of-turn token.

    >>> completion_text([{"role": "assistant", "content": "hi<|im_end|>"}])
    'hi'
    """
    if completion is None or isinstance(completion, str):
        return _without_end(completion or "")
    messages = (message for message in completion if message.get("role", "assistant") == "assistant")
    return _without_end("\n".join(_content(message) for message in messages))


def prompt_text(prompt: str | Sequence[dict[str, Any]] | None) -> str:
    """The text of a prompt, plain or conversational."""
    if prompt is None or isinstance(prompt, str):
        return prompt or ""
    return "\n".join(_content(message) for message in prompt)


def completion_texts(
    completions: Sequence[Any], prompts: Sequence[Any] | None = None, prefilled: bool = False
) -> list[str]:
    """Each completion's text, with the `<think>` that its prompt had already opened put back in front.

    Many chat templates end the prompt with `<think>`, so that the model never writes it; a format
    reward that doesn't know would pay nobody. prefilled: every prompt does, though `prompts` does not show it.
    """
    texts = [completion_text(completion) for completion in completions]
    if prefilled or prompts is None:
        return [_reopen(text) for text in texts] if prefilled else texts
    return [_reopen(text) if _opens(prompt) else text for text, prompt in zip(texts, prompts, strict=True)]


def split_sections(text: str) -> Sections:
    """The think and answer sections of `text`, in time linear in its length.

    A model can't be paid for several tries: with two answer spans, nested ones, one inside the
    thought or one never closed, `answer` is None.

    >>> split_sections("<think>6*7</think> <answer>42</answer>")
    Sections(think='6*7', answer='42', ok=True)
    >>> split_sections("<think>a</think><answer>41</answer><answer>42</answer>").answer is None
    True
    """
    found = itertools.islice(_TAG.finditer(text), MAX_TAGS + 1)
    tags = [(match.group(), match.start(), match.end()) for match in found]
    if len(tags) > MAX_TAGS:
        return Sections(None, None, False)
    names = [name for name, _, _ in tags]
    think = _only_span(text, tags, names, "<think>", "</think>")
    answer = _only_span(text, tags, names, "<answer>", "</answer>")
    if answer is not None and _inside_thought(names):
        answer = None
    well_formed = names == ["<think>", "</think>", "<answer>", "</answer>"] and think is not None
    ok = bool(
        well_formed
        and re.search(r"[^\W_]", (think or "").translate(_BLANK))  # "." is no thought
        and (answer or "").translate(_BLANK).strip()
        and not text[: tags[0][1]].strip()
        and not text[tags[1][2] : tags[2][1]].strip()
        and not text[tags[3][2] :].strip()
    )
    return Sections(think, answer, ok)


def _without_end(text: str) -> str:
    """The text before the end-of-turn tokens that it ends in, one or several; as it is if it ends in none."""
    stop = end = len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        token = next((token for token in _ENDS if text.endswith(token, 0, end)), None)
        if token is None:
            return text[:stop]
        stop = end = end - len(token)


def _content(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)  # multi-modal messages: a list of parts


def _opens(prompt: str | Sequence[dict[str, Any]] | None) -> bool:
    """Whether a prompt ends in an open thought; one that mentions the tag in a sentence or a question does not."""
    if prompt and not isinstance(prompt, str):
        prompt = _content(prompt[-1]) if prompt[-1].get("role", "assistant") == "assistant" else ""
    return bool(prompt) and re.search(r"(?:^|[\n>])[ \t]*<think>\s*\Z", prompt) is not None


def _reopen(text: str) -> str:
    return text if text.lstrip().startswith("<think>") else "<think>" + text


def _only_span(text: str, tags: list, names: list[str], opening: str, closing: str) -> str | None:
    if names.count(opening) != 1 or names.count(closing) != 1:
        return None
    start, end = names.index(opening), names.index(closing)
    return text[tags[start][2] : tags[end][1]] if end == start + 1 else None  # no tag of any kind inside


def _inside_thought(names: list[str]) -> bool:
    """Whether the only answer span opens within a thought, counting thoughts that nest or never end."""
    at, depth = names.index("<answer>"), 0
    for name in names[:at]:
        depth = depth + 1 if name == "<think>" else max(0, depth - 1)
    # A thought that the prompt opened, and that ends after the span, holds it too.
    return depth > 0 or "</think>" in names[at:]
