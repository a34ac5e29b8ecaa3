"""Which of the two ways through a model computes what the model computes; looked at once, when it is loaded.

`shared_prefix.py` replaces attention, and both ways write out what follows the head. All else is the model's own code.
The first fits if every layer is plain attention, through transformers' interface, in one call, over all that came
before or over a sliding window. It is compared with the model's own forward pass on a short prompt; what shows only in
longer ones (windows, sparse attention) is read from the configuration and the calls. Where it does not fit,
`whole_rows.py` is compared in the same way: in training, and token by token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from grpo.model.attention import Layout
from grpo.model.whole_rows import WholeRows
from grpo.types import Rollouts

KINDS = {"full_attention", "sliding_attention"}


COSTS = (
    "in training a prompt is computed once for each of its completions, and padding is computed too; in sampling each "
    "completion has a copy of its prompt's cache"
)
WORKS = "what works: causal models that compute padded rows as each by itself, and take transformers' DynamicCache"


class ModelError(ValueError):
    """A model or tokenizer that cannot be used, in one line: what, where, what to do."""


class Unfit(Exception):
    """Why one of the two ways does not compute what the model computes."""


def first_line(error: Exception) -> str:
    """The beginning of an error of others, which may be long."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).strip()


@torch.no_grad()
def choose_passes(policy: nn.Module, implementation: str) -> None:
    """Give the policy the way that computes what its model does. Raises ModelError where neither does.

    policy: as in `policy.py`, with the first way. implementation: of attention, transformers' choice for the model.
    """
    name, model = type(policy.model).__name__, policy.model
    if not isinstance(model.get_output_embeddings(), nn.Linear):
        raise ModelError(f"{name} has no linear layer that makes logits of hidden states; {WORKS}")
    try:
        check_shared_prefix(policy, name)
        return
    except Unfit as reason:
        note = f"{reason}; so transformers' own forward pass and cache are used: {COSTS}"
    try:
        policy.passes = WholeRows(model, implementation, note)
        policy.passes.prepare(model)
        check_whole_rows(policy, name)
    except Unfit as reason:
        raise ModelError(f"{reason}; {WORKS}") from None


# ---- the first way -------------------------------------------------------------------------------------------


class WatchedLayout(Layout):
    """A layout that notes the sliding windows that each layer asks for, one a call."""

    def __init__(self, *how: object):
        super().__init__(*how)
        self.windows: dict[int, list[int | None]] = {}  # by layer

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float, window: int | None, *how: object):
        self.windows.setdefault(layer, []).append(window)
        return super().attend(layer, q, k, v, scaling, window, *how)


def check_shared_prefix(policy: nn.Module, name: str) -> None:
    """Compare a prompt and two completions of it with the model's own forward pass. Raises Unfit, ModelError."""
    model, config = policy.model, policy.model.config.get_text_config()
    if other := set(getattr(config, "layer_types", None) or ()) - KINDS:
        raise Unfit(f"{name} has layers of the kind {', '.join(sorted(other))}")
    ids = some_tokens(model, 13)
    layout = WatchedLayout(torch.tensor([5]), torch.tensor([4, 4]), torch.tensor([0, 0]), model.device)
    try:
        hidden = policy(ids, layout)[5:]  # [8, D]
        model.set_attn_implementation("eager")
        theirs = own_logits(policy, hidden, torch.stack([ids[:9], torch.cat([ids[:5], ids[9:]])]))  # [2, 2, 9, V]
    except Exception as error:  # out of the model's own code, so of any kind
        raise Unfit(f"{name} cannot run without padding ({first_line(error)})") from error
    finally:
        policy.passes.prepare(model)
    if not layout.windows:
        raise Unfit(f"{name} does not call attention through transformers' AttentionInterface")
    what = "does more than attention from token to token, or changes its logits"
    compare(policy, hidden, theirs[:, :, 5:].flatten(1, 2), f"{name} {what}")
    for layer, windows in layout.windows.items():
        if len(windows) > 1:
            raise Unfit(f"{name} calls attention {len(windows)} times in layer {layer}")
        if windows[0] != window_of(config, layer):
            said = f"layer {layer} of {name} asks for a sliding window of {windows[0]}, its configuration says"
            raise Unfit(f"{said} {window_of(config, layer)}")


# ---- the second way ------------------------------------------------------------------------------------------


