"""Try the functions that a loss names once, before a run: one that cannot be right should not end it later."""

from __future__ import annotations

import torch
from torch import Tensor

from grpo.loss import get_surrogate
from grpo.presets import LossConfig
from grpo.weights import Tokens, needs_batch_entropy, product


def check_surrogate(config: LossConfig) -> None:
    """Try the surrogate on two completions of three tokens.

    Raises ValueError unless it gives each token a value, in the type of the log-probs, that depends on the log-probs.
    """
    logps = torch.full((2, 3), -1.0, requires_grad=True)
    ratio, advantages = (logps + 1).exp(), torch.tensor([[1.0], [-1.0]]).expand(2, 3)
    objective = get_surrogate(config)(ratio, advantages, logps, config)
    if not isinstance(objective, Tensor) or (objective.shape, objective.dtype) != (logps.shape, logps.dtype):
        shown = f"{objective.dtype} {list(objective.shape)}" if isinstance(objective, Tensor) else repr(objective)
        raise ValueError(f"it must return a float32 tensor [B, T], a value for each token: of [2, 3] it made {shown}")
    gradient = torch.autograd.grad(objective.sum(), logps, allow_unused=True)[0] if objective.requires_grad else None
    if gradient is None or not gradient.any():
        raise ValueError("what it returns does not depend on the log-probs, so nothing would be learned")


def check_weights(config: LossConfig) -> None:
    """Try the weights on a completion of three tokens and one of two, with what a run of this loss knows of its tokens.

    Raises what `product` and the functions raise.
    """
    logps, advantages = torch.full((2, 3), -1.0), torch.tensor([1.0, -1.0])
    values = {"logps": logps, "old": logps, "sampler": logps, "entropy": -logps, "advantages": advantages}
    mask = torch.tensor([[True, True, True], [True, True, False]])
    values["reference"] = logps if config.beta else None
    frozen = -logps[mask] if needs_batch_entropy(config.weight) else None
    product(config.weight, Tokens.of(mask, frozen, **values))
