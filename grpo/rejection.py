"""Rejection sampling, of R1's recipe: sample from the RL policy, keep what is right, fine-tune on it.

    for each problem: k completions -> correct and well formed -> distinct -> at most m of them -> samples.jsonl -> SFT

As in DeepSeek-R1 (arXiv:2501.12948, section 2.3.3) and RFT (arXiv:2308.01825).

    python -m grpo reject --config experiments/demo/reject.yaml
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from data import DataError, fitting, load_problems
from data.sources.jsonl import parse_row
from grpo.distributed import from_first
from grpo.evaluation import check_evaluation, judge, judged_by, origin
from grpo.golds import gradable
from grpo.model.policy import Policy, load_policy
from grpo.report.tables import table
from grpo.runs.config import Config
from grpo.runs.files import RunError, write_json, write_text
from grpo.runs.folder import SAMPLED, Run, data_hash
from grpo.runs.journal import Journal, Judged
from grpo.runs.log import say
from grpo.runs.start import say_start
from grpo.sft import fit
from grpo.types import Problem

REASONS = ("wrong", "malformed", "without reflection", "duplicate", "over the cap")
"""Why a sample is left out, in the order of the filters."""


def train_rejection(config: Config, run: Run) -> Policy:
    """Run it in an open run folder: sample once, then fine-tune (and resume there after a stop)."""
    problems = load_problems(config.data, config.seed)
    run.note_input("data_hash", data_hash(problems), "training data")
    how = {"parallel": config.parallel, "by_layer": config.by_layer("reject")}
    if not from_first((run.folder / "samples.jsonl").exists):
        if config.reject.sft_from:  # a model that cannot be loaded is found before all is sampled
            load_policy(replace(config.model, path=config.reject.sft_from), config.seed, **how)
        policy = load_policy(config.model, config.seed, **how)
        check_evaluation(config, policy, run)
        fit_in = fitting(problems, policy.tokenizer, config.prompt, config.data)
        fit_in = gradable(fit_in, judged_by(config), config.data)
        say_start("reject", config, policy, len(fit_in))
        rows, counts = sample_and_filter(config, policy, fit_in, run)
        if not rows:
            (run.folder / SAMPLED).unlink(missing_ok=True)  # another setting may follow
            raise ValueError(
                f"none of {counts['sampled']} samples was kept ({counts['wrong']} wrong, {counts['malformed']} "
                "malformed); raise reject.samples, train the RL policy longer or set reject.reflection=any"
            )
        write_json(run.folder / "rejection.json", counts)
        write_text(run.folder / "samples.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        shares = [[name, str(count), f"{count / counts['sampled']:.3f}"] for name, count in counts.items()]
        say(table(["samples", "count", "share"], shares))
        del policy  # before the next is loaded
    responses = from_first(lambda: read_samples(run.folder / "samples.jsonl", problems))
    start = replace(config.model, path=config.reject.sft_from or config.model.path)
    policy = load_policy(start, config.seed, training=True, parallel=config.parallel)
    return fit(config, run, policy, responses)


def read_samples(path: Path, problems: list[Problem]) -> list[tuple[Problem, str]]:
    """The kept samples with their problems. Raises RunError, with the line, where the file is damaged."""
    by_id, pairs = {p.id: p for p in problems}, []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = parse_row(line)
            if row.get("id") not in by_id or not isinstance(row.get("response"), str):
                raise DataError("names no problem of this run, or has no response")
        except (DataError, TypeError) as error:
            raise RunError(f"{path}:{number}: is damaged: {error}; delete the file to sample again") from None
        pairs.append((by_id[row["id"]], row["response"]))
    return pairs


def sample_and_filter(
    config: Config, policy: Policy, problems: list[Problem], run: Run | None = None
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Sample k completions of each problem and filter them.

    Returns the kept rows, each with its provenance, and how many samples each filter took out.
    """
    k, temperature = config.reject.samples, config.sampling.temperature
    journal = Journal(run, SAMPLED, origin(config, policy, problems) if run else "")
    judged = judge(config, policy, problems, k, temperature, "sampled", journal)
    counts: Counter[str] = Counter({"sampled": len(judged), **dict.fromkeys(REASONS, 0)})
    drawn_from = {"model": config.model.path, "temperature": temperature, "seed": config.seed}
    rows = []
    for i, problem in enumerate(problems):
        facts = {"id": problem.id, "question": problem.question, "answer": problem.answer, **drawn_from}
        for number, sample in filter_samples(list(enumerate(judged[i * k : (i + 1) * k])), config, counts):
            rows.append({**facts, "response": sample.text, "reflections": sample.reflections, "sample": number})
    return rows, {**counts, "kept": len(rows)}


def filter_samples(samples: list[tuple[int, Judged]], config: Config, counts: Counter[str]) -> list[tuple[int, Judged]]:
    """The samples of one problem that are kept; `counts` learns what became of the others."""
    kept: list[tuple[int, Judged]] = []
    seen: set[str] = set()
    for number, sample in samples:
        text = " ".join(sample.text.split())
        no_reflection = config.reject.reflection == "only" and not sample.reflections
        found = (not sample.correct, not sample.well_formed, no_reflection, text in seen)  # in the order of REASONS
        if any(found):
            counts[REASONS[found.index(True)]] += 1
        else:
            seen.add(text)
            kept.append((number, sample))
    if config.reject.reflection == "prefer":
        kept.sort(key=lambda item: not item[1].reflections)  # stable: otherwise in the order of sampling
    counts["over the cap"] += max(0, len(kept) - config.reject.per_problem)
    return kept[: config.reject.per_problem]