def check_whole_rows(policy: nn.Module, name: str) -> None:
    """Compare rows of several lengths with each by itself, in training and in decoding. Raises Unfit, ModelError."""
    model = policy.model
    ids = some_tokens(model, 24).cpu()
    prompts, lengths = [ids[:6].tolist(), ids[6:9].tolist()], torch.tensor([4, 2, 3, 4])
    mask = torch.arange(4) < lengths[:, None]  # [4, 4]
    completions = ids[:16].flip(0).view(4, 4) * mask
    nothing = torch.zeros(4, 4)
    rollouts = Rollouts(prompts, torch.tensor([0, 0, 1, 1]), completions, mask, nothing, nothing[:, 0] > 0)
    rows = [prompts[i] + tokens for i, tokens in zip((0, 0, 1, 1), rollouts.token_lists(), strict=True)]
    try:
        hidden = policy.completion_states(rollouts)  # [M, D]
        alone = [own_logits(policy, hidden, torch.tensor([row], device=model.device))[:, 0, :-1] for row in rows]
        theirs = torch.cat([z[:, -n:] for z, n in zip(alone, lengths.tolist(), strict=True)], dim=1)  # [2, M, V]
    except Exception as error:
        raise Unfit(f"{name} cannot run without a cache ({first_line(error)})") from error
    compare(
        policy,
        hidden,
        theirs,
        f"{name} computes a row otherwise where longer ones are padded beside it, or changes its logits",
    )
    try:
        hidden = decoded_states(policy, rollouts)
    except Exception as error:
        raise Unfit(f"{name} does not decode with transformers' DynamicCache ({first_line(error)})") from error
    compare(
        policy,
        hidden,
        theirs,
        f"{name} has other logits token by token than of whole rows: it is not causal, or it "
        "keeps something outside of transformers' DynamicCache",
    )


def decoded_states(policy: nn.Module, rollouts: Rollouts) -> Tensor:
    """Hidden states [M, D] of the tokens of given completions, decoded as in sampling; rows leave when they end."""
    prompts, width = rollouts.prompts, rollouts.mask.shape[1]
    memory = policy.start_decoding(prompts, len(rollouts) // len(prompts), width)
    last = torch.tensor([prompt[-1] for prompt in prompts])[rollouts.prompt_index]
    inputs = torch.cat([last[:, None], rollouts.completion_ids[:, :-1]], dim=1).to(policy.device)  # [B, T]
    alive, states = torch.arange(len(rollouts)), {}
    for t in range(width):
        for row, state in zip(alive.tolist(), policy(inputs[alive, t], memory), strict=True):
            states[row, t] = state
        memory.next()
        stays = (rollouts.lengths[alive] > t + 1).nonzero().squeeze(1)
        memory.keep(stays.to(policy.device))
        alive = alive[stays]
    return torch.stack([states[row, t] for row, t in rollouts.mask.nonzero().tolist()])


# ---- to compare ----------------------------------------------------------------------------------------------


def some_tokens(model: PreTrainedModel, count: int) -> Tensor:
    """[count] ids that every vocabulary has, on the model's device."""
    size = model.get_input_embeddings().weight.shape[0]
    return (torch.arange(count, device=model.device) * 5 % 13 + 3).remainder(size)


def own_logits(policy: nn.Module, hidden: Tensor, rows: Tensor) -> Tensor:
    """The model's own logits of rows [B, L], and those of larger hidden states: [2, B, L, V].

    A soft cap does not show in small logits, so the hidden states are enlarged as much as `hidden`, [M, D], needs it.
    """
    factor, head = enlargement(policy, hidden), policy.model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, inputs: (torch.cat([inputs[0], factor * inputs[0]]),))
    try:
        return policy.model(rows, use_cache=False).logits.float().unflatten(0, (2, -1))
    finally:
        hook.remove()


def enlargement(policy: nn.Module, hidden: Tensor) -> float:
    """By what to multiply hidden states [M, D] so that the largest logit is about 100."""
    return 100 / policy.logits(hidden).abs().max().item()


def compare(policy: nn.Module, hidden: Tensor, theirs: Tensor, what: str) -> None:
    """Our logits of hidden states [M, D], and of enlarged ones, with the model's own, [2, M, V].

    Raises Unfit, saying `what`, where they differ, and ModelError where they are no numbers.
    """
    if not theirs.isfinite().all():
        raise ModelError("its logits are NaN or infinite; its weights are damaged, or it has diverged")
    if not _close(policy.logits(hidden), theirs[0]):
        raise Unfit(what)
    if not _close(policy.logits(hidden * enlargement(policy, hidden)), theirs[1]):
        name = type(policy.model).__name__
        raise Unfit(f"{name} changes its logits after the head by more than a factor and a soft cap")


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


TIMES = ("logit_scale", "lm_head_multiplier")  # Cohere, Falcon-H1
BY = ("logits_scaling",)  # Granite, MiniCPM3


def logit_changes(config: PreTrainedConfig) -> tuple[float, float | None]:
    """What a model multiplies its logits by after the head, and their soft cap (Gemma 2, RecurrentGemma)."""
    config = config.get_text_config()
    times, by = TIMES, BY
    if config.model_type.startswith("hyperclovax"):  # its name for a factor is Granite's name for a divisor
        times, by = (*TIMES, *BY), ()
    scale = math.prod(getattr(config, name, None) or 1.0 for name in times)
    scale /= math.prod(getattr(config, name, None) or 1.0 for name in by)
    caps = (getattr(config, name, None) for name in ("final_logit_softcapping", "logits_soft_cap"))
    return scale, next((cap for cap in caps if cap), None)
