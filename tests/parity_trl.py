"""Our loss against that of TRL's installed GRPOTrainer on the same tensors. `python tests/parity_trl.py` prints all.

TRL's own methods compute: `_generate_and_score_completions` the advantages and importance-sampling corrections,
`_compute_loss` the loss. Only what makes the tensors is replaced: sampling, reward functions, the model's log-probs.
A row shows the largest absolute difference of the loss, and of its gradient by log-probs and entropies, in fp32.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.embedded.tiny_model import BASE_FOLDER
from grpo.advantages import group_advantages
from grpo.loss import Counts, LossConfig, token_loss
from grpo.presets import PRESETS
from grpo.weights import Tokens

G, LENGTHS = 4, (3, 19, 1, 11, 19, 2, 14, 6)  # two groups; the completions of T = 19 tokens are cut off
WEIGHTS = torch.tensor([1.0, 0.5])


@dataclass
class Case:
    """One row of the table."""

    option: str
    trl: dict[str, Any]
    """Arguments of TRL's GRPOConfig."""
    ours: LossConfig
    on_policy: bool = False
    """Old log-probs are the present ones, and the sampler's too."""
    vllm: bool = False
    """As if sampled by vLLM: TRL then corrects for the sampler's log-probs."""
    trainer: str = "GRPOTrainer"
    micro_batches: int = 1
    why: str = ""
    """Why the two differ, where they do on purpose."""
    counts: str = "rows"
    """What ours counts as sequences: rows, or as our trainer does, those with a token that is learned from."""


def loss_cases() -> list[Case]:
    """Every loss type at every ratio level that both have, on and off policy, with and without KL."""
    types = {
        "grpo": ({}, {}),
        "bnpo": ({}, {"aggregation": "token_mean"}),
        "dapo": ({}, {"aggregation": "token_mean", "eps_high": 0.28}),
        "dr_grpo": ({}, {"aggregation": "constant", "max_length": max(LENGTHS)}),
        "cispo": ({"epsilon_high": 5.0},
                  {"surrogate": "cispo", "aggregation": "token_mean", "eps_low": 1.0, "eps_high": 4.0}),
        "sapo": ({}, {"surrogate": "sapo"}),
        "luspo": ({}, {"aggregation": "sequence_sum"}),
    }  # fmt: skip
    cases = []
    for name, (theirs, ours) in types.items():
        if name == "dapo":
            theirs = {"epsilon_high": 0.28}
        for ratio in ("token", "sequence"):
            for on_policy in (True, False):
                options = {"loss_type": name, "importance_sampling_level": ratio, **theirs}
                config = LossConfig(ratio=ratio, beta=0.0, **ours)
                cases.append(Case(f"{name}, {ratio}", options, config, on_policy))
    for on_policy in (True, False):
        for corrected in (False, True):
            options = {"beta": 0.1, "use_bias_correction_kl": corrected}
            name = "KL k3 x rho" if corrected else "KL k3"
            for loss_type, aggregation in (("grpo", "sequence_mean"), ("dapo", "token_mean")):
                config = LossConfig(beta=0.1, kl_ratio=corrected, aggregation=aggregation)
                cases.append(Case(f"{name}, {loss_type}", {**options, "loss_type": loss_type}, config, on_policy))
    return cases


