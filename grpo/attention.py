"""Attention that copies no keys or values, and gives a token the same output whether it is sampled or trained on.

`transformers` writes every key-value head out once per query head before it attends; PyTorch's kernel needs no such
copies (`enable_gqa`). But the kernel adds up in an order that depends on how many queries and keys it is given. In
fp32 that makes a difference of 1e-7. In bfloat16 a result may then be rounded the other way, and after thirty layers
sampler and trainer are 0.02 nats apart. So in bfloat16 it is only given

    keys      in numbers for which it adds up alike (`slots`), those beyond the end masked out
    queries   in at least `MIN_ROWS` rows: where one token is decoded, the query heads that share a key-value head
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

NAME = "grpo"
MIN_ROWS = 6
PIECE = 192  # in bfloat16 a processor's kernel sums the values of so many keys at a time


def slots(length: int, dtype: torch.dtype) -> int:
    """The number of key slots to give the kernel for `length` keys: whole blocks of 16, in bfloat16 of 64.

    Of 256 or 320 keys (and 512 more of either) the bfloat16 kernel makes two equal pieces: not these.
    """
    block = 64 if dtype == torch.bfloat16 else 16
    count = -(-length // block) * block
    return count + 384 - count % 512 if block == 64 and count % 512 in (256, 320) else count


def padded_width(length: int, dtype: torch.dtype) -> tuple[int, int]:
    """How wide to compute prompts of up to `length` tokens, and how wide to cache them.

    In bfloat16 completions begin at a new piece, or what else is in the batch would decide where pieces end.
    """
    if dtype != torch.bfloat16:
        return length, length
    cached = -(-length // PIECE) * PIECE
    return (cached if length > PIECE else -(-length // 16) * 16), cached


def use_attention(model: PreTrainedModel) -> None:
    """Let a model attend by `attend`, where it would use PyTorch's kernel in any case."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """softmax(q k^T * scaling + mask) v, in the signature of transformers' attention functions.

    query: [B, H, S, D]; key, value: [B, H_kv, C, D]; attention_mask: [B, 1, S, C] bool or None (causal).
    Returns [B, S, H, D].
    """
    heads, steps = query.shape[1:3]
    if steps == 1 and attention_mask is not None:
        query = query.reshape(query.shape[0], key.shape[1], -1, query.shape[3])  # [B, H_kv, H / H_kv, D]
        out = _attend_once(query, key, value, attention_mask, scaling)
        return out.reshape(out.shape[0], 1, heads, -1), None
    missing = slots(key.shape[2], key.dtype) - key.shape[2]
    if query.dtype == torch.bfloat16 and attention_mask is not None and missing:
        key, value = F.pad(key, (0, 0, 0, missing)), F.pad(value, (0, 0, 0, missing))
        attention_mask = F.pad(attention_mask, (0, missing))
    out = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        scale=scaling,
        is_causal=attention_mask is None and steps > 1,
        enable_gqa=heads != key.shape[1],
    )
    return out.transpose(1, 2).contiguous(), None


def _attend_once(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    """Decoding: [B, H_kv, R, D] queries, R of them on the same keys. Returns [B, H_kv, R, D]."""
    if query.dtype == torch.bfloat16:
        rows = query.shape[2]
        copies = query.repeat(1, 1, -(-MIN_ROWS // rows), 1)
        return F.scaled_dot_product_attention(copies, key, value, attn_mask=mask, scale=scaling)[:, :, :rows]
    # for so few queries two plain products are faster than the kernel that training uses
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query * scale) @ key.transpose(-1, -2)  # [B, H_kv, R, C]
    hidden = torch.finfo(scores.dtype).min  # not -inf: a row of padding sees nothing, and must not become NaN
    return scores.masked_fill_(~mask, hidden).softmax(dim=-1) @ value
