"""Evaluation on held-out problems: k sampled completions and the greedy one for each.

accuracy     share of right completions                                     sampled and greedy
pass@k       1 - C(n - c, k) / C(n, k), averaged over problems: n samples, c right     arXiv:2107.03374, eq. 1
maj@k        share of problems whose most frequent answer is right          arXiv:2203.11171
interval     95 %: the problems are the sample, not the completions, which are alike within a problem
reflection   share of completions that reflect, and how right they and the others are

python -m grpo eval --config experiments/demo/eval.yaml
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

from data import fitting, load_problems
from data.prompts import prompts_hash
from grpo.distributed import all_gather, rank_slice
from grpo.experience import make_prompts, progress_of, sample_texts
from grpo.golds import gradable
from grpo.model.policy import Policy
from grpo.runs.config import Config, RewardConfig
from grpo.runs.folder import EVALUATION, Run, data_hash, fingerprint
from grpo.runs.journal import Journal, Judged
from grpo.runs.log import progress
from grpo.runs.start import say_start
from grpo.scoring import Completions, RewardSet, load_rewards
from grpo.types import Problem, Rollouts
from rewards import count_reflections, format_reward
from rewards.answer import equivalent, extract_answer

PROMPTS = "text of the prompts (if it holds the day, set prompt.date)"
EVAL_STEP = -1  # sampling's step number for evaluation: its random numbers are not those of any training step


def held_out(config: Config, policy: Policy) -> list[Problem]:
    """The problems of the evaluation. Raises ValueError where they cannot be read or a prompt is too long."""
    problems = load_problems(config.eval.data, config.eval.seed)
    problems = fitting(problems, policy.tokenizer, config.prompt, config.eval.data)
    problems = gradable(problems, judged_by(config), config.eval.data)
    make_prompts(config, policy, problems)
    return problems


def note_held_out(config: Config, policy: Policy, run: Run) -> list[Problem]:
    """The problems of the evaluation, noted in the run's manifest. Raises RunError if they have changed."""
    problems = held_out(config, policy)
    run.note_input("eval_hash", data_hash(problems), "held-out data")
    return problems


def check_evaluation(config: Config, policy: Policy, run: Run) -> None:
    """Before a stage begins: what would stop the evaluation at its end stops it now."""
    if not config.eval.at_end and not config.eval.every:
        return
    problems = note_held_out(config, policy, run)
    one = Completions([""], [policy.eos_ids[:1]], make_prompts(config, policy, problems[:1]), problems[:1])
    here = replace(config, sandbox=replace(config.sandbox, enabled=False))
    evaluation_rewards(here)(one, progress_of(config))  # are the columns there?


def evaluate(config: Config, policy: Policy, run: Run | None = None) -> dict[str, Any]:
    """Evaluate a policy on `config.eval`. Returns figures ready for JSON; shares are in [0, 1].

    run: the open run folder. Each completion is kept in its eval.jsonl, and an evaluation that was stopped continues.
    """
    problems = held_out(config, policy)
    say_start("eval", config, policy, len(problems))
    journal = Journal(run, EVALUATION, origin(config, policy, problems) if run else "")
    return summary(config, problems, *judge_held_out(config, policy, problems, journal))


def judge_held_out(
    config: Config, policy: Policy, problems: list[Problem], journal: Journal
) -> tuple[list[Judged], list[Judged]]:
    """Completions of held-out problems, sampled and greedy, with the same random numbers for every seed and stage."""
    k, temperature = config.eval.samples, config.eval.temperature
    config = replace(config, seed=config.eval.seed, sampling=replace(config.sampling, top_p=config.eval.top_p))
    most = round(config.eval.megabytes * 1e6 / (len(problems) * (k + 1)))  # bytes of a row
    return (
        judge(config, policy, problems, k, temperature, "sampled", journal, most),
        judge(config, policy, problems, 1, 0.0, "greedy", journal, most),
    )


def origin(config: Config, policy: Policy, problems: list[Problem]) -> str:
    """Fingerprints of a policy and of what it is asked."""
    prompts = make_prompts(config, policy, problems)
    return " ".join((fingerprint(policy), prompts_hash(prompts), data_hash(problems)))


