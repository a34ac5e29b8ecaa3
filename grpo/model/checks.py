"""Whether a model is one that our forward pass computes; looked at once, when it is loaded.

Our forward pass replaces attention (`attention.py`) and writes out what follows the head. All else is the model's own
code. So a model fits if every layer is plain attention, through transformers' interface, in one call, over all that
came before or over a sliding window. It is compared with its own forward pass on a short prompt; what shows only in
longer ones (windows, sparse attention, rotary embeddings that change) is read from its configuration and its calls.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from grpo.model.attention import NAME, Layout

KINDS = {"full_attention", "sliding_attention"}
WORKS = "what works: attention in every layer, full or over a sliding window, as in Llama, Qwen3, Gemma 3 and GPT-2"


class ModelError(ValueError):
    """A model or tokenizer that cannot be used, in one line: what, where, what to do."""


def first_line(error: Exception) -> str:
    """The beginning of an error of others, which may be long."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).strip()


class WatchedLayout(Layout):
    """A layout that notes the sliding windows that each layer asks for, one a call."""

    def __init__(self, *how: object):
        super().__init__(*how)
        self.windows: dict[int, list[int | None]] = {}  # by layer

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float, window: int | None, *how: object):
        self.windows.setdefault(layer, []).append(window)
        return super().attend(layer, q, k, v, scaling, window, *how)


@torch.no_grad()
def check_model(model: PreTrainedModel, hidden_states: Callable, logits: Callable) -> None:
    """Compare our forward pass with the model's own on a prompt and two completions of it.

    hidden_states(ids [M], layout) -> [M, D], logits(hidden [M, D]) -> [M, V]. Raises ModelError.
    """
    name, config = type(model).__name__, model.config.get_text_config()
    if other := set(getattr(config, "layer_types", None) or ()) - KINDS:
        raise ModelError(f"{name} has layers of the kind {', '.join(sorted(other))}; {WORKS}")
    size, device = model.get_input_embeddings().weight.shape[0], model.device
    ids = torch.tensor([3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 8, 13, 9], device=device).remainder(size)
    layout = WatchedLayout(torch.tensor([5]), torch.tensor([4, 4]), torch.tensor([0, 0]), device)
    try:
        hidden = hidden_states(ids, layout)[5:]  # [8, D]
        ours = logits(hidden)  # [8, V]
        enlarge = 100 / ours.abs().max()  # a soft cap does not show in small logits
        theirs, enlarged = own_logits(model, torch.stack([ids[:9], torch.cat([ids[:5], ids[9:]])]), enlarge.item())
    except Exception as error:  # out of the model's own code, so of any kind
        raise ModelError(f"{name} cannot run without padding ({first_line(error)}); {WORKS}") from error
    if not layout.windows:
        raise ModelError(f"{name} does not call attention through transformers' AttentionInterface; {WORKS}")
    if not theirs.isfinite().all():
        raise ModelError("its logits are NaN or infinite; its weights are damaged, or it has diverged")
    if not _close(ours, theirs):
        raise ModelError(f"{name} does more than attention from token to token, or changes its logits; {WORKS}")
    if not _close(logits(hidden * enlarge), enlarged):
        raise ModelError(f"{name} changes its logits after the head in a way that is not known here; {WORKS}")
    for layer, windows in layout.windows.items():
        if len(windows) > 1:
            raise ModelError(f"{name} calls attention {len(windows)} times in layer {layer}; {WORKS}")
        if windows[0] != window_of(config, layer):
            said = f"layer {layer} of {name} asks for a sliding window of {windows[0]}, its configuration says"
            raise ModelError(f"{said} {window_of(config, layer)}")


def own_logits(model: PreTrainedModel, rows: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """The model's own logits after the prompt, and those of `factor` times the hidden states: two of [8, V]."""
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, inputs: (torch.cat([inputs[0], factor * inputs[0]]),))
    model.set_attn_implementation("eager")
    try:
        both = model(rows, use_cache=False).logits[:, 5:].float()  # [4, 4, V]
    finally:
        hook.remove()
        model.set_attn_implementation(NAME)
    return both[:2].flatten(0, 1), both[2:].flatten(0, 1)


def _close(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and bool((ours - theirs).abs().max() < 1e-3 * theirs.abs().max())


# ---- what a configuration says -------------------------------------------------------------------------------


def window_of(config: PreTrainedConfig, layer: int) -> int | None:
    """The sliding window of a layer in tokens, None where it sees all that came before."""
    kinds = getattr(config, "layer_types", None)
    return None if kinds and kinds[layer] != "sliding_attention" else getattr(config, "sliding_window", None)


def longest_sequence(config: PreTrainedConfig) -> int | None:
    """The longest sequence in tokens in which a token's rotary embedding depends on its position alone.

    With rope type `longrope` (Phi-3) all frequencies change once a sequence is longer than the original context: a
    token would then have other keys in training than when it was sampled. `dynamic` changes them past the end.
    """
    config = config.get_text_config()
    ropes = getattr(config, "rope_parameters", None) or {}
    ropes = [ropes, *(r for r in ropes.values() if isinstance(r, dict))]  # one, or one for each kind of layer
    limits = [r["original_max_position_embeddings"] for r in ropes if r.get("rope_type") == "longrope"]
    limits.append(getattr(config, "max_position_embeddings", None))
    return min((n for n in limits if n), default=None)


def logit_changes(config: PreTrainedConfig) -> tuple[float, float | None]:
    """What a model multiplies its logits by after the head (Cohere, Granite), and their soft cap (Gemma 2)."""
    config = config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
    return scale, getattr(config, "final_logit_softcapping", None)
