"""Attention that copies no keys or values, and gives a token the same output whether it is sampled or trained on.

`transformers` writes every key-value head out once per query head before it attends; PyTorch's kernel needs no such
copies (`enable_gqa`). But the order in which a kernel adds up depends on how many queries and keys it is given. In
fp32 that makes a difference of 1e-7. In bfloat16 a result may then be rounded the other way, and after thirty layers
sampler and trainer are 0.02 nats apart. So where a processor computes in bfloat16, attention is written out in fp32
(`exact_attention`) in a way that always adds up alike:

    keys      come in whole blocks of 16, as the softmax adds up 16 of them side by side
    values    are summed `PIECE` at a time, few enough for the matrix product not to split the sum
    queries   come in at least `MIN_ROWS` rows: for fewer of them the product takes another way
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

NAME = "grpo"
BLOCK, PIECE, MIN_ROWS = 16, 128, 4
CHUNK = 6 << 20
"""Attention weights held at a time: 24 MiB of fp32, which a processor's cache holds."""


def is_exact(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and x.device.type == "cpu"


def cached(x: Tensor) -> Tensor:
    """Keys or values in the type that they are attended with."""
    return x.float() if is_exact(x) else x


def slots(length: int) -> int:
    """The number of key slots to attend to for `length` keys: whole blocks, those beyond the end masked out."""
    return -(-length // BLOCK) * BLOCK


def padded_width(length: int, dtype: torch.dtype) -> tuple[int, int]:
    """How wide to compute prompts of up to `length` tokens, and how wide to cache them.

    In bfloat16 completions begin at a new piece, or what else is in the batch would decide where pieces end.
    """
    if dtype != torch.bfloat16:
        return length, length
    width = -(-length // PIECE) * PIECE
    return (width if length > PIECE else slots(length)), width


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
    (heads, steps), length = query.shape[1:3], key.shape[2]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if is_exact(query):
        missing = slots(length) - length
        if attention_mask is None:
            attention_mask = torch.ones(1, 1, steps, length, dtype=torch.bool).tril(length - steps)
        key, value = (F.pad(cached(x), (0, 0, 0, missing)) if missing else cached(x) for x in (key, value))
        hidden = ~(F.pad(attention_mask, (0, missing)) if missing else attention_mask)
        out = (exact_attention if torch.is_grad_enabled() else _exact)(query.float(), key, value, hidden, scale)
        out = out.to(query.dtype)
    elif steps == 1 and attention_mask is not None:
        # for so few queries two plain products are faster than the kernel
        rows = query.reshape(query.shape[0], key.shape[1], -1, query.shape[3])  # [B, H_kv, H / H_kv, D]
        out = (_weights(rows, key, ~attention_mask, scale) @ value).view(query.shape)
    else:
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attention_mask,
            scale=scale,
            is_causal=attention_mask is None and steps > 1,
            enable_gqa=heads != key.shape[1],
        )
    return out.transpose(1, 2).contiguous(), None


def _weights(query: Tensor, key: Tensor, hidden: Tensor, scale: float) -> Tensor:
    """softmax(q k^T * scale) over the keys that are not hidden, for queries that share a key-value head.

    query: [B, H_kv, R, D], R = S times the heads that share it; hidden: [B, 1, S, C]. Returns [B, H_kv, R, C].
    """
    scores = (query * scale) @ key.transpose(-1, -2)
    nothing = torch.finfo(scores.dtype).min  # not -inf: a row of padding sees nothing, and must not become NaN
    scores.unflatten(2, (-1, hidden.shape[2])).masked_fill_(hidden[:, :, None], nothing)
    return scores.softmax(dim=-1)


# ---- in an order that does not depend on the batch ----------------------------------------------------------


def _exact(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor, scale: float) -> Tensor:
    """query: [B, H, S, D], key, value: [B, H_kv, C, D], all fp32; hidden: [B, 1, S, C]. Returns [B, H, S, D]."""
    out, shared = torch.empty_like(query), key.shape[1]
    for b in _chunks(query, key):
        rows = query[b].unflatten(1, (shared, -1)).flatten(2, 3)  # [b, H_kv, R, D]
        wanted = rows.shape[2]
        if wanted < MIN_ROWS:
            rows = rows.repeat(1, 1, -(-MIN_ROWS // wanted), 1)
        p, v = _weights(rows, key[b], hidden[b], scale), value[b]
        total = p[..., :PIECE] @ v[:, :, :PIECE]
        for at in range(PIECE, v.shape[2], PIECE):
            total += p[..., at : at + PIECE] @ v[:, :, at : at + PIECE]
        out[b] = total[:, :, :wanted].reshape(out[b].shape)
    return out


exact_attention = torch.library.custom_op("grpo::exact_attention", _exact, mutates_args=())
"""One operation, for its gradient and for `grpo.recompute`; the products of the gradient are in bfloat16."""


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4])
    ctx.scale = inputs[4]


def _backward(ctx, grad):
    """p: weights, g: gradient of the output        dv = p^T g        ds = p (g v^T - <p, g v^T>)        dq = ds k
    dk = ds^T q"""
    query, key, value, hidden = ctx.saved_tensors
    d_query, d_key, d_value = map(torch.empty_like, (query, key, value))
    for b in _chunks(query, key):
        q, g = (x[b].unflatten(1, (key.shape[1], -1)).flatten(2, 3).bfloat16() for x in (query, grad))
        k, v = key[b].bfloat16(), value[b].bfloat16()
        p = _weights(q, k, hidden[b], ctx.scale)
        d_value[b] = p.transpose(-1, -2) @ g
        d_scores = torch._softmax_backward_data(g @ v.transpose(-1, -2), p, -1, p.dtype) * ctx.scale
        d_query[b] = (d_scores @ k).view(d_query[b].shape)
        d_key[b] = d_scores.transpose(-1, -2) @ q
    return d_query, d_key, d_value, None, None


exact_attention.register_autograd(_backward, setup_context=_save)


def _chunks(query: Tensor, key: Tensor) -> list[slice]:
    """Rows of the batch, so many that their weights [b, H, S, C] are at most `CHUNK`."""
    size = max(1, CHUNK // (query.shape[1] * query.shape[2] * key.shape[2]))
    return [slice(first, first + size) for first in range(0, len(query), size)]
