"""One group through one step, with all its numbers: writes docs/step.md.

    python -m experiments.step            (`make docs` runs it; a few seconds)

It is the trainer's own code on the demo's settings, with one group of four and two updates, so that ratios and KL can
be followed: in the first update every ratio is 1. A test holds the page current, up to the processor's rounding.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data import load_problems
from data.stream import Stream
from grpo.experience import Batch, collect, make_prompts
from grpo.logprobs import logps_without_grad
from grpo.loss import KL_ESTIMATORS
from grpo.model.optim import Optimizer
from grpo.model.policy import load_policy
from grpo.runs.config import Config
from grpo.runs.settings import load_config
from grpo.scoring import load_rewards
from grpo.trainer import add_gradient, batch_constants, count

REPO = Path(__file__).parents[1]
PAGE = REPO / "docs" / "step.md"
SETTINGS = (
    "model.path=tiny", "grpo.prompts_per_step=1", "grpo.group_size=4", "grpo.updates_per_batch=2",
    "grpo.max_refills=20", "optim.warmup_steps=0", "eval.at_end=false", "sandbox.enabled=false", "threads=1",
    "data.demo.levels=[2,3]", "data.count=50", "seed=1",
)  # fmt: skip
HEAD = """# One step, with its numbers

What `make docs` writes: the trainer's own code on the demo's settings, from the embedded base model, with one group of
four and two updates on it. A test holds this page current, up to the rounding of another processor.

## The group

The prompt:
"""
ONE = """With every ratio 1, each term is -A_i, and the advantages add up to 0. **That is why the loss starts at 0.**
The gradient is not 0: its norm is {norm:.4f}, since the gradient of a ratio is that of the log-prob."""
TWO = """Ratios differ from 1 now, and the KL to the reference is above 0. The norm of the gradient is {norm:.4f}."""
TOKENS = """A = {advantage:+.4f}, the same for each token. Ratio and KL are of the second update. `clip` stands
where the ratio lies {side} {bound:g}, so that the token has no gradient of the policy term. The last column is the
log-prob after both updates less that before them.

| token | old log-prob | log-prob | ratio | clip | KL | the step |
|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Step:
    """A step as it went: [4, T] each, of a group of four."""

    config: Config
    batch: Batch
    prompt: str
    tokens: list[list[str]]
    """The text of each sampled token."""
    logps: list[Tensor]
    """Before the first update, before the second, and after it."""
    advantages: Tensor
    losses: list[float]
    """As the trainer logs them, of both updates."""
    grad_norms: list[float]


def take_step() -> Step:
    """Sample a group of the demo's problems from the embedded model, and learn from it twice."""
    config = load_config(str(REPO / "experiments/demo/grpo.yaml"), list(SETTINGS))
    policy = load_policy(config.model, config.seed, training=True)
    problems = load_problems(config.data, config.seed)
    rewards = load_rewards(config.rewards, config.sandbox)
    policy.freeze_reference()
    policy.start_training(config.parallel)
    optimizer = Optimizer(policy.trainable(), config.optim, 2, policy.masters)
    batch = collect(config, policy, rewards, Stream(problems, config.seed, 0, stage="base/grpo"), 0)
    rows, how = torch.arange(4), (config.sampling.temperature, config.tokens_per_micro_batch)
    constants = batch_constants(config, policy, batch, rewards.weights, [rows])
    logps, losses, norms = [logps_without_grad(policy, batch.rollouts, *how)[0]], [], []
    for number in range(2):
        sums = add_gradient(config, policy, batch, constants, rows, count(config, batch.rollouts.mask, 4))
        losses.append(float(sums["loss"]))
        norms.append(optimizer.step(number, losses[-1])["grad_norm"])
        logps.append(logps_without_grad(policy, batch.rollouts, *how)[0])
    group = next(x for x in batch.sampled if len(x.kept))
    texts = [[policy.tokenizer.decode([i]) for i in ids] for ids in batch.rollouts.token_lists()]
    prompt = make_prompts(config, policy, group.completions.problems[:1])[0].text
    return Step(config, batch, prompt, texts, logps, constants.advantages, losses, norms)


