"""The decoder of the Llama family, written out, on a list of tokens [M] without padding.

    h = norm(x)                              norm(x) = w x / sqrt(mean(x^2) + eps)        arXiv:1910.07467, eq. 4
    q, k, v = h Wq^T, h Wk^T, h Wv^T         q and k rotated by their positions           arXiv:2104.09864, eq. 34
    x = x + attention(q, k, v) Wo^T
    h = norm(x)
    x = x + (silu(h Wg^T) * h Wu^T) Wd^T     silu(g) = g sigmoid(g)                       arXiv:2002.05202, eq. 6

The weights are those of transformers' model, whose own forward pass takes some sixty small operations a layer and
keeps what each of them needs for its gradient. Here the gradient is written out as well: a layer keeps x, q, k, v, the
output of attention, x after it, and h Wg^T and h Wu^T; norms and products of activations are computed again.
Other architectures go the way of `grpo.anymodel`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from grpo.linear import Linears
from grpo.pointwise import gated, gated_backward, norm, norm_backward, rotate, rotate_backward

FAMILY = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Number of the layer, query [M, H, D], key and value [M, H_kv, D] -> [M, H, D]"""


def is_written_out(model: PreTrainedModel) -> bool:
    """Whether this file computes what the model does."""
    config = model.config
    windows = [kind for kind in getattr(config, "layer_types", None) or [] if kind != "full_attention"]
    sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return type(model).__name__ in FAMILY and config.hidden_act in ("silu", "swish") and not windows and not sliding


