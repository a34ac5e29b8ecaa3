"""Updates of tiny models on given rollouts, in this process or, as a program that torchrun starts, in several.

torchrun --nproc-per-node 2 tests/helpers_distributed.py FOLDER [CASE ...]

The folder is that of `save_models`; the results go there, too.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from helpers_models import random_model
from safetensors.torch import save_file
from test_architectures import WHOLE
from torch import Tensor

from data.embedded.tiny_model import build_tokenizer
from grpo.distributed import all_gather, process_group, rank, rank_slice
from grpo.experience import Batch
from grpo.loss import PRESETS
from grpo.model.optim import OptimConfig, Optimizer
from grpo.model.policy import ModelConfig, Policy, load_policy
from grpo.model.sharding import full_tensor
from grpo.runs.config import Config, GRPOConfig
from grpo.sampling import sample_groups
from grpo.sft import Example, as_rollouts, sft_step
from grpo.trainer import update
from grpo.types import SamplingConfig, concat_rollouts

MODELS = {
    "llama": ("llama", {}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "gemma2": ("gemma2", {"head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 3.0}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.3}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_5": ("qwen3_5_text", WHOLE["qwen3_5_text"]),
}
CASES = {  # model, dtype, recompute and tokens of a micro-batch: 1 is a completion each, 9999 all of them in one
    "many micro-batches": ("llama", "float32", "none", 30),
    "one for several processes": ("tied", "float32", "full", 9999),
    "a completion each": ("opt", "float32", "none", 1),
    "windows": ("gemma2", "float32", "full", 30),
    "mini-batches": ("llama", "float32", "none", 9999),
    "mini-batches, bf16": ("tied", "bfloat16", "none", 40),
    "whole rows": ("qwen3_5", "float32", "full", 50),
    "whole rows, one for several": ("qwen3_5", "float32", "none", 9999),
    "bf16": ("llama", "bfloat16", "none", 1),
    "bf16, one for several": ("gpt2", "bfloat16", "none", 9999),
    "bf16, tied": ("tied", "bfloat16", "full", 30),
    "bf16, experts": ("mixtral", "bfloat16", "full", 30),
}
PROMPTS = [[9], [5, 7, 3, 9, 12, 40, 33], [4, 4, 8, 50, 15, 6, 11, 61, 23, 17, 42, 30]]
LENGTHS = [2, 1, 7, 4, 5, 9]  # the shortest ones are what an idle process computes: here of the prompt of one token


def save_models(folder: Path) -> None:
    for name, (kind, options) in MODELS.items():
        random_model(kind, **options).save_pretrained(folder / name)
        build_tokenizer().save_pretrained(folder / name)


def examples() -> list[Example]:
    """Two completions of each prompt."""
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randint(2, 64, (length,), generator=generator).tolist() for length in LENGTHS]
    return [(PROMPTS[i // 2], tokens[i]) for i in range(len(tokens))]


def updates(folder: Path, case: str, parallel: str = "") -> dict[str, Tensor]:
    """Two updates of GRPO and one of SFT: gradients and figures of each, then weights and samples of the policy."""
    name, dtype, recompute, tokens = CASES[case]
    config = ModelConfig(str(folder / name), dtype=dtype, recompute=recompute)
    policy = load_policy(config, training=True, parallel=parallel)
    policy.freeze_reference()
    policy.start_training(parallel)
    adamw = OptimConfig(lr=1e-3, eps=1e-2, max_grad_norm=1e9)
    optimizer = Optimizer(policy.trainable(), adamw, 3, policy.masters)
    results: dict[str, Tensor] = {}
    number = [0]

    def note(*_: object) -> None:
        for parameter, master in optimizer.masters.items():
            results[f"gradient {number[0]}/{parameter}"] = full_tensor(master.grad).clone()

    optimizer.adamw.register_step_pre_hook(note)
    settings = Config(
        loss=PRESETS["grpo"],
        tokens_per_micro_batch=tokens,
        sampling=SamplingConfig(max_new_tokens=9),
        grpo=GRPOConfig(group_size=2),
    )
    if case.startswith("mini"):
        loss = replace(PRESETS["grpo"], weight=("top_entropy",), entropy_bonus=0.1)
        # of this seed the prompt of one token is never a mini-batch by itself, which an idle process could not compute
        settings = replace(
            settings, loss=loss, grpo=GRPOConfig(group_size=2, mini_batches=2, updates_per_batch=2), seed=1
        )
    rollouts, rewards = as_rollouts(examples()), torch.tensor([[1.0], [0.0], [0.3], [0.0], [0.0], [0.5]])
    for number[0] in range(3):
        if number[0] < 2:
            batch = Batch(rollouts, rewards, {})
            metrics = update(settings, policy, optimizer, batch, torch.ones(1), number[0])
            results |= {f"figures {number[0]}/{name}": x.clone() for name, x in batch.per_token.items()}
        else:
            metrics = sft_step(policy, optimizer, rollouts, tokens, number[0])
        results |= {f"metrics {number[0]}/{key}": torch.tensor(value) for key, value in metrics.items()}
    results |= {f"weight/{name}": weight.clone() for name, weight in optimizer.full_masters()}
    if parallel == "fsdp":
        policy.save(folder / f"{case} saved")
    if dtype == "float32":  # a sample of a bf16 policy may be another where other rows share its batch
        for policy.by_layer, name in ((False, "sample"), (True, "sample by layer")):
            results |= {f"{name}/{key}": x for key, x in samples(policy).items()}
    return results


def samples(policy: Policy) -> dict[str, Tensor]:
    """Completions of at most 9 tokens of one prompt, and of 3 of another: of three processes one samples nothing."""
    work = [("a", PROMPTS[1], 9), ("b", PROMPTS[0], 3)][rank_slice(2)]
    with policy.ready_to_sample():
        mine = [sample_groups(policy, [p], [name], 2, SamplingConfig(max_new_tokens=most), 0) for name, p, most in work]
    every = concat_rollouts([one for process in all_gather(mine) for one in process])
    return {"ids": every.completion_ids, "logps": every.sampler_logps}


def main(folder: Path, cases: list[str]) -> None:
    torch.set_num_threads(1)
    with process_group("cpu"):
        for case in cases or CASES:
            for parallel in ("ddp", "fsdp"):
                results = updates(folder, case, parallel)
                if rank() == 0:
                    save_file(results, folder / f"{case} {parallel}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
