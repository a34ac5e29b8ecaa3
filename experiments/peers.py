"""One measured run of a peer, for experiments/bench.py: TRL's GRPOTrainer, or a plain loop over `generate`.

    python experiments/peers.py trl --model FOLDER --prompts prompts.json --group 8 --tokens 128 --micro 8

Prints one line of JSON with the figures of `grpo bench`. The weights of both are fp32; bfloat16 is by autocast.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo.commands.bench import now, peak_memory, processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=("trl", "plain", "head-full", "head-ours"))
    parser.add_argument("--model")
    parser.add_argument("--prompts", type=Path, help="JSON list of prompt texts")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--micro", type=int, default=0, help="TRL: completions in a micro-batch; 0: all")
    parser.add_argument("--recompute", action="store_true", help="TRL: gradient_checkpointing, slower and leaner")
    parser.add_argument("--beta", type=float, default=0.04)
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warmup-tokens", type=int, default=0, help="length limit in the first step; 0: the others'")
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    arguments.device = torch.device(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.peer.startswith("head"):
        figures = run_head(arguments, arguments.peer == "head-ours")
    else:
        prompts = json.loads(arguments.prompts.read_text(encoding="utf-8"))
        figures = {"trl": run_trl, "plain": run_plain}[arguments.peer](arguments, prompts)
    figures = {key: value[1:] for key, value in figures.items()}  # the first step does not count
    machine = {"threads": torch.get_num_threads(), "processor": processor(arguments.device)}
    print(json.dumps({**figures, "peak_gb": peak_memory(arguments.device), **machine}))


def run_trl(arguments: argparse.Namespace, prompts: list[str]) -> dict[str, list[float]]:
    """TRL's trainer: it generates for the whole batch at once, its default, and learns in micro-batches."""
    import datasets
    import trl
    from transformers import TrainerCallback

    times: dict[str, list[float]] = {name: [] for name in ("tokens", "seconds", "sampling_seconds", "update_seconds")}

    class Clock(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            self.started, self.sampling = now(arguments.device), 0.0

        def on_step_end(self, *args, **kwargs):
            times["seconds"].append(now(arguments.device) - self.started)
            times["sampling_seconds"].append(self.sampling)
            times["update_seconds"].append(times["seconds"][-1] - self.sampling)
            times["tokens"].append(self.tokens)

    def reward(completions, **kwargs):
        return torch.rand(len(completions)).tolist()

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    rows = datasets.Dataset.from_list([{"prompt": prompt} for prompt in prompts])
    clock = Clock()
    trainer = trl.GRPOTrainer(
        model,
        reward,
        args=trl_options(arguments, len(prompts)),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[clock],
    )
    generate = trainer._generate

    def timed(*args, **kwargs):
        started = now(arguments.device)
        limit = arguments.tokens if times["seconds"] else arguments.warmup_tokens or arguments.tokens
        trainer.generation_config.max_new_tokens = limit
        result = generate(*args, **kwargs)
        clock.sampling += now(arguments.device) - started
        clock.tokens = sum(map(len, result[1]))  # (prompt ids, completion ids, ...)
        return result

    trainer._generate = timed
    trainer.train()
    return times


def trl_options(arguments: argparse.Namespace, prompts: int):
    """The GRPOConfig of a batch of `prompts` groups."""
    import trl

    batch = prompts * arguments.group
    micro = arguments.micro or batch
    return trl.GRPOConfig(
        output_dir="runs/bench-trl",
        max_steps=arguments.steps + 1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=batch // micro,
        num_generations=arguments.group,
        max_completion_length=arguments.tokens,
        gradient_checkpointing=arguments.recompute,
        temperature=1.0,
        beta=arguments.beta,
        learning_rate=arguments.lr,
        bf16=arguments.dtype == "bfloat16",
        use_cpu=arguments.device.type == "cpu",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )


def run_plain(arguments: argparse.Namespace, prompts: list[str]) -> dict[str, list[float]]:
    """What one writes first: `generate`, then full logits of prompt and completion, a group at a time."""
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model, reference = (
        AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).to(arguments.device).eval()
        for _ in range(2)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr)
    inputs = tokenizer([p for p in prompts for _ in range(arguments.group)], return_tensors="pt", padding=True)
    inputs = {key: inputs[key].to(arguments.device) for key in ("input_ids", "attention_mask")}
    length = inputs["input_ids"].shape[1]
    times: dict[str, list[float]] = {name: [] for name in ("tokens", "seconds", "sampling_seconds", "update_seconds")}
    pad = {"pad_token_id": tokenizer.pad_token_id}
    autocast = torch.autocast(arguments.device.type, torch.bfloat16, enabled=arguments.dtype == "bfloat16")

    def logps(some: AutoModelForCausalLM, ids: Tensor, mask: Tensor) -> Tensor:
        logits = some(input_ids=ids, attention_mask=mask).logits[:, length - 1 : -1].float()  # [B, T, V]
        return logits.log_softmax(-1).gather(-1, ids[:, length:, None]).squeeze(-1)

    for step in range(arguments.steps + 1):
        started = now(arguments.device)
        limit = arguments.tokens if step else arguments.warmup_tokens or arguments.tokens
        with torch.no_grad(), autocast:
            ids = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=limit, **pad)
        sampled = now(arguments.device)
        ended = (ids[:, length:] == tokenizer.eos_token_id).cumsum(1)
        trained = ended - (ids[:, length:] == tokenizer.eos_token_id).long() == 0  # [B, T], the first end included
        mask = torch.cat([inputs["attention_mask"], trained.long()], dim=1)
        rewards = torch.rand(len(prompts), arguments.group, device=arguments.device)
        advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten()
        for rows in torch.arange(len(ids)).split(arguments.group):
            with autocast:
                with torch.no_grad():
                    ref = logps(reference, ids[rows], mask[rows])
                logp = logps(model, ids[rows], mask[rows])
            ratio, gap = (logp - logp.detach()).exp(), ref - logp
            objective = ratio * advantages[rows, None] - arguments.beta * (gap.exp() - gap - 1)
            mean = (objective * trained[rows]).sum(dim=1) / trained[rows].sum(dim=1)
            (-mean.sum() / len(ids)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        done = now(arguments.device)
        times["tokens"].append(int(trained.sum()))
        times["seconds"].append(done - started)
        times["sampling_seconds"].append(sampled - started)
        times["update_seconds"].append(done - sampled)
    return times


def run_head(arguments: argparse.Namespace, ours: bool) -> dict[str, list[float]]:
    """Log-probs of 1024 tokens in a vocabulary of 151936, hidden states of 896 (Qwen2.5-0.5B), and their gradient."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from grpo.logprobs import token_logps
    from grpo.model.policy import Policy

    sizes = {"hidden_size": 896, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 14}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=151936, tie_word_embeddings=True, **sizes))
    policy, head = Policy(model, None, [1], "random"), model.lm_head
    hidden, targets = torch.randn(1024, 896, requires_grad=True), torch.randint(151936, (1024,))
    seconds = []
    for _ in range(arguments.steps + 1):
        started = now(arguments.device)
        if ours:
            logps, _ = token_logps(policy, hidden, targets, 1.0)
        else:
            logps = head(hidden).log_softmax(dim=-1).gather(-1, targets[:, None]).squeeze(-1)
        logps.sum().backward()
        seconds.append(now(arguments.device) - started)
        model.zero_grad()
    nothing = [0.0] * len(seconds)
    return {"tokens": [1024] * len(seconds), "seconds": seconds, "update_seconds": seconds, "sampling_seconds": nothing}


if __name__ == "__main__":
    main()
