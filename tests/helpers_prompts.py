"""A tokenizer of bytes with any chat template, and templates of every kind."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from data import Problem

PROBLEM = Problem("x/train/0", "What is {system} + 1?", "2")

CHATML = (
    "{% for m in messages %}<bos>{{ m['role'] }}\n{{ m['content'] | trim }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant\n{% endif %}"
)
R1_DISTILL = (
    "<bos>{% for m in messages %}{% if m['role'] == 'user' %}<User>{{ m['content'] }}"
    "{% elif m['role'] == 'system' %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<Assistant><think>\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[model]\n"
)
DROPS_SYSTEM = "{% for m in messages if m['role'] == 'user' %}U: {{ m['content'] }}\n{% endfor %}A:"
NOTHING_ADDED = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
NO_THINKING = CHATML.replace("assistant\n", "assistant\n{# enable_thinking #}<think>\n\n</think>\n\n")
THOUGHT_OVER = CHATML.replace(
    "assistant\n", "assistant{% if not thinking is defined or not thinking %}</think>{% else %}<think>{% endif %}"
)
"""As DeepSeek-V3.1's: without `thinking`, the prompt ends in a bare </think>."""


def make_tokenizer(template: str | None = None, adds: str = "$A") -> PreTrainedTokenizerFast:
    """A byte-level tokenizer; `adds` says which special tokens it puts around a text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: index for index, letter in enumerate([*letters, "<bos>", "<eos>"])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(
        single=adds, special_tokens=[("<bos>", vocab["<bos>"]), ("<eos>", vocab["<eos>"])]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", eos_token="<eos>")
    tokenizer.chat_template = template
    return tokenizer