class Decoder:
    """A transformers model of the family, computed by the layers below; its modules and parameters stay as they are."""

    def __init__(self, model: PreTrainedModel, recompute: str = "none"):
        self.model, self.recompute = model, recompute
        self.layers = [Layer(module) for module in model.model.layers]
        self.rotary = model.model.rotary_emb
        self.norm = model.model.norm

    @property
    def products(self) -> list[Linears]:
        return [p for layer in self.layers for p in (layer.qkv, layer.out, layer.gate_up, layer.down)]

    def __call__(self, ids: Tensor, positions: Tensor, attention: Attention) -> Tensor:
        """Hidden states [M, D] of tokens [M] at positions [M]."""
        x = self.embed(ids)  # [M, D]
        cos, sin = self.rotation(positions)
        for number, layer in enumerate(self.layers):
            if self.recompute == "full" and torch.is_grad_enabled():
                x = checkpoint(layer, number, x, cos, sin, attention, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(number, x, cos, sin, attention)
        return _Norm.apply(x, self.norm.weight, self.norm.variance_epsilon)

    def embed(self, ids: Tensor) -> Tensor:
        """[M] -> [M, D]. Where the head has the same weights, their gradient is dense already: this one is sparse."""
        embedding = self.model.get_input_embeddings()
        tied = embedding.weight is self.model.get_output_embeddings().weight
        return F.embedding(ids, embedding.weight, embedding.padding_idx, sparse=tied).to(
            self.layers[0].norm.weight.dtype
        )

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of each position's angles: [M, D / 2] fp32."""
        fp32 = torch.empty(0, device=positions.device)
        cos, sin = (x[0] for x in self.rotary(fp32, positions[None]))  # [M, D], each half the same
        return tuple(x[:, : x.shape[1] // 2].contiguous() for x in (cos, sin))


class Layer:
    """One decoder layer: two functions of tokens, and attention between them."""

    def __init__(self, module: nn.Module):
        attention, mlp = module.self_attn, module.mlp
        self.norm, self.qkv = module.input_layernorm, Linears(attention, "q_proj", "k_proj", "v_proj")
        self.out, self.size = Linears(attention, "o_proj"), attention.head_dim
        self.mlp_norm = module.post_attention_layernorm
        self.gate_up, self.down = Linears(mlp, "gate_proj", "up_proj"), Linears(mlp, "down_proj")
        self.heads = attention.config.num_attention_heads
        self.key_heads = attention.config.num_key_value_heads

    def __call__(self, number: int, x: Tensor, cos: Tensor, sin: Tensor, attention: Attention) -> Tensor:
        """x: [M, D], the residual stream. Returns it after this layer."""
        query, key, value = self.before(x, cos, sin)
        return self.after(x, attention(number, query, key, value).flatten(1).to(x.dtype))

    def before(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x -> q [M, H, D], k and v [M, H_kv, D]; on a processor these are fp32, which attention there computes in."""
        if torch.is_grad_enabled():
            return _Before.apply(x, self, cos, sin, self.norm.weight, *self.qkv.parameters())
        return self.compute_before(x, cos, sin)

    def after(self, x: Tensor, a: Tensor) -> Tensor:
        """The residual stream x and attention's output a, [M, D] -> [M, D]"""
        if torch.is_grad_enabled():
            weights = [p for linears in (self.out, self.gate_up, self.down) for p in linears.parameters()]
            return _After.apply(x, a, self, self.mlp_norm.weight, *weights)
        return self.compute_after(x, a)[0]

    def compute_before(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.qkv(normed(x, self.norm)).unflatten(-1, (-1, self.size))  # [M, H + 2 H_kv, D]
        return rotate(y, cos, sin, self.key_heads)

    def compute_after(self, x: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.out(a).add_(x)
        gate_up = self.gate_up(normed(x, self.mlp_norm))  # [M, 2 F]
        return self.down(gated(gate_up)).add_(x), x, gate_up


def normed(x: Tensor, module: nn.Module) -> Tensor:
    return norm(x, module.weight, module.variance_epsilon)


# ---- gradients ----------------------------------------------------------------------------------------------


class _Norm(torch.autograd.Function):
    """`norm`, of which x alone is kept."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return norm(x, weight, eps)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        return *norm_backward(g.contiguous(), x, weight, ctx.eps, None), None


class _Before(torch.autograd.Function):
    """`Layer.before`, of which x alone is kept."""

    @staticmethod
    def forward(ctx, x, layer, cos, sin, *weights):
        ctx.save_for_backward(x, cos, sin)
        ctx.layer = layer
        return layer.compute_before(x, cos, sin)

    @staticmethod
    def backward(ctx, d_query, d_key, d_value):
        (x, cos, sin), layer = ctx.saved_tensors, ctx.layer
        d_y = rotate_backward(d_query, d_key, d_value, cos, sin, x.dtype).flatten(1)  # [M, (H + 2 H_kv) D]
        d_h, d_weights = layer.qkv.backward(d_y, normed(x, layer.norm))
        dx, d_norm = norm_backward(d_h, x, layer.norm.weight, layer.norm.variance_epsilon, None)
        return dx, None, None, None, d_norm, *d_weights


class _After(torch.autograd.Function):
    """`Layer.after`, of which a, x + a Wo^T, and h Wg^T beside h Wu^T are kept."""

    @staticmethod
    def forward(ctx, x, a, layer, *weights):
        out, x, gate_up = layer.compute_after(x, a)
        ctx.save_for_backward(a, x, gate_up)
        ctx.layer = layer
        return out

    @staticmethod
    def backward(ctx, g):
        (a, x, gate_up), layer = ctx.saved_tensors, ctx.layer
        g = g.contiguous()
        d_y, d_down = layer.down.backward(g, gated(gate_up))
        d_gate_up = gated_backward(d_y, gate_up)
        d_h, d_gate_up = layer.gate_up.backward(d_gate_up, normed(x, layer.mlp_norm))
        dx, d_norm = norm_backward(d_h, x, layer.mlp_norm.weight, layer.mlp_norm.variance_epsilon, g)
        d_a, d_out = layer.out.backward(dx, a)
        return dx, d_a, None, d_norm, *d_out, *d_gate_up, *d_down
