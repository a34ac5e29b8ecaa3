"""Formulas in integers, sums, floors, matrices, congruences, vectors."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

from helpers_grading import graded, paid
from hypothesis import given
from hypothesis import strategies as st

from rewards.answer import equivalent


@given(st.integers(2, 6), st.sampled_from("nk"))
def test_formulas_in_an_integer(k, n):
    product = "".join(f"({n} - {i})" for i in range(k)).replace(" - 0", "")
    assert paid(f"\\binom{{{n}}}{{{k}}}", f"\\frac{{{product}}}{{{math.factorial(k)}}}")
    assert not paid(f"\\binom{{{n}}}{{{k}}}", f"\\frac{{{product}}}{{{math.factorial(k) + 1}}}")
    assert paid(f"({n} - 1)!", f"\\frac{{{n}!}}{{{n}}}") and not paid(f"({n} - 1)!", f"{n}! - 1")
    assert paid(f"\\lceil \\frac{{{n}}}{{{k}}} \\rceil", f"\\lfloor \\frac{{{n} + {k - 1}}}{{{k}}} \\rfloor")
    assert not paid(f"\\lceil \\frac{{{n}}}{{{k}}} \\rceil", f"\\lfloor \\frac{{{n}}}{{{k}}} \\rfloor")
    assert paid(f"(-1)^{{{n}}}", f"(-1)^{{{n} + {2 * k}}}") and not paid(f"(-1)^{{{n}}}", f"(-1)^{{{n} + {2 * k - 1}}}")


@given(st.integers(2, 40), st.integers(-5, 5))
def test_finite_sums_and_products(high, b):
    total = sum(k + b for k in range(1, high + 1))
    assert graded(f"\\sum_{{k=1}}^{{{high}}} (k + {b})", str(total))
    assert not graded(f"\\sum_{{k=1}}^{{{high}}} (k + {b})", str(total + 1))
    assert not graded(total, f"\\sum_{{k=1}}^{{{high}}} (k + {b})")  # undone
    assert graded(total, f"\\sum_{{k=1}}^{{{high}}} (k + {b}) = {total}")
    assert not graded(total + 1, f"\\sum_{{k=1}}^{{{high}}} (k + {b}) = {total + 1}")
    assert paid(f"\\sum_{{i=1}}^{{n}} (i + {b})", f"\\frac{{n(n+1)}}{{2}} + {b}n") and paid("\\prod_{i=1}^n i", "n!")


entries = st.lists(st.integers(-9, 9), min_size=4, max_size=4)


def matrix(values: list) -> str:
    a, b, c, d = values
    return f"\\begin{{pmatrix}}{a}&{b}\\\\{c}&{d}\\end{{pmatrix}}"


@given(entries, entries, st.integers(2, 5))
def test_arithmetic_of_matrices(one, other, k):
    (a, b, c, d), (e, f, g, h) = one, other
    product = [a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h]
    for text, values in (
        (f"{matrix(one)} {matrix(other)}", product),
        (f"{k}{matrix(one)}", [k * x for x in one]),
        (f"{matrix(one)} + {matrix(other)}", [x + y for x, y in zip(one, other, strict=True)]),
        (f"{matrix(one)}^T", [a, c, b, d]),
    ):
        assert paid(matrix(values), text) and not paid(matrix([*values[:3], values[3] + 1]), text), text
    if a * d != b * c:
        inverse = f"\\frac{{1}}{{{a * d - b * c}}}{matrix([d, -b, -c, a])}"
        assert paid(f"{matrix(one)}^{{-1}}", inverse)


MODULI = st.sampled_from(["\\pmod {{{}}}", "\\mod {}", "(mod {})"])


@given(st.integers(0, 20), st.integers(2, 20), st.integers(-3, 3), MODULI)
def test_congruences(r, m, k, mod):
    modulus, other = mod.format(m), mod.format(m + 1)
    assert paid(f"x \\equiv {r} {modulus}", f"x ≡ {r + k * m} {modulus}")
    for wrong in (f"x \\equiv {r + 1} {modulus}", f"x \\equiv {r} {other}", f"y \\equiv {r} {modulus}", str(r)):
        assert not graded(f"x \\equiv {r} {modulus}", wrong), wrong


@given(st.integers(2, 50), st.sampled_from(["sin", "cos", "tan", "cot", "sec", "csc"]))
def test_inverse_and_reciprocal_functions(n, name):
    x = f"\\frac{{1}}{{{n}}}" if name in ("sin", "cos") else str(n)
    assert paid(f"\\{name}^{{-1}} {x}", f"\\operatorname{{arc{name}}}({x})")
    assert not paid(f"\\{name}^{{-1}} {x}", f"\\frac{{1}}{{\\{name} {x}}}")
    assert paid(f"\\cot^{{-1}} {n}", f"\\arctan \\frac{{1}}{{{n}}}") and paid(f"\\sec {n}", f"\\frac{{1}}{{\\cos {n}}}")


@given(st.lists(st.integers(1, 9), min_size=3, max_size=3))
def test_vectors_in_unit_vectors(values):
    a, b, c = values
    forms = [f"{a}\\{font}{{i}} + {b}\\{font}{{j}} + {c}\\{font}{{k}}" for font in ("mathbf", "hat", "vec")]
    for form in [*forms, f"{c}\\mathbf{{k}} + {b}\\mathbf{{j}} + {a}\\mathbf{{i}}", f"({a}, {b}, {c})"]:
        wrong = form.replace(str(b), str(b + 10)).replace(str(a), str(a + 20))
        assert paid(forms[0], form) and not paid(forms[0], wrong)


def test_a_fine_difference_does_not_hide_behind_an_integer_letter():
    for tiny in ("10^{-50}\\sqrt{2}", "10^{-900}", "\\frac{\\pi}{10^{30}}", "\\sqrt{2} \\cdot 10^{-61}"):
        assert not equivalent("n!", f"n! + {tiny}") and not equivalent(f"n! + {tiny}", "n!")


def test_sympy_is_imported_only_where_it_is_needed_and_never_gets_a_text():
    source = "import sys; import rewards; from rewards.answer import equivalent as same\n"
    source += "assert same('x^2+x', 'x(x+1)') and 'sympy' not in sys.modules\n"
    one, other = r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^T", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"
    source += f"assert same({one!r}, {other!r})\n"
    source += "assert 'sympy' in sys.modules"
    subprocess.run([sys.executable, "-c", source], check=True)
    forbidden = re.compile(r"sympify|parse_expr|parse_latex|\beval\(|\bexec\(")
    for path in (Path(__file__).resolve().parents[1] / "rewards" / "grader").rglob("*.py"):
        assert not forbidden.search(path.read_text(encoding="utf-8")), path
