"""The embedded tokenizer and transformer: word-level, single digits, 0.2 million parameters."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data.embedded.stories import every_text

BASE_FOLDER = Path(__file__).parent / "tiny"
"""The trained base model in Hugging Face format (`make base` writes it)."""

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

# A token is a tag, or a word, digit or sign together with the space before it, if there is one. Tokens that
# own their space decode by plain concatenation, so that text -> ids -> text is exact.
PIECES = Regex(r"</?(?:think|answer)>| ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]|\s")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the embedded problems: `decode(encode(text)) == text` for all that they hold.

    Each tag is one ordinary token, not a special one: `decode(skip_special_tokens=True)` must leave it in the
    text that the rewards read. A word that the generator never writes becomes `<unk>`. There is no chat
    template: the model never sees a conversation.
    """
    split = pre_tokenizers.Split(PIECES, behavior="isolated")
    pieces = {piece for text in every_text() for piece, _ in split.pre_tokenize_str(text)}
    pieces |= {space + digit for space in ("", " ") for digit in "0123456789"}
    words = [PAD, EOS, UNKNOWN, *TAGS, *sorted(pieces - set(TAGS))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False, model_max_length=256,
    )  # fmt: skip


def build_model(seed: int = 0) -> LlamaForCausalLM:
    """An untrained Llama of 4 layers and width 64 (194,048 parameters, fp32), a function of `seed` alone."""
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=160,
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, dtype="float32",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # leave the caller's random state alone
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