def summary(config: Config, problems: list[Problem], sampled: list[Judged], greedy: list[Judged]) -> dict[str, Any]:
    """The figures of an evaluation."""
    shares = per_problem(sampled, len(problems))
    levels: dict[str, list[float]] = {}
    for problem, share in zip(problems, shares, strict=True):
        if "level" in problem.columns:
            levels.setdefault(str(problem.columns["level"]), []).append(share)
    return {
        "problems": len(problems),
        "samples": config.eval.samples,
        "temperature": config.eval.temperature,
        "top_p": config.eval.top_p,
        "source": config.eval.data.label,
        "seed": config.eval.seed,
        "reward_settings": {name: {"function": one.function, **one.args} for name, one in config.rewards.items()},
        "sampled": {
            **describe(sampled),
            "se": standard_error(shares),
            "ci95": interval(shares, config.eval.samples),
            "levels": {level: _mean(levels[level]) for level in sorted(levels)},
            "pass_at": {str(k): pass_at_k(sampled, len(problems), k) for k in config.eval.pass_at},
            "maj": {str(config.eval.samples): majority(sampled, problems)},
        },
        "greedy": {**describe(greedy), "ci95": interval(per_problem(greedy, len(problems)), 1)},
    }


def judged_by(config: Config) -> dict[str, RewardConfig]:
    """The reward that says which completion is right."""
    return {config.eval.reward: config.rewards.get(config.eval.reward, RewardConfig())}


def evaluation_rewards(config: Config) -> RewardSet:
    """The rewards of the run, with their arguments there, and the one that says which completion is right."""
    name = config.eval.reward
    right = config.rewards.get(name, RewardConfig())
    if (right.function or name) == "accuracy":
        right = replace(right, args={"require_tags": config.eval.require_tags, **right.args})
    return load_rewards({**config.rewards, name: right}, config.sandbox)


