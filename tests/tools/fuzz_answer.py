"""Throw inputs at the grader: no exception, nothing slow, `equivalent` deterministic and reflexive.

    python tests/tools/fuzz_answer.py --inputs 1000000           # random answers from a grammar, cut and spliced
    python tests/tools/fuzz_answer.py --atheris -- -runs=1000000  # coverage-guided, where atheris is installed

Prints what it finds and exits with 1; a finding belongs into `FOUND` of test_rewards_fuzz.py.
"""

from __future__ import annotations

import argparse
import inspect
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rewards import accuracy_reward, count_reflections, format_reward
from rewards.accuracy import gold_answer
from rewards.answer import equivalent, extract_answer
from rewards.grader.answer import read

SLOW = 0.1
"""Seconds that no input may take."""

# fmt: off
ATOMS = [
    "\\frac{1}{2}", "\\sqrt{2}", "\\sqrt[3]{5}", "\\pi", "e", "i", "x", "y", "0", "1", "2", "10", "42",
    "0.5", "1,000", "1e9", "9999999999", "\\infty", "\\sin", "\\cos", "\\tan", "\\ln", "\\log_2", "\\exp",
    "\\arcsin", "\\binom{9}{3}", "!", "%", "^\\circ", "^2", "^{-1}", "^{x}", "_8", "|", "(", ")", "[", "]",
    "\\{", "\\}", "{", "}", "\\left(", "\\right]", "+", "-", "*", "/", "**", "=", "<", "\\le", "\\ge",
    "\\neq", "\\approx", "\\in", "\\cup", "\\cap", "\\setminus", "\\pm", "\\cdot", ":", ",", ";", " or ", " and ",
    " cm", " square feet", " dollars", "$", "\\$", "\\text{ m}", "\\text{(A)}", "A", "yes", "not ", ".",
    "\\boxed{", "the answer is ", "####", "<think>", "</think>", "<answer>", "</answer>",
    "\\sum_{k=1}^{", "\\prod_{k=1}^{", "\\lfloor ", "\\rfloor", "\\lceil ", "\\rceil", "\\equiv ", "\\pmod ", "n", "f(",
    "\\hat{i}", "\\text{for all }", "\\in \\mathbb{Z}", "\\over ", "\\boldsymbol{", "So ", "there are ", " in total",
    "\\begin{pmatrix}", "&", '\\\\', "\\end{pmatrix}", "\\frac", "\\sqrt", "\n", " ", "\t", "\x00",
    "\u200b", "\ud800", "\u2212", "\xbd", "wait, ", '"', "\u0661", "9**9**9", "10^{10^{10}}", "2004!",
    "x^{999}", "1e-300", "9" * 50, "\\frac{1}{10^{90}}", "hmm. ", "let me check ",
]
# fmt: on


# fmt: off
FORMS = [
    "{0}+{1}", "{0}-{1}", "{0}{1}", "{0}\\cdot {1}", "{0}/({1})", "\\frac{{{0}}}{{{1}}}", "({0})^{{{1}}}",
    "({0})({1})", "\\sqrt{{{0}}}", "\\sqrt[3]{{{0}}}", "\\sqrt[{1}]{{{0}}}", "|{0}|", "\\sin({0})",
    "\\ln({0})", "e^{{{0}}}", "({0})!", "\\tan^{{{1}}}({0})", "\\log_{{{1}}}({0})", "\\binom{{{0}}}{{{1}}}",
    "-{0}", "{0}\\pm {1}", "({0})^2", "{0}={1}", "({0},{1})", "[{0},{1})", "\\{{{0},{1}\\}}", "{0},{1}",
    "{0}<x<{1}", "x\\le {0}", "({0},{1}]\\cup[{1},\\infty)", "{0} \\cup {1}", "[{0},{1}]\\cap {1}", "{0}\\setminus {1}",
    "{0}%", "\\begin{{pmatrix}}{0}&{1}\\\\{1}&{0}\\end{{pmatrix}}", "x={0}", "{0} or {1}", "{0}\\text{{ cm}}",
    "\\boxed{{{0}}}", "{0}:{1}", "\\sum_{{k=1}}^{{{0}}} {1}", "\\lfloor {0} \\rfloor", "(-1)^{{{0}}}", "f({0})",
    "\\begin{{pmatrix}}{0}&1\\\\{1}&2\\end{{pmatrix}}^{{-1}}", "{0}\\begin{{pmatrix}}1&{1}\\\\2&3\\end{{pmatrix}}",
    "x \\equiv {0} \\pmod {1}",
]
# fmt: on
# fmt: off
LEAVES = [
    "x", "y", "n", "k", "\\pi", "e", "i", "0", "1", "2", "3", "7", "10", "100", "2500", "0.5", "1e30", "10^{50}",
    "10^{-50}", "12345678901",
]
# fmt: on


