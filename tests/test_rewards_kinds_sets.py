"""Intervals, conditions, unions: the same set however it is written."""

from __future__ import annotations

from helpers_grading import paid
from hypothesis import given
from hypothesis import strategies as st


@given(
    st.integers(-20, 20),
    st.integers(1, 20),
    st.sampled_from([("<", "<", "()"), ("\\le", "<", "[)"), ("\\le", "\\le", "[]")]),
)
def test_two_bounds_joined_by_and_are_an_interval(low, width, signs):
    first, second, (opening, closing) = signs
    interval = f"{opening}{low}, {low + width}{closing}"
    swapped = {"<": ">", "\\le": "\\ge"}[first]
    for text in (f"x {swapped} {low} and x {second} {low + width}", f"{low} {first} x {second} {low + width}"):
        assert paid(interval, text) and not paid(f"{opening}{low}, {low + width + 1}{closing}", text)
    assert paid("(-\\infty,\\infty)", "\\mathbb{R}") and paid(
        f"x \\ne {low}", f"(-\\infty,{low}) \\cup ({low},\\infty)"
    )


@given(st.integers(-20, 20), st.integers(0, 20))
def test_the_empty_set_is_no_pair(a, width):
    """Read as an interval, (3, -1) would be empty, and any empty set would be paid for it."""
    for gold in (f"({a},{a - width})", f"(x,y)=({a},{a - width})", f"({a},{a - width}) \\cup (50, 51)"):
        for answer in (
            "x < 0 \\text{ and } x > 1",
            "(0,1) \\cap (2,3)",
            "\\{1\\} \\setminus \\{1\\}",
            "\\emptyset",
            "(50,51)",
        ):
            assert not paid(gold, answer), (gold, answer)
    assert paid("\\emptyset", "(0,1) \\cap (2,3)")


@st.composite
def sets(draw) -> list[tuple[int, int, str]]:
    """Intervals that do not touch, in order: both ends, in halves, and their brackets."""
    ends = sorted(draw(st.lists(st.integers(-20, 20), min_size=2, max_size=6, unique=True)))
    ends = ends[: len(ends) // 2 * 2]
    brackets = st.sampled_from(["()", "[]", "[)", "(]"])
    return [(2 * low, 2 * high, draw(brackets)) for low, high in zip(ends[::2], ends[1::2], strict=True)]


def half(n: int) -> str:
    return str(n // 2) if n % 2 == 0 else f"{n / 2}"


def union(parts: list[tuple[int, int, str]]) -> str:
    return " \\cup ".join(f"{b[0]}{half(low)}, {half(high)}{b[1]}" for low, high, b in parts)


def holds(parts: list[tuple[int, int, str]], x: float) -> bool:
    inside = (low < x < high or (x == low and b[0] == "[") or (x == high and b[1] == "]") for low, high, b in parts)
    return any(inside)


@given(sets(), st.randoms())
def test_a_set_is_the_same_however_it_is_cut_or_ordered(parts, random):
    cut = []
    for low, high, b in parts:
        middle, ends = (low + high) // 2, random.choice(["[]", "](", ")["])  # the middle in one part at least
        both = [(low, middle, b[0] + ends[0].replace("[", ")")), (middle, high, ends[1].replace("]", "[") + b[1])]
        cut += both if random.random() < 0.7 else [(low, high, b)]
    random.shuffle(cut)
    assert paid(union(parts), union(cut)), cut
    without = f"({half(parts[0][0] - 2)}, {half(parts[-1][1] + 2)}) \\cap ({union(cut)})"
    assert paid(union(parts), without), without
    hole = half((parts[0][0] + parts[0][1]) // 2)
    holed = f"({union(cut)}) \\setminus \\{{{hole}\\}}"
    assert not paid(union(parts), holed), holed


@given(sets(), sets())
def test_two_sets_are_the_same_if_they_hold_the_same_numbers(one, other):
    points = [x / 2 for x in range(-90, 91)]
    same = [holds(one, x) for x in points] == [holds(other, x) for x in points]
    assert paid(union([*one, one[0]]), union([*other, other[0]])) == same


def test_sets_of_very_many_ends_are_not_compared():
    for count, same in ((5, True), (60, False)):  # of two ends each
        parts = [f"[{2 * i}, {2 * i + 1}]" for i in range(count)]
        assert paid(" \\cup ".join(parts), " \\cup ".join([*reversed(parts), "\\{0\\}"])) == same


@given(st.integers(-20, 20), st.integers(1, 9))
def test_conditions_are_the_set_that_they_describe(low, width):
    high = low + width
    outside, lost = f"(-\\infty, {low}) \\cup ({high}, \\infty)", f"(-\\infty, {low}) \\cup [{high}, \\infty)"
    for answer in (f"x < {low} or x > {high}", f"x > {high}, x < {low}", f"\\mathbb{{R}} \\setminus [{low}, {high}]"):
        assert paid(outside, answer) and not paid(lost, answer), answer
    for answer in (f"x < {low} and x > {high}", f"x > {low}, x < {high}", f"x < {low} or y > {high}"):
        assert not paid(outside, answer) and not paid("(-\\infty, \\infty)", answer), answer
    holes = f"(-\\infty, {low}) \\cup ({low}, {high}) \\cup ({high}, \\infty)"
    for answer in (
        f"x \\ne {low} and x \\ne {high}",
        f"x \\ne {high}, x \\ne {low}",
        f"\\mathbb{{R}} \\setminus \\{{{low}, {high}\\}}",
        f"\\mathbb{{R}} - \\{{{high}, {low}\\}}",
        f"all real numbers except {low}, {high}",
    ):
        assert paid(holes, answer) and not paid(outside, answer), answer
    assert paid(f"({low}, \\infty)", f"\\{{x : x > {low}\\}}") and not paid(
        f"[{low}, \\infty)", f"\\{{x \\mid x > {low}\\}}"
    )
    assert paid(f"\\{{{low}\\}} \\cup ({high}, \\infty)", f"x = {low} or x > {high}")