def judge(
    config: Config,
    policy: Policy,
    problems: list[Problem],
    samples: int,
    temperature: float,
    kind: str,
    journal: Journal | None = None,
    most: int = 0,
) -> list[Judged]:
    """Sample completions of every problem and judge each; completions of a problem are adjacent.

    kind: what the rows of the journal are called; what is there of them is not sampled again. most: bytes of a row,
    at which texts lose their middle; 0: they stay. Raises Stopped.
    """
    config = replace(config, sampling=replace(config.sampling, temperature=temperature))
    prompts, per_round = make_prompts(config, policy, problems), max(1, config.sampling.max_rows // samples)
    journal, total, rewards = journal or Journal(), len(problems) * samples, evaluation_rewards(config)
    judged = journal.resume(kind, total, per_round * samples)
    with progress(total=total, initial=len(judged), desc=kind, unit="completion", leave=bool(journal.path)) as bar:
        for first in range(len(judged) // samples, len(problems), per_round):
            index = range(first, min(first + per_round, len(problems)))
            index = index[rank_slice(len(index))]  # those that this process samples
            here: list[Judged] = []
            some = slice(index.start, index.stop)
            found = sample_texts(config, policy, problems[some], prompts[some], samples, EVAL_STEP)
            if found:
                here = judge_completions(config, rewards, *found, index.start)
                here = [replace(row, kind=kind, sample=i % samples) for i, row in enumerate(here)]
            fresh = [shortened(row, most) for rows in all_gather(here) for row in rows]
            judged += fresh
            bar.set_postfix(accuracy=f"{_mean([j.correct for j in judged]):.3f}")
            bar.update(len(fresh))
            journal.add(fresh, f"{kind}, {len(judged)} of {total} completions")
    return judged


def judge_completions(
    config: Config, rewards: RewardSet, rollouts: Rollouts, completions: Completions, first: int
) -> list[Judged]:
    """Judge each completion. first: the place of the first problem."""
    scores = rewards(completions, progress_of(config)).tolist()  # [N, K]
    given = [
        {name: None if math.isnan(score) else score for name, score in zip(rewards.functions, row, strict=True)}
        for row in scores
    ]
    formed, require_tags = format_reward(**completions.columns()), config.eval.require_tags
    return [
        Judged(
            problem=first + int(rollouts.prompt_index[row]),
            text=text,
            correct=(given[row][config.eval.reward] or 0.0) > 0,
            well_formed=bool(formed[row]),
            reflections=count_reflections(text, require_tags=require_tags),
            answer=extract_answer(text, require_tags=require_tags),
            tokens=len(completions.token_ids[row]),
            truncated=bool(rollouts.truncated[row]),
            rewards=given[row],
            id=completions.problems[row].id,
            level=completions.problems[row].columns.get("level"),
            question=completions.problems[row].question,
            gold=completions.problems[row].answer,
        )
        for row, text in enumerate(completions.texts)
    ]


def shortened(row: Judged, most: int) -> Judged:
    """A row of about that many bytes: longer texts lose their middle, as their end holds the answer. 0: no limit."""
    if not most:
        return row
    text, question = without_middle(row.text, most * 5 // 8), without_middle(row.question, most // 8)
    return replace(row, text=text, question=question, answer=row.answer and without_middle(row.answer, most // 8))


def without_middle(text: str, most: int) -> str:
    """A text of about `most` bytes of JSON at most: its beginning and its end."""
    size = len(json.dumps(text))
    half = max(20, most * len(text) // size // 2)
    if size <= most or 2 * half >= len(text):
        return text
    return f"{text[:half]} ... ({len(text) - 2 * half} characters) ... {text[-half:]}"


def describe(judged: list[Judged]) -> dict[str, Any]:
    """Means over completions; None where there is nothing to average."""
    names = judged[0].rewards if judged else ()
    return {
        "accuracy": _mean([j.correct for j in judged]),
        "format": _mean([j.well_formed for j in judged]),
        "reflection_rate": _mean([bool(j.reflections) for j in judged]),
        "reflections": _mean([j.reflections for j in judged]),
        "accuracy_reflecting": _mean([j.correct for j in judged if j.reflections]),
        "accuracy_others": _mean([j.correct for j in judged if not j.reflections]),
        "length": _mean([j.tokens for j in judged]),
        "truncated": _mean([j.truncated for j in judged]),
        "rewards": {name: _mean([j.rewards[name] for j in judged if j.rewards[name] is not None]) for name in names},
    }


def standard_error(shares: list[float]) -> float:
    """Standard deviation of the problems' accuracies over the root of their number: problems are the sample."""
    mean = sum(shares) / len(shares)
    return math.sqrt(sum((share - mean) ** 2 for share in shares) / max(1, len(shares) - 1) / len(shares))


def _mean(values: list) -> float | None:
    return sum(values) / len(values) if values else None


def per_problem(judged: list[Judged], problems: int) -> list[float]:
    """[problems]: share of right completions of each; those of a problem are adjacent."""
    n = len(judged) // problems
    return [sum(j.correct for j in judged[i * n : (i + 1) * n]) / n for i in range(problems)]


def pass_at_k(judged: list[Judged], problems: int, k: int) -> float:
    """Unbiased pass@k: 1 - C(n - c, k) / C(n, k), averaged over problems. Raises ValueError if k > n."""
    n = len(judged) // problems
    if k > n:
        raise ValueError(f"pass@{k} needs {k} samples per problem, there are {n}")
    counts = [round(share * n) for share in per_problem(judged, problems)]
    return sum(1 - math.comb(n - c, k) / math.comb(n, k) for c in counts) / problems


def majority(judged: list[Judged], problems: list[Problem]) -> float:
    """maj@k over all k samples: equivalent answers vote together, ties go to the first; no answer, no vote."""

    def same(a: str, b: str) -> bool:
        return a == b or (equivalent(a, b) and equivalent(b, a))  # 6 * 7 as a gold is 42, and as an answer is not

    votes: list[dict[str, list[bool]]] = [{} for _ in problems]  # by the first of the equivalent answers
    for j in judged:
        if j.answer is not None:
            of_problem = votes[j.problem]
            first = next((a for a in of_problem if same(a, j.answer)), j.answer)
            of_problem.setdefault(first, []).append(j.correct)
    return sum(max(answers.values(), key=len, default=[False])[0] for answers in votes) / len(problems)


def interval(shares: list[float], samples: int) -> list[float]:
    """95 % interval of the accuracy, from each problem's share of right completions among `samples`.

    Wilson's interval with continuity correction (Newcombe 1998, method 4). The number of trials is chosen so that
    independent trials would have the observed spread: n problems, if each is always or never solved, or if all are
    equal; n * samples, if only chance tells them apart. The fewer problems tell the spread, the less of it is believed:
    by (1.96 / t)^2, as in Korn and Graubard (1998).
    """
    n, p, z = len(shares), sum(shares) / len(shares), 1.96
    spread = sum((x - p) ** 2 for x in shares) / max(1, n - 1)
    trials = float(n)
    if spread > 0 and samples > 1:
        free = min(sum(x > 0 for x in shares), sum(x < 1 for x in shares), n - 1)
        t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)  # Student's, two terms of it
        trials = min(max(n, n * p * (1 - p) / spread * (z / t) ** 2), n * samples)
    return [_lower_bound(p, trials), 1 - _lower_bound(1 - p, trials)]


def _lower_bound(p: float, n: float, z: float = 1.96) -> float:
    if p * n < 1 - 1e-9:  # less than one success in n trials
        return 0.0
    root = math.sqrt(max(0.0, z * z - 2 - 1 / n + 4 * p * (n * (1 - p) + 1)))
    return max(0.0, (2 * n * p + z * z - 1 - z * root) / (2 * (n + z * z)))