def random_expression(rng: random.Random, size: int) -> str:
    """A random answer that is well formed, mostly."""
    if size <= 1:
        return rng.choice(LEAVES)
    left = rng.randrange(1, size)
    form = rng.choice(FORMS[:22] if rng.random() < 0.8 else FORMS)
    return form.format(random_expression(rng, left), random_expression(rng, size - left))


def random_text(rng: random.Random, corpus: list[str]) -> str:
    """A random answer: well formed, or atoms in a row, or one seen before, cut and spliced."""
    kind = rng.random()
    if kind < 0.4:
        return random_expression(rng, min(int(rng.expovariate(0.15)) + 1, 60))
    if corpus and kind < 0.8:
        text = rng.choice(corpus)
        for _ in range(rng.randrange(1, 4)):
            at, to = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
            middle = rng.choice(["", text[at:to] * 2, rng.choice(ATOMS), rng.choice(corpus)])
            text = text[:at] + middle + text[to:]
        return text[:3000]
    return "".join(rng.choice(ATOMS) for _ in range(min(int(rng.expovariate(0.12)) + 1, 120)))


def check(gold: str, answer: str) -> str | None:
    """What is wrong with the grader on this pair, or None."""
    first = equivalent(gold, answer)
    equivalent(answer, gold)
    if equivalent(gold, answer) != first:
        return f"not deterministic: {first}, then {not first}"
    if not equivalent(gold, gold) and gold.strip().casefold() not in ("", "nan", "null"):
        return "not reflexive"
    text = f"<think>{gold}</think><answer>{answer}</answer>"
    paid = accuracy_reward([text], answer=[gold])[0]
    return "paid what isn't equivalent" if paid and not equivalent(gold_answer(gold), answer) else None


def too_slow(gold: str, answer: str) -> str | None:
    """Which function takes more than `SLOW`, three times in a row: not the machine's doing."""
    text = f"<think>{gold}</think><answer>{answer}</answer>"
    calls = {
        "equivalent": lambda: equivalent(gold, answer),
        "accuracy_reward": lambda: accuracy_reward([text], answer=[gold]),
        "format_reward": lambda: format_reward([answer + text]),
        "count_reflections": lambda: count_reflections(text),
        "extract_answer": lambda: extract_answer(gold + answer, require_tags=False),
    }
    for name, call in calls.items():
        if all(_seconds(call) > SLOW for _ in range(3)):
            return f"{name} takes {_seconds(call):.3f} s"
    return None


def _seconds(call: Callable[[], object]) -> float:
    read.cache_clear()
    start = time.process_time()  # the work, not what else the machine does
    call()
    return time.process_time() - start


def fuzz(inputs: int, seed: int) -> int:
    """Check this many random pairs; the number of findings."""
    rng = random.Random(seed)
    corpus: list[str] = []
    findings, slowest, start = 0, 0.0, time.perf_counter()
    for number in range(inputs):
        gold, answer = random_text(rng, corpus), random_text(rng, corpus)
        begun = time.perf_counter()
        try:
            problem = check(gold, answer)
            if time.perf_counter() - begun > SLOW or number % 20 == 0:
                problem = problem or too_slow(gold, answer)
        except Exception as error:
            problem = repr(error)
        slowest = max(slowest, time.perf_counter() - begun)
        if problem:
            findings += 1
            print(f"{problem}\n  gold   = {gold!r}\n  answer = {answer!r}", flush=True)
        if len(corpus) < 3000:
            corpus.append(answer)
        elif rng.random() < 0.05:
            corpus[rng.randrange(len(corpus))] = answer
        if number % 50_000 == 49_999:
            rate = number / (time.perf_counter() - start)
            print(f"{number + 1} inputs, {findings} findings, slowest {slowest:.3f} s, {rate:.0f}/s", flush=True)
    return findings


def fuzz_with_atheris(arguments: list[str]) -> None:
    """Coverage-guided fuzzing; libFuzzer stops at the first finding and writes the input to a file."""
    import atheris

    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "rewards"]:
        for value in list(vars(module).values()):
            for function in vars(value).values() if inspect.isclass(value) else [value]:
                if inspect.isfunction(function) and function.__module__.startswith("rewards"):
                    atheris.instrument_func(function)

    def one_input(data: bytes) -> None:
        provider = atheris.FuzzedDataProvider(data)
        gold, answer = provider.ConsumeUnicode(200), provider.ConsumeUnicode(1200)
        problem = check(gold, answer) or too_slow(gold, answer)
        assert problem is None, (problem, gold, answer)

    atheris.Setup([sys.argv[0], *arguments], one_input)
    atheris.Fuzz()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", action="store_true")
    parser.add_argument("rest", nargs="*", help="libFuzzer's options, after --")
    options = parser.parse_args(argv)
    if options.atheris:
        fuzz_with_atheris(options.rest)
        return 0
    return 1 if fuzz(options.inputs, options.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