def page(step: Step) -> str:
    """The step as Markdown."""
    rewards, configured = step.batch.rewards, step.config.rewards
    group = next(x for x in step.batch.sampled if len(x.kept))
    total = rewards @ torch.tensor([reward.weight for reward in configured.values()])  # [4]
    best, worst = int(step.advantages.argmax()), int(step.advantages.argmin())
    texts = [group.completions.texts[row].replace("\n", " ") for row in group.kept.tolist()]
    lines = [HEAD, f"> {step.prompt.strip()}", ""]
    lines += [f"The gold answer is {group.completions.problems[int(group.kept[0])].answer}. Four completions:", ""]
    lines += [f"{i + 1}. `{text}`" for i, text in enumerate(texts)]
    weighted = " + ".join(f"{reward.weight:g} x {name}" for name, reward in configured.items())
    lines += ["", f"Each reward r_ik, and the total r_i = {weighted}:", ""]
    lines += [f"| completion | {' | '.join(configured)} | total r_i | advantage A_i |"]
    lines += ["|---" * (len(configured) + 3) + "|"]
    for i in range(4):
        cells = [f"{float(x):.4f}" for x in (*rewards[i], total[i])]
        lines.append(f"| {i + 1} | {' | '.join(cells)} | {float(step.advantages[i]):+.4f} |")
    mean, spread, r = float(total.mean()), float(total.std()), float(total[best])
    lines += [
        "",
        f"The mean of the totals is {mean:.4f}, their standard deviation (divided by G - 1 = 3) is {spread:.4f}.",
    ]
    lines += [f"So completion {best + 1} has A = ({r:.4f} - {mean:.4f}) / ({spread:.4f} + 0.0001) ="]
    lines += [f"{float(step.advantages[best]):+.4f}. The four advantages add up to 0.", ""]
    for number in range(2):
        lines += loss_table(step, number)
    for i, kind in ((best, "right"), (worst, "wrong")):
        lines += token_table(step, i, kind)
    return "\n".join(lines).rstrip() + "\n"


def loss_table(step: Step, number: int) -> list[str]:
    """The terms of the loss of an update, and the loss that the trainer logged."""
    title = ("The first update: every ratio is 1", "The second update: the policy has moved")[number]
    lengths, terms = step.batch.rollouts.lengths.tolist(), loss_terms(step, number)
    lines = [f"## {title}", "", "| completion | tokens | mean clipped objective | beta x mean KL | term of the loss |"]
    lines += ["|---" * 5 + "|"]
    for i, (objective, kl) in enumerate(terms):
        lines.append(f"| {i + 1} | {lengths[i]} | {objective:+.4f} | {kl:.6f} | {kl - objective:+.4f} |")
    loss = sum(kl - objective for objective, kl in terms) / 4
    lines += [
        "",
        f"The loss is the mean of the four terms: {shown(loss)}. The trainer logged {shown(step.losses[number])}.",
    ]
    return [*lines, (ONE, TWO)[number].format(norm=step.grad_norms[number]), ""]


def shown(value: float) -> str:
    """A loss with six digits; what rounds to 0 has no sign."""
    return f"{value:+.6f}" if abs(value) >= 5e-7 else "0.000000"


def token_terms(step: Step, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ratio, clipped objective and KL of each token in an update: [4, T] each, by the equations of loss.py."""
    old, now, loss = step.logps[0], step.logps[number], step.config.loss
    ratio, a = (now - old).exp(), step.advantages[:, None]
    objective = torch.minimum(ratio * a, ratio.clamp(1 - loss.eps_low, 1 + loss.eps_high) * a)
    return ratio, objective, KL_ESTIMATORS["k3"](now, step.logps[0])  # the reference is the policy before the step


def loss_terms(step: Step, number: int) -> list[tuple[float, float]]:
    """(mean of the clipped objective, beta x mean KL) of each completion."""
    mask, (_, objective, kl) = step.batch.rollouts.mask, token_terms(step, number)
    length = mask.sum(dim=1)
    parts = ((objective * mask).sum(dim=1) / length, step.config.loss.beta * (kl * mask).sum(dim=1) / length)
    return list(zip(parts[0].tolist(), parts[1].tolist(), strict=True))


def token_table(step: Step, i: int, kind: str) -> list[str]:
    """The tokens of a completion in the second update, and what the step did to each."""
    advantage, loss = float(step.advantages[i]), step.config.loss
    side, bound = ("above", 1 + loss.eps_high) if advantage > 0 else ("below", 1 - loss.eps_low)
    ratio, _, kl = token_terms(step, 1)
    before, between, after = (each[i].tolist() for each in step.logps)
    lines = [
        f"## The tokens of completion {i + 1}, {kind}",
        "",
        TOKENS.format(advantage=advantage, side=side, bound=bound),
    ]
    for t, text in enumerate(step.tokens[i]):
        x = float(ratio[i, t])
        clipped = "clip" if (x > bound if advantage > 0 else x < bound) else ""
        token = text.replace("\n", "\\n").replace("|", "\\|")
        cells = f"{before[t]:.4f} | {between[t]:.4f} | {x:.4f} | {clipped} | {abs(float(kl[i, t])):.6f}"
        lines.append(f"| `{token}` | {cells} | {after[t] - before[t]:+.4f} |")
    moved = sum(b - a for a, b in zip(before, after, strict=True))
    return [*lines, "", f"The log-prob of the whole completion changed by {moved:+.4f}.", ""]


def main() -> int:
    """Write the page."""
    torch.set_num_threads(1)
    PAGE.write_text(page(take_step()), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(REPO)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
