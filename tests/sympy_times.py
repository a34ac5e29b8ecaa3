"""How long sympy takes for what the grader decides: `python tests/sympy_times.py PAIRS.jsonl` (fields gold, pred).

Each pair of expressions is built from the parser's own tree, with exponents and digits bounded, and decided by
`simplify(a - b) == 0`, by `a.equals(b)` (each in a process of its own, killed after five seconds), and by the grader.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rewards.answer import GradingConfig, equivalent
from rewards.grader.answer import read, stated
from rewards.grader.lexer import spelled
from rewards.grader.values import Number, Symbol, Unreadable, Value

LIMIT = 5.0
NUMBERS = [
    ("\\sqrt{5 + 2\\sqrt{6}}", "\\sqrt{2} + \\sqrt{3}"),
    ("\\sqrt[3]{2 + \\sqrt{5}}", "\\frac{1 + \\sqrt{5}}{2}"),
    ("\\sqrt{2 + \\sqrt{2 + \\sqrt{2 + \\sqrt{2}}}}", "2\\cos(\\pi/32)"),
    ("\\sqrt[3]{\\sqrt[3]{2} - 1}", "\\sqrt[3]{1/9} - \\sqrt[3]{2/9} + \\sqrt[3]{4/9}"),
    ("(\\sqrt{2} + \\sqrt{3})^2", "5 + 2\\sqrt{6}"),
    ("(\\sqrt{2} + \\sqrt{3} + \\sqrt{5})^2", "10 + 2\\sqrt{6} + 2\\sqrt{10} + 2\\sqrt{15}"),
]


def to_sympy(value: Value):
    """A sympy object of an expression. Raises Unreadable for a collection, a unit or too large a number."""
    import sympy

    if isinstance(value, Number):
        if max(abs(value.value.numerator), value.value.denominator) > 10**30:
            raise Unreadable("too large")
        return sympy.Rational(value.value.numerator, value.value.denominator)
    if isinstance(value, Symbol):
        constants = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I}
        return constants.get(value.name) or sympy.Symbol(value.name)
    if value.kind:
        raise Unreadable(value.kind)
    args = [to_sympy(arg) for arg in value.args]
    if value.name == "^" and args[1].is_number and abs(args[1]) > 100:
        raise Unreadable("too high a power")
    own = {
        "+": sympy.Add, "*": sympy.Mul, "^": sympy.Pow, "!": sympy.factorial, "binom": sympy.binomial, "abs": sympy.Abs,
        "ln": sympy.log, "degree": lambda x: x * sympy.pi / 180, "arcsin": sympy.asin, "arccos": sympy.acos,
        "arctan": sympy.atan, "log": lambda x, base=10: sympy.log(x, base),
    }  # fmt: skip
    return (own.get(value.name) or getattr(sympy, value.name))(*args)


def decide(how: str, a: Value, b: Value, queue) -> None:
    import sympy

    first, second = to_sympy(a), to_sympy(b)
    sympy.simplify(sympy.Symbol("x") + 1)  # what a first call imports is not counted
    started = time.perf_counter()
    same = sympy.simplify(first - second) == 0 if how == "simplify" else first.equals(second)
    queue.put((time.perf_counter() - started, bool(same)))


def time_sets() -> None:
    """Unions of n intervals against the same, each cut in two: by sympy's sets, and by the grader with its parsing."""
    import sympy

    for n in (1, 2, 4, 8):
        times: dict[str, list[float]] = {"sympy": [], "ours": []}
        for shift in range(20):
            ends = [(3 * i + shift, 3 * i + shift + 2) for i in range(n)]
            started = time.perf_counter()
            whole = sympy.Union(*(sympy.Interval(low, high) for low, high in ends))
            cut = sympy.Union(*(sympy.Interval(a, a + 1) for low, _ in ends for a in (low, low + 1)))
            assert whole == cut
            times["sympy"].append(time.perf_counter() - started)
            first = "\\cup".join(f"[{low},{high}]" for low, high in ends)
            second = "\\cup".join(f"[{low},{low + 1}]\\cup[{low + 1},{high}]" for low, high in ends)
            started = time.perf_counter()
            assert equivalent(first, second)
            times["ours"].append(time.perf_counter() - started)
        shown = {name: f"{statistics.median(some) * 1e3:.1f}" for name, some in times.items()}
        print(f"{n} intervals, and each cut in two: median ms {shown}")


def main(path: str) -> None:
    time_sets()
    pairs = []
    sines = ["+".join(f"\\sin({n}x)" for n in range(1, 12)), "+".join(f"\\sin({n}x)\\cos({n}y)" for n in range(1, 12))]
    attack = {"gold": sines[0], "pred": sines[1]}, [read(spelled(text)) for text in sines]
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        try:
            values = [read(spelled(stated(str(row[key]), GradingConfig()))) for key in ("gold", "pred")]
            [to_sympy(value) for value in values]
        except (Unreadable, ArithmeticError, AttributeError, RecursionError):
            continue
        if values[0] != values[1]:
            pairs.append((row, values))
    print(f"{len(pairs)} pairs of expressions that are written differently, and two sums of eleven sines")
    compare([*pairs, attack])
    numbers = [({"gold": a, "pred": b}, [read(spelled(a)), read(spelled(b))]) for a, b in NUMBERS]
    print(f"{len(numbers)} pairs of equal numbers with roots")
    compare(numbers)


def compare(pairs: list) -> None:
    """Time the grader and sympy on pairs of a row, with its gold and pred, and the two values."""
    times: dict[str, list[float]] = {"ours": [], "simplify": [], "equals": []}
    killed = dict.fromkeys(times, 0)
    context = multiprocessing.get_context("fork")
    for row, values in pairs:
        started = time.perf_counter()
        equivalent(str(row["gold"]), str(row["pred"]))
        times["ours"].append(time.perf_counter() - started)
        for how in ("simplify", "equals"):
            queue = context.Queue()
            process = context.Process(target=decide, args=(how, *values, queue))
            process.start()
            process.join(LIMIT)
            if process.is_alive():
                process.kill()
                killed[how] += 1
            elif not queue.empty():
                times[how].append(queue.get()[0])
    for how, all_of_it in times.items():
        shown = (
            statistics.median(all_of_it) * 1e3,
            sorted(all_of_it)[len(all_of_it) * 95 // 100] * 1e3,
            max(all_of_it) * 1e3,
        )
        print(
            "{:9} median {:6.2f} ms, 95 % {:7.2f} ms, slowest {:7.1f} ms".format(how, *shown), f"killed {killed[how]}"
        )


if __name__ == "__main__":
    main(sys.argv[1])
