"""Whatever is thrown at the grader: nothing is paid, raised or executed, and it is over in no time.

The attacks are the audit's (`rewards.audit.cases`). The time limits are generous for slow machines: the
median is some tens of microseconds.
"""

from __future__ import annotations

import random
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from rewards import accuracy_reward, count_reflections, format_reward, reflection_reward, repetition_reward
from rewards.answer import equivalent, extract_answer
from rewards.audit.cases import ATTACKS

sys.path.insert(0, str(Path(__file__).parent))
from fuzz_answer import SLOW, check, fuzz, too_slow

GOLDS = ["42", "x^2+\\sin x", "\\sqrt{2}", "(1,2)", "\\{1,2,3\\}", "\\frac{1}{2004!}", "x+1=y", "[1,2)", "B"]
FAMILIES = sorted(ATTACKS)

ROWS = [" & ".join(f"\\sqrt{{{n + 5 * row}}}" for n in range(2, 7)) for row in range(5)]
ROOTS = "\\begin{pmatrix}" + r" \\ ".join(ROWS) + "\\end{pmatrix}"
POWERS = ROOTS.replace("\\sqrt{", "7^{1")  # of 10 to 36 digits each

# Pairs that once raised, took long or compared one way only; from fuzzing.
FOUND = [
    ("i", "\\frac0.5"),
    ("\\left", "***"),
    ("\\sqrt{3}", "\\tan^{|y|}(\\tan^{\\log_{x}(100)}(12345678901))"),
    ("42", "+".join(["2400!"] * 150)),
    ("42", "*".join(f"{n}!" for n in range(2281, 2400))),
    ("(\\tan^{y}(\\pi),10]", "\\left(\\tan^{y}(\\pi),10\\right]"),
    ("42", "42\x00"),
    ("x", "2^{0.5}^{99999}"),
    ("1", "1^{10^{3000}}"),
    ("(e^{\\log_{y}(e)})(\\sin((10)^{2\\pm i}))", "(\\sin((10)^{2\\pm i}))\\cdot(e^{\\log_{y}(e)})"),
    ("{\\sqrt[\\sin((7)^2)]{i},((-7)(\\ln(0)))^2}", "{((-7)(\\ln(0)))^2,\\sqrt[\\sin((7)^2)]{i}}"),
    ("42", "*".join(f"{n}!/{n - 1}!" for n in range(2400, 2460))),
    ("5 m", "5 " + "sq " * 300 + "1"),
    ("5 m", "5 " + "a" * 900 + "1"),
    ("\\frac{1}{2}", "{1 \\over" * 120),
    ("42", f"2\\begin{{pmatrix}}1&{ROOTS}\\\\2&3\\end{{pmatrix}}"),
    (f"{ROOTS}^4", f"{ROOTS}^4+1{ROOTS}"),
    (f"{POWERS}^{{-20}}", f"{POWERS}^{{-19}}"),
    ("42", "5 " + "m^2 " * 25 + "#"),
    ("42", "5 " + "m^{2} " * 40),
    ("42", "5 a^2 b^2 c^2 d^2 e^2 f^2 g^2 h^2 k^2 l^2 m^2 n^2 p^2 q^2 r^2 s^2 t^2 u^2 v^2 w^2 + 1"),
    ("42", "x for" + " \n" * 100 + "!"),
    ("42", "x for" + "$" * 100 + "!"),
    ("42", "x \\equiv 3 \\pmod 7" + " " * 900 + "x"),
    ("\\lfloor x! \\rfloor", "\\sum_{k=1}^{n} \\sum_{j=1}^{999} \\lfloor \\sin(jk) \\rfloor"),
]


def attempts(family: str, tmp_path: Path) -> list[str]:
    return [attack.replace("{canary}", str(tmp_path / "executed")) for attack in ATTACKS[family]]


def timed(function, *arguments, **columns):
    """The result, in the least time of three: what is measured is the work, not the machine's other work."""
    took = []
    for _ in range(3):
        start = time.process_time()
        result = function(*arguments, **columns)
        took.append(time.process_time() - start)
        if took[-1] < SLOW:
            break
    assert min(took) < SLOW, (min(took), str(arguments)[:100])
    return result


@pytest.mark.parametrize("family", FAMILIES)
def test_equivalence_under_attack(family, tmp_path):
    for attack in attempts(family, tmp_path):
        for gold in GOLDS:
            assert timed(equivalent, gold, attack) is False
            assert timed(equivalent, attack, gold) is False
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_rewards_under_attack(family, tmp_path):
    for attack in attempts(family, tmp_path):
        for text in (
            f"<think>{attack}</think><answer>{attack}</answer>",
            attack,
            f"<think>a</think>{attack}",
        ):
            assert timed(accuracy_reward, [text], answer=["42"]) == [0.0]
            assert timed(reflection_reward, [text], answer=["42"]) == [0.0]
            timed(format_reward, [text])
            timed(extract_answer, text, require_tags=False)
            timed(count_reflections, text)
    assert not (tmp_path / "executed").exists()


def test_from_a_thread_just_the_same(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(test_equivalence_under_attack("huge numbers", tmp_path)))
    thread.start()
    thread.join(60)
    assert results == [None]


def test_a_megabyte_of_anything_is_read_in_linear_time():
    for unit in (
        "a ",
        "wait ",
        "<",
        "\\boxed{",
        "{",
        "the answer is ",
        '"',
        "\u201c",
        "####",
        "\n",
        "Wait, 6*7=42. ",
    ):
        text = "<think>" + unit * (1_000_000 // len(unit)) + "</think><answer>42</answer>"
        start = time.process_time()
        format_reward([text])
        extract_answer(text, require_tags=False)
        count_reflections(text)
        repetition_reward([text])
        assert time.process_time() - start < 8, unit


@pytest.mark.parametrize("pair", FOUND)
def test_what_fuzzing_found(pair):
    assert check(*pair) is None and too_slow(*pair) is None


def test_random_inputs():
    assert fuzz(3000, seed=random.randrange(2**32)) == 0


def test_a_call_takes_little_memory():
    tracemalloc.start()
    try:
        for first, second in FOUND:
            equivalent(first, second)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