def weight_cases() -> list[Case]:
    """Importance-sampling corrections, masks, delta, entropy."""
    cases = []
    for kind, name in (("truncate", "tis"), ("mask", "mis")):
        for level in ("token", "sequence"):
            for floor in (None, 0.9):
                options = {"vllm_importance_sampling_mode": f"{level}_{kind}", "vllm_importance_sampling_clip_max": 1.5}
                options |= {"vllm_importance_sampling_clip_min": floor, "loss_type": "dapo"}
                args = {"cap": 1.5, "floor": floor or 0.0, "level": level}
                config = LossConfig(beta=0.0, aggregation="token_mean", weight=({"name": name, "args": args},))
                cases.append(Case(f"{name}, {level}, {floor or 0} to 1.5", options, config, vllm=True))
    sequence = {"name": "tis", "args": {"cap": 1.5, "level": "sequence"}}
    options = {"vllm_importance_sampling_mode": "sequence_truncate", "vllm_importance_sampling_clip_max": 1.5}
    options |= {"loss_type": "grpo", "importance_sampling_level": "sequence"}
    config = LossConfig(ratio="sequence", beta=0.0, weight=(sequence,))
    cases.append(Case("tis, sequence, ratio sequence", options, config, vllm=True))
    opsm = ({"name": "opsm", "args": {"delta": 0.05}},)
    for vllm in (False, True):
        weight = (*opsm, {"name": "tis", "args": {"cap": 1e9}}) if vllm else opsm
        options = {"off_policy_mask_threshold": 0.05, "loss_type": "grpo", "vllm_importance_sampling_clip_max": 1e9,
                   "vllm_importance_sampling_mode": "token_truncate"}  # fmt: skip
        cases.append(Case(f"opsm{' x tis' * vllm}", options, LossConfig(beta=0.0, weight=weight), vllm=vllm))
    for share in (0.2, 0.5):
        weight = ({"name": "top_entropy", "args": {"share": share}},)
        options = {"top_entropy_quantile": share, "loss_type": "dapo", "beta": 0.1, "use_bias_correction_kl": False}
        config = LossConfig(beta=0.1, aggregation="token_mean", weight=weight)
        cases.append(Case(f"top_entropy {share}", options, config))
    cases.append(Case("delta", {"delta": 1.5, "loss_type": "grpo"}, LossConfig(beta=0.0, delta=1.5)))
    cases.append(Case("delta, sequence", {"delta": 1.3, "loss_type": "grpo", "importance_sampling_level": "sequence"},
                      LossConfig(ratio="sequence", beta=0.0, delta=1.3)))  # fmt: skip
    for loss_type, aggregation in (("grpo", "sequence_mean"), ("dr_grpo", "constant")):
        config = LossConfig(beta=0.0, entropy_bonus=0.1, aggregation=aggregation, max_length=max(LENGTHS))
        cases.append(Case(f"entropy bonus, {loss_type}", {"entropy_coef": 0.1, "loss_type": loss_type}, config))
    cases.append(Case("gmpo (trl.experimental)", {"epsilon": 0.4}, PRESETS["gmpo"], trainer="GMPOTrainer"))
    for advantage, options in (
        ("none", {"scale_rewards": "none"}), ("batch", {"scale_rewards": "batch"}),
        ("gdpo", {"multi_objective_aggregation": "normalize_then_sum"}),
    ):  # fmt: skip
        cases.append(
            Case(f"advantage {advantage}", {**options, "loss_type": "grpo"}, LossConfig(advantage=advantage, beta=0.0))
        )
    for loss_type, aggregation in (("grpo", "sequence_mean"), ("dapo", "token_mean")):
        config = LossConfig(beta=0.0, aggregation=aggregation)
        cases.append(Case(f"two micro-batches, {loss_type}", {"loss_type": loss_type}, config, micro_batches=2))
    return cases


