"""The data that flows through the trainer; everything else is a function of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.problem import Problem
from grpo.ranges import NotNegative, PositiveInt

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Problem", "Rollouts", "SamplingConfig", "concat_rollouts"]


@dataclass(frozen=True)
class SamplingConfig:
    """How completions are drawn."""

    temperature: NotNegative = 1.0
    """Softmax temperature; log-probs are of the tempered distribution. 0 is greedy decoding."""
    max_new_tokens: PositiveInt = 512
    """Length limit of a completion in tokens; one that reaches it is marked truncated."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion, such as `</answer>`; the completion holds it, and is not truncated."""
    max_rows: PositiveInt = 256
    """Completions decoded at a time, in whole groups (at least one); bounds the memory of the key-value cache."""
    top_p: float = 1.0
    """Set by `eval.top_p` alone: training's log-probs are of the whole distribution, so it samples from that."""

    def __post_init__(self) -> None:
        if not all(self.stop):
            raise ValueError("sampling.stop: an empty text would end every completion at once")


@dataclass(frozen=True)
class Rollouts:
    """Sampled completions of some prompts; the rows of a group are adjacent.

    N completions, T the longest of them in tokens, P prompts. Slots after a completion's end hold 0 and a false
    mask: the mask comes from the sampler and is never guessed from token ids.
    """

    prompts: list[list[int]]
    """[P] token ids of each prompt, at least one token."""
    prompt_index: Tensor
    """[N] long: the row of `prompts` that each completion continues."""
    completion_ids: Tensor
    """[N, T] long: sampled tokens, the end-of-sequence token included where one was sampled."""
    mask: Tensor
    """[N, T] bool: true at sampled tokens."""
    sampler_logps: Tensor
    """[N, T] fp32: log-probs in nats as the sampler saw them, at its temperature."""
    truncated: Tensor
    """[N] bool: the length limit ended the completion, not an end-of-sequence token or a stop string."""

    def __len__(self) -> int:
        return len(self.prompt_index)

    @property
    def lengths(self) -> Tensor:
        """[N] long: completion lengths in tokens."""
        return self.mask.sum(dim=1)

    def select(self, rows: Tensor) -> Rollouts:
        """The given completions, with the prompts that they need and no slot that none of them fills."""
        used, prompt_index = self.prompt_index[rows].unique(return_inverse=True)
        width = max(int(self.lengths[rows].max()), 1) if len(rows) else 1
        return Rollouts(
            prompts=[self.prompts[i] for i in used.tolist()],
            prompt_index=prompt_index,
            completion_ids=self.completion_ids[rows, :width],
            mask=self.mask[rows, :width],
            sampler_logps=self.sampler_logps[rows, :width],
            truncated=self.truncated[rows],
        )

    def token_lists(self) -> list[list[int]]:
        """The sampled token ids of each completion, without the slots after its end."""
        ids = self.completion_ids.tolist()
        return [row[:n] for row, n in zip(ids, self.lengths.tolist(), strict=True)]


def concat_rollouts(parts: list[Rollouts]) -> Rollouts:
    """One batch out of several, padded to the longest completion."""
    import torch  # here: settings are read without waiting for it

    width = max(part.mask.shape[1] for part in parts)

    def padded(name: str) -> Tensor:
        columns = [getattr(part, name) for part in parts]
        return torch.cat([torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in columns])

    offsets = torch.tensor([0] + [len(part.prompts) for part in parts[:-1]]).cumsum(0).tolist()
    return Rollouts(
        prompts=[prompt for part in parts for prompt in part.prompts],
        prompt_index=torch.cat([p.prompt_index + o for p, o in zip(parts, offsets, strict=True)]),
        truncated=torch.cat([part.truncated for part in parts]),
        **{name: padded(name) for name in ("completion_ids", "mask", "sampler_logps")},
    )
