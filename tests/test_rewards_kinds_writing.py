# ruff: noqa: RUF001
"""One thing written in many ways: Unicode, Chinese, LaTeX's fonts, colours and old fractions."""

from __future__ import annotations

from helpers_grading import graded, small
from hypothesis import assume, given
from hypothesis import strategies as st

WRAPPED = [
    "\\boldsymbol{{{}}}", "\\textcolor{{red}}{{{}}}", "{{\\color{{blue}} {}}}", "\\underline{{{}}}", "\\mathbf{{{}}}",
    "\\text{{The answer is {}.}}", "\\boxed{{\\text{{{} pages}}}}", "$\\displaystyle {}$", 
    "{}。", "答案：{}", "{}个", "{}元", "\\bm{{{}}}", "\\large {}", "\\ensuremath{{{}}}",
]  # fmt: skip


@given(small, st.sampled_from(WRAPPED))
def test_what_only_looks_different_is_the_same(value, wrapper):
    assert graded(value, wrapper.format(value)) and not graded(value + 1, wrapper.format(value))


@given(st.integers(1, 10**6))
def test_full_width_digits_and_signs(value):
    wide = "".join(chr(0xFF10 + int(digit)) for digit in str(value))
    assert graded(value, wide) and not graded(value + 1, wide) and graded(f"x={value}", f"x＝{wide}")
    assert graded(f"({value},2)", f"（{wide}，２）")
    assert graded(value * 10**4, f"{value}万") and not graded(value, f"{value}万")


FRACTIONS = ["{{{} \\over {}}}", "\\nicefrac{{{}}}{{{}}}", "\\sfrac{{{}}}{{{}}}", "\\cfrac{{{}}}{{{}}}"]


@given(small, small, st.sampled_from(FRACTIONS))
def test_fractions_in_any_spelling(top, bottom, fraction):
    assume(top != bottom)
    assert graded(f"{top}/{bottom}", fraction.format(top, bottom)) or top % bottom == 0
    assert not graded(f"{top}/{bottom}", fraction.format(bottom, top))


@given(st.permutations("abcdefgh"), st.integers(2, 4))
def test_several_choices_in_one_word(letters, count):
    chosen, wrong = sorted(letters[:count]), sorted([*letters[1:count], letters[count]])
    word = "".join(chosen).upper()
    for answer in (", ".join(word), " and ".join(word), f"\\text{{{', '.join(word)}}}"):
        assert graded(word, answer) and not graded("".join(wrong).upper(), answer)
        assert not graded(word, answer[:-3])


@given(st.permutations("mgvqrklt"))
def test_letters_of_a_formula_with_spaces_or_without(letters):
    word = "".join(letters[:3])
    assert graded(" ".join(word), word) and graded(word, " ".join(word)) and not graded(" ".join(word), word[:2])