def different_cases() -> list[Case]:
    """Where we differ on purpose."""
    mean = "TRL: mean of the micro-batches' means; ours counts the tokens of the whole batch"
    kl = "ours weighs a token's KL by its own ratio (arXiv:2512.02556), TRL by the completion's"
    weight = "TRL gives each token the mean weight of its completion; ours its own (GSPO eq. 14, gradient only)"
    bonus = "TRL's bonus is of the kept tokens alone; ours of all"
    token = {"vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_max": 1.5}
    tis = ({"name": "tis", "args": {"cap": 1.5}},)
    top = ({"name": "top_entropy", "args": {"share": 0.5}},)
    return [
        Case("bnpo, two micro-batches", {"loss_type": "bnpo"}, LossConfig(beta=0.0, aggregation="token_mean"),
             micro_batches=2, why=mean),
        Case("truncated rows masked, grpo", {"mask_truncated_completions": True, "loss_type": "grpo"},
             LossConfig(beta=0.0), why="TRL divides by all rows; our trainer by those that are learned from",
             counts="learned"),
        Case("KL k3 x rho, ratio sequence", {"beta": 0.1, "importance_sampling_level": "sequence", "loss_type": "grpo"},
             LossConfig(ratio="sequence", beta=0.1, kl_ratio=True), why=kl),
        Case("tis, token, ratio sequence", {**token, "importance_sampling_level": "sequence", "loss_type": "grpo"},
             LossConfig(ratio="sequence", beta=0.0, weight=tis), vllm=True, why=weight),
        Case("entropy bonus, top_entropy 0.5", {"entropy_coef": 0.1, "top_entropy_quantile": 0.5, "loss_type": "grpo"},
             LossConfig(beta=0.0, entropy_bonus=0.1, weight=top), why=bonus),
    ]  # fmt: skip


def tensors(case: Case) -> dict[str, Tensor]:
    """What both get: [8, T] log-probs, entropies and a mask, [8, 2] rewards."""
    generator = torch.Generator().manual_seed(0)

    def noise(scale: float) -> Tensor:
        return scale * torch.randn(len(LENGTHS), max(LENGTHS), generator=generator)

    old = -3 * torch.rand(len(LENGTHS), max(LENGTHS), generator=generator) - 0.05
    logps, sampler, reference = old + noise(0.4), old + noise(0.3), old + noise(0.4)
    logps[0], logps[4] = old[0] + 0.22, old[4] + 0.35  # completions beyond the clip range, and beyond delta
    sampler[1], sampler[6], sampler[3] = old[1] - 0.05, old[6] - 0.02, old[3] + 0.03  # above, in and below [0.9, 1.5]
    if case.on_policy:
        old = sampler = logps
    mask = torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]
    rewards = torch.rand(len(LENGTHS), 2, generator=generator)
    rewards[0], rewards[4] = 1.0, 0.0
    return {"logps": logps, "old": old, "sampler": sampler, "reference": reference, "entropy": noise(1.0).abs(),
            "mask": mask, "rewards": rewards}  # fmt: skip


# ---- the two sides ------------------------------------------------------------------------------------------


def trl_loss(case: Case, t: dict[str, Tensor], folder: str) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, and its gradients by log-probs and by entropies [8, T], out of TRL's own methods."""
    import datasets
    import trl
    from trl.experimental import gmpo

    kinds = {"GRPOTrainer": (trl.GRPOTrainer, trl.GRPOConfig), "GMPOTrainer": (gmpo.GMPOTrainer, gmpo.GMPOConfig)}
    made, config = kinds[case.trainer]
    options = {
        "output_dir": folder, "per_device_train_batch_size": len(LENGTHS) // case.micro_batches, "num_generations": G,
        "gradient_accumulation_steps": case.micro_batches, "max_completion_length": max(LENGTHS), "use_cpu": True,
        "bf16": False, "report_to": [], "beta": 0.0, "reward_weights": WEIGHTS.tolist(),
        # with a second pass over the samples, TRL computes the old log-probs
        "num_iterations": 1 if case.on_policy else 2,
    }  # fmt: skip
    rows = datasets.Dataset.from_list([{"prompt": "1 + 1"}] * 4)
    trainer = made(str(BASE_FOLDER), [lambda **_: [0.0], lambda **_: [0.0]],
                   args=config(**options | case.trl), train_dataset=rows)  # fmt: skip
    trainer.model.train()
    trainer.use_vllm, trainer.current_gradient_accumulation_steps = case.vllm, case.micro_batches
    logps, entropy = t["logps"].clone().requires_grad_(), t["entropy"].clone().requires_grad_()
    part = slice(None)  # rows of the micro-batch

    def log_probs(model: object, *_: object, **__: object) -> tuple[Tensor, Tensor, None]:
        if torch.is_grad_enabled():
            return logps[part], entropy[part], None
        return t["reference" if model is trainer.ref_model else "old"], t["entropy"], None

    end = trainer.processing_class.eos_token_id
    ids = [[5] * (n - 1) + [5 if n == max(LENGTHS) else end] for n in LENGTHS]
    sampled = [row[:n] for row, n in zip(t["sampler"].tolist(), LENGTHS, strict=True)]
    trainer._get_per_token_logps_and_entropies = log_probs
    trainer._generate = lambda _: ([[5]] * len(ids), ids, None, [""] * len(ids), sampled, {}, None, None)
    trainer._calculate_rewards = lambda *_: t["rewards"]
    batch = trainer._generate_and_score_completions([{"prompt": "1 + 1"}] * len(ids))
    total = torch.zeros(())
    for rows in torch.arange(len(ids)).chunk(case.micro_batches):
        part = rows
        inputs = {name: x[rows] if x.dim() else x for name, x in batch.items()}  # all but num_items_in_batch
        total = total + trainer._compute_loss(trainer.model, inputs)
    total.backward()
    zero = torch.zeros_like(logps)
    return total.detach(), logps.grad, zero if entropy.grad is None else entropy.grad


