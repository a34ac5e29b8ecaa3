"""One measured run of a peer, for experiments/bench.py: TRL's GRPOTrainer, or a plain loop over `generate`.

    python experiments/peers.py trl --model FOLDER --prompts prompts.json --dtype float32 --group 8 --tokens 128

Prints one line of JSON with the figures of `grpo bench`. Both compute in fp32 masters; bfloat16 is by autocast.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=("trl", "plain", "head-full", "head-ours"))
    parser.add_argument("--model")
    parser.add_argument("--prompts", type=Path, help="JSON list of prompt texts")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--beta", type=float, default=0.04)
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.peer.startswith("head"):
        figures = run_head(arguments, arguments.peer == "head-ours")
    else:
        prompts = json.loads(arguments.prompts.read_text(encoding="utf-8"))
        figures = {"trl": run_trl, "plain": run_plain}[arguments.peer](arguments, prompts)
    figures = {key: value[arguments.warmup :] for key, value in figures.items()}
    if arguments.device == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    else:
        peak = torch.cuda.max_memory_allocated() / 1e9
    print(json.dumps({**figures, "peak_gb": peak, "threads": torch.get_num_threads()}))


def run_trl(arguments: argparse.Namespace, prompts: list[str]) -> dict[str, list[float]]:
    """TRL's trainer with its defaults; the whole batch in one piece, as it comes."""
    import datasets
    import trl
    from transformers import TrainerCallback

    times: dict[str, list[float]] = {name: [] for name in ("tokens", "seconds", "sampling_seconds", "update_seconds")}

    class Clock(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            self.started, self.sampling = time.perf_counter(), 0.0

        def on_step_end(self, *args, **kwargs):
            times["seconds"].append(time.perf_counter() - self.started)
            times["sampling_seconds"].append(self.sampling)
            times["update_seconds"].append(times["seconds"][-1] - self.sampling)
            times["tokens"].append(self.tokens)

    def reward(completions, **kwargs):
        return torch.rand(len(completions)).tolist()

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    options = trl.GRPOConfig(
        output_dir="runs/bench-trl",
        max_steps=arguments.steps + arguments.warmup,
        per_device_train_batch_size=len(prompts) * arguments.group,
        num_generations=arguments.group,
        max_completion_length=arguments.tokens,
        gradient_checkpointing=False,  # its default, True, is slower; the bench takes its faster way
        temperature=1.0,
        beta=arguments.beta,
        learning_rate=arguments.lr,
        bf16=arguments.dtype == "bfloat16",
        use_cpu=arguments.device == "cpu",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    rows = datasets.Dataset.from_list([{"prompt": prompt} for prompt in prompts])
    clock = Clock()
    trainer = trl.GRPOTrainer(
        model, reward, args=options, train_dataset=rows, processing_class=tokenizer, callbacks=[clock]
    )
    generate = trainer._generate

    def timed(*args, **kwargs):
        started = time.perf_counter()
        result = generate(*args, **kwargs)
        clock.sampling += time.perf_counter() - started
        clock.tokens = sum(map(len, result[1]))  # (prompt ids, completion ids, ...)
        return result

    trainer._generate = timed
    trainer.train()
    return times


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
    autocast = torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.dtype == "bfloat16")

    def logps(some: AutoModelForCausalLM, ids: Tensor, mask: Tensor) -> Tensor:
        logits = some(input_ids=ids, attention_mask=mask).logits[:, length - 1 : -1].float()  # [B, T, V]
        return logits.log_softmax(-1).gather(-1, ids[:, length:, None]).squeeze(-1)

    for _ in range(arguments.steps + arguments.warmup):
        started = time.perf_counter()
        with torch.no_grad(), autocast:
            ids = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=arguments.tokens, **pad)
        sampled = time.perf_counter()
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
        done = time.perf_counter()
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
    for _ in range(arguments.steps + arguments.warmup):
        started = time.perf_counter()
        if ours:
            logps, _ = token_logps(policy, hidden, targets, 1.0)
        else:
            logps = head(hidden).log_softmax(dim=-1).gather(-1, targets[:, None]).squeeze(-1)
        logps.sum().backward()
        seconds.append(time.perf_counter() - started)
        model.zero_grad()
    nothing = [0.0] * len(seconds)
    return {"tokens": [1024] * len(seconds), "seconds": seconds, "update_seconds": seconds, "sampling_seconds": nothing}


if __name__ == "__main__":
    main()