def our_loss(case: Case, t: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The same out of ours; micro-batches with the counts of the whole batch, as in our trainer."""
    logps, entropy = t["logps"].clone().requires_grad_(), t["entropy"].clone().requires_grad_()
    advantages = group_advantages(t["rewards"], WEIGHTS, G, case.ours.advantage)
    mask = t["mask"].clone()
    if case.trl.get("mask_truncated_completions"):
        mask[[n == max(LENGTHS) for n in LENGTHS]] = False
    sequences = mask.any(dim=1).sum() if case.counts == "learned" else len(mask)
    counts = Counts(mask.sum(), sequences, case.ours.length_divisor(mask.shape[1]))
    total = torch.zeros(())
    for rows in torch.arange(len(mask)).chunk(case.micro_batches):
        values = {name: t[name][rows] for name in ("old", "sampler", "reference")}
        values |= {"logps": logps[rows], "entropy": entropy[rows], "advantages": advantages[rows]}
        loss, _ = token_loss(Tokens.of(mask[rows], t["entropy"][mask], **values), case.ours, counts)
        total = total + loss
    total.backward()
    return total.detach(), logps.grad, torch.zeros_like(logps) if entropy.grad is None else entropy.grad


def compare(case: Case) -> tuple[float, float, float]:
    """TRL's loss, and the largest difference of loss and of gradient."""
    t = tensors(case)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = trl_loss(case, t, folder)
    ours = our_loss(case, t)
    gaps = [(a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True)]
    assert theirs[1].abs().max() > 1e-3  # there is something to compare
    return theirs[0].item(), gaps[0], max(gaps[1:])


def shown(case: Case) -> str:
    """A row of the table."""
    loss, gap, gradient = compare(case)
    what = [f"{k}={v}" for k, v in case.trl.items()] + ["vLLM"] * case.vllm + ["on-policy"] * case.on_policy
    default = LossConfig()
    ours = [f"{k}={v}" for k, v in vars(case.ours).items() if v != getattr(default, k)]
    columns = (case.option, " ".join(what), " ".join(ours), f"{loss:.4f}", f"{gap:.1e}", f"{gradient:.1e}", case.why)
    return f"| {' | '.join(columns)} |"


def main() -> None:
    """Print the table."""
    import logging

    import transformers

    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    print("| option | TRL | ours | loss | loss differs | gradient differs | why |\n|---|---|---|---|---|---|---|")
    for case in [*loss_cases(), *weight_cases(), *different_cases()]:
        print(shown(case), flush=True)


if __name__ == "__main__":
    main()
