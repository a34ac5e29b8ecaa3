# ruff: noqa: RUF001
"""Kinds of answers that people reported, each generated, so that members which nobody listed are tried too."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rewards import accuracy_reward
from rewards.answer import GradingConfig, equivalent, extract_answer

numbers = st.integers(2, 99_999)
small = st.integers(2, 99)


def paid(gold: str, answer: str, **config) -> bool:
    """Both ways round: the grader knows no order."""
    grading = GradingConfig(**config)
    result = equivalent(gold, answer, grading)
    assert result == equivalent(answer, gold, grading), (gold, answer)
    return result


def graded(gold: object, answer: str) -> bool:
    return bool(accuracy_reward([f"<think>so</think>\n<answer>{answer}</answer>"], answer=[str(gold)])[0])


# --------------------------------------------------------------------------- equations


@given(st.integers(-50, 50), st.integers(2, 9), st.integers(-9, 9), st.sampled_from("xnty"))
def test_a_solved_equation_is_no_other_equation_that_it_solves(value, a, b, x):
    solved, swapped = f"{x} = {value}", f"{value} = {x}"
    for other in (f"{a}{x} + {b} = {a * value + b}", f"{a}{x} = {a * value}", f"{x}/{a} = {value}/{a}"):
        assert not paid(solved, other)
    assert paid(solved, swapped) and paid(solved, str(value)) and not paid(solved, str(value + 1))
    assert not paid(solved, swapped.replace(x, "z"))


@given(st.integers(2, 50), st.integers(2, 9), st.sampled_from("xntk"))
def test_the_right_side_of_an_equation_that_is_not_solved_is_no_answer(value, a, x):
    for left in (f"{a}{x}", f"{x} + {a}", f"{x} - {a}", f"{x}/{a}", f"{x}^2", f"{a}a + b", f"{x}({x} - {a})", f"{x}!"):
        assert not paid(str(value), f"{left} = {value}") and not paid("0", f"{left} = 0"), left
    for left in (f"f({a})", f"f(g({a}))", f"f'({a})", f"a_{a}", "a + b", "|z|", "\\sin A", "P(A)"):
        assert paid(str(value), f"{left} = {value}") and not paid(str(value), f"{left} = {value + 1}"), left


@given(st.integers(-50, 50), st.integers(2, 9), st.sampled_from(["<", ">", "\\le", "\\ge"]))
def test_a_solved_inequality_is_no_other_one(value, a, sign):
    assert not paid(f"x {sign} {value}", f"{a}x {sign} {a * value}")
    assert paid(f"x {sign} {value}", f"x{sign} {value}")


@given(st.integers(1, 9), st.integers(1, 9), st.integers(-9, 9), st.integers(2, 5))
def test_a_line_is_any_equation_of_it(a, b, c, k):
    assert paid(f"{a}x + {b}y = {c}", f"{k * a}x + {k * b}y = {k * c}")
    assert paid(f"{a}x + {b}y = {c}", f"{b}y = {c} - {a}x") and not paid(f"{a}x + {b}y = {c}", f"{a}x + {b}y = {c + 1}")


# --------------------------------------------------------------------------- lists and separators


@given(st.integers(1, 999), st.integers(1, 99))
def test_a_number_with_a_separator_is_no_list(head, tail):
    number, group = head * 1000 + tail, f"{tail:03}"
    for spelling in (f"{head},{group}", f"{head}{{,}}{group}", f"{head}\\,{group}", f"{head}\u2009{group}"):
        assert paid(str(number), spelling)
    for listed in (f"{head}, {tail}", f"{tail}, {head}", f"{head} and {tail}"):
        assert not paid(f"{head},{group}", listed)


@given(st.lists(small, min_size=2, max_size=4, unique=True), st.randoms())
def test_lists_have_no_order_and_no_other_members(values, random):
    other = random.sample(values, len(values))
    assert paid(", ".join(map(str, values)), " and ".join(map(str, other)))
    assert not paid(", ".join(map(str, values)), ", ".join(map(str, [*values[:-1], 100])))


@given(st.integers(1, 999), st.integers(0, 999), st.integers(1, 99))
def test_the_decimal_comma_is_a_setting_as_a_whole(head, group, cents):
    cents = cents if cents % 10 else cents + 1
    point, comma = f"{head}{group:03}.{cents:02}", f"{head}.{group:03},{cents:02}"
    assert paid(point, comma.replace(".", "").replace(",", "."))
    assert paid(comma, f"{head}{group:03},{cents:02}", decimal_comma=True)
    assert not paid(comma, f"{head}.{group:03},{cents:02}1", decimal_comma=True)
    assert paid(f"{head}.{group:03}", f"{head}{group:03}", decimal_comma=True)
    assert paid(comma.replace(".", " "), point, decimal_comma=True)
    assert paid(f"0,{group:03}", f"0.{group:03}", decimal_comma=True)
    assert not paid(f"0,{group:03}", str(group)) and (
        group == 0 or not paid(f"0,{group:03}", str(group), decimal_comma=True)
    )


# --------------------------------------------------------------------------- boxes


@given(
    small,
    st.sampled_from(
        [
            "${}$",
            "\\[{}\\]",
            "**{}**",
            "So the answer is {}.",
            "x = {}",
            "Thus $x = {}$.",
            "{} apples",
            "In May she sold half; in all {}.",
            "It does not rain. Hence {}",
            "({})",
        ]
    ),
)
def test_a_box_in_a_sentence_is_what_it_holds(value, around):
    answer = around.replace("{}", f"\\boxed{{{value}}}")
    assert graded(value, answer) and not graded(value + 1, answer)


@given(
    st.integers(4, 99),
    st.sampled_from(
        [
            "-{}",
            "1{}",
            "\\sqrt{{}}",
            "{}\\%",
            "{}!",
            "{}\\pi",
            "{} million",
            "{}^2",
            "2\\cdot{}",
            "{} or 1",
            "{}. Wait, it is 1",
            "{} dozen",
            "not {}",
            "{}0",
            "either {} or \\boxed{1}",
            "{}, no, \\boxed{1}",
        ]
    ),
)
def test_what_stands_around_a_box_counts(value, around):
    answer = around.replace("{}", f"\\boxed{{{value}}}", 1)
    assert not graded(value, answer)


@given(
    st.integers(4, 99),
    st.sampled_from(
        ["twice", "half of", "the square root of", "the opposite of", "minus", "at least", "about", "under"]
    ),
    st.sampled_from(["below zero", "degrees below zero", "in base five", "to the power of two", "and five", "gross"]),
)
def test_words_next_to_a_box_that_change_its_number(value, before, after):
    box = f"\\boxed{{{value}}}"
    for answer in (f"{before} {box}", f"It is {before} ${box}$", f"{box} {after}", f"0.{box}"):
        assert not graded(value, answer), answer
    for answer in (f"It has half as many; so {box}", f"The base is even. {box} apples in all", f"1+1=2. {box}"):
        assert graded(value, answer) and not graded(value + 1, answer), answer


@given(small, st.integers(2, 9))
def test_what_is_left_of_a_box_or_between_two_counts(value, a):
    box = f"\\boxed{{{value}}}"
    wrong = [f"{a}x = {box}", f"x - {a} = {box}", f"\\frac{{x}}{{{a}}} = {box}", f"x{box}", f"f({box})", f"x_{{{box}}}"]
    wrong += [f"{a}, {box}", f"{a} and {box}", f"x = {a}, x = {box}", f"{box}+{box}", box + box]
    wrong += [f"{box} \\text{{ million}}", f"{box} thousand dollars", f"{box}. Correction: it is less"]
    for answer in wrong:
        assert not graded(value, answer), answer
    right = [f"f({a}) = {box}", f"{a} + {value - a} = {box} clips in May", f"P(A) = {box}", f"{box}\\text{{ cm}}"]
    for answer in [*right, f"{box} and again {box}"]:
        assert graded(value, answer) and not graded(value + 1, answer), answer
    assert graded(1000 * value, f"{box} \\text{{ thousand}}")


# --------------------------------------------------------------------------- units, money, scales

UNITS = [
    "cm",
    "m",
    "km",
    "kg",
    "g",
    "lbs",
    "mins",
    "hours",
    "GB",
    "inches",
    "ft",
    "miles",
    "dollars",
    "°C",
    "m/s",
    "km/h",
    "m²",
    "cm^2",
    "\\text{ cm}^{2}",
    "\\mbox{ m}^3",
    "\\text{ meters}",
    "square feet",
    "sq. ft.",
    "sq. m",
    "J/kg",
    "kg m/s",
    "^\\circ\\text{C}",
    "\\frac{\\text{m}}{\\text{s}}",
    "cubic meters",
    "mph",
]


@given(numbers, st.sampled_from(UNITS), st.sampled_from(["", " ", "\\,", "~"]))
def test_a_unit_may_be_left_out_in_any_spelling(value, unit, space):
    assume(
        space
        or not unit.startswith(("m", "g", "J", "kg m", "in", "ft", "dollars", "sq", "cubic"))
        or unit in ("mins", "mph")
    )
    assert graded(value, f"{value}{space}{unit}") and not graded(value + 1, f"{value}{space}{unit}")


@given(numbers, st.sampled_from(["m/n", "\\frac{m}{n}", "s/t", "h k", "V W", "m n", "g/x", "mk"]))
def test_letters_that_are_no_units_count(value, letters):
    assert not paid(str(value), f"{value} {letters}")


@given(
    numbers,
    st.sampled_from([("cm", "inches"), ("kg", "lbs"), ("m", "m^2"), ("£", "lbs"), ("m/s", "mph"), ("GB", "MB")]),
)
def test_two_units_are_two_answers(value, units):
    first, second = (f"£{value}" if unit == "£" else f"{value} {unit}" for unit in units)
    assert not graded(first, second) and graded(first, first)


@given(
    numbers,
    st.sampled_from(
        [
            "${}",
            "\\${}",
            "US${}",
            "USD {}",
            "Rs. {}",
            "€{}",
            "${}/day",
            "${} a day",
            "${} per day",
            "= {}",
            "{} (apples)",
            "#### {}",
            "**Answer**: {}",
            '"{}"',
            "{}.",
            "The answer is {}.",
        ]
    ),
)
def test_money_rates_and_markdown(value, around):
    assert graded(value, around.replace("{}", str(value))) and not graded(value + 1, around.replace("{}", str(value)))


@given(small, st.sampled_from(["-${}", "−${}", "-\\${}", "-{}^\\circ", "-{}°"]))
def test_signs_before_money_and_degrees(value, around):
    answer = around.replace("{}", str(value))
    assert graded(-value, answer) and not graded(value, answer)


SCALES = {
    "thousand": 1000,
    "thousands": 1000,
    "million": 10**6,
    "millions": 10**6,
    "dozen": 12,
    "hundreds": 100,
    "lakh": 10**5,
    "crore": 10**7,
    "billion": 10**9,
}


@given(small, st.sampled_from(sorted(SCALES)))
def test_a_scale_word_multiplies(value, word):
    assert not graded(value, f"{value} {word}") and graded(value * SCALES[word], f"{value} {word}")


@given(
    small,
    st.sampled_from(
        ["halves", "thirds", "tenths", "hundredths", "percent", "per cent", "pct", "%", "degrees below zero"]
    ),
)
def test_a_part_is_not_the_whole(value, word):
    assert not graded(value, f"{value} {word}")


# --------------------------------------------------------------------------- left-hand sides, chains, prose


@given(
    small,
    st.sampled_from(["f(3)", "f^{-1}(x)", "|z|", "m + n", "\\sin A", "\\angle ABC", "x^2 + y^2", "Total", "AB", "n"]),
)
def test_an_expression_on_the_left_names_what_is_asked(value, left):
    assert graded(value, f"{left} = {value}") and not graded(value, f"{left} = {value + 1}")


ASKED = [
    "\\gcd(12, 18)", "\\text{lcm}(4, 6)", "\\lfloor x \\rfloor", "\\lceil \\frac{x}{2} \\rceil", "P(A|B)",
    "P(X \\ge 2)", "\\det A", "\\max(a, b)", "\\sum_{i=1}^{n} i", "\\int_0^1 f(x)\\,dx", "\\lim_{x \\to 0} f(x)",
    "AB + BC", "AB/CD", "\\mathbb{E}[X]", "\\text{Var}(X)", "\\bar{z}", "|A \\cup B|", "7^{100} \\bmod 43", "C(10, 3)",
    "\\varphi(12)", "y'",
]  # fmt: skip
UNSOLVED = [
    "2 \\lfloor x \\rfloor", "\\lfloor x \\rfloor + 2", "x \\bmod 7", "3AB", "100 - AB", "not AB", "half of AB",
    "twice AB", "half \\gcd(a, b)", "maybe AB", "|x| - 1", "3\\gcd(a, b)", "AB = 3, CD", "5 - \\det A",
]  # fmt: skip


@given(small, st.sampled_from(ASKED), st.sampled_from(UNSOLVED))
def test_a_left_side_that_nothing_here_reads_is_a_name_unless_it_is_arithmetic(value, asked, unsolved):
    assert graded(value, f"{asked} = {value}") and not graded(value, f"{asked} = {value + 1}"), asked
    assert not graded(value, f"{unsolved} = {value}"), unsolved


@given(
    small,
    small,
    st.sampled_from(
        [
            "{a} + {b} = {c}",
            "m + n = {a} + {b} = {c}",
            "${a} + ${b} = ${c}",
            "{a} + {b} = {c} dollars",
            "{a} apples + {b} apples = {c} apples",
            "{c} - {b} = {a}",
            "x = {a} + {b} = {c}",
        ]
    ),
)
def test_a_true_chain_is_its_end_and_a_false_one_is_nothing(a, b, chain):
    text, end = chain.format(a=a, b=b, c=a + b), a if chain.startswith("{c}") else a + b
    assert graded(end, text)
    false = chain.format(a=a, b=b, c=a + b + 1)
    assert not graded(a + b + 1, false) and not graded(a + b, false)


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
    for count, same in ((20, True), (60, False)):  # of two ends each
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


VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¾": "3/4", "⅕": "1/5", "⅞": "7/8"}


@given(st.integers(1, 50), st.sampled_from(sorted(VULGAR)), st.integers(1, 9))
def test_unicode_fractions_exponents_and_roots(whole, sign, digit):
    top, bottom = map(int, VULGAR[sign].split("/"))
    assert paid(f"{whole}{sign}", f"\\frac{{{whole * bottom + top}}}{{{bottom}}}") and not paid(
        f"{whole}{sign}", str(whole)
    )
    assert paid(f"x{'⁰¹²³⁴⁵⁶⁷⁸⁹'[digit]}", f"x^{digit}") and paid(f"x{'₀₁₂₃₄₅₆₇₈₉'[digit]}", f"x_{digit}")
    assert paid(f"{digit}.5×10⁻{'⁰¹²³⁴⁵⁶⁷⁸⁹'[digit]}", f"{digit}.5 \\times 10^{{-{digit}}}")
    assert paid(f"∛{whole}", f"\\sqrt[3]{{{whole}}}") and paid(f"√{whole}", f"\\sqrt{{{whole}}}")


# --------------------------------------------------------------------------- where the answer is


@settings(max_examples=30)
@given(small, st.sampled_from(["<think>{}", "so <think> it is {}", "</think> <think> then {}"]))
def test_a_thought_that_never_ends_holds_no_answer(value, text):
    for answer in (f"\\boxed{{{value}}}", f"#### {value}", f"The answer is {value}"):
        assert extract_answer(text.replace("{}", answer), require_tags=False) is None
        assert extract_answer(f"<think>so</think> {answer}", require_tags=False) == str(value)


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("\\frac{3}{3}", "1", True),
        ("\\frac{84}{2}", "42", True),
        ("84/2", "42", False),
        ("June 20", "20", False),
        ("4", "x + \\boxed{4}", False),
        ("42", "42 = x", True),
        ("42", "42 = 6 \\cdot 7", True),
        ("1/3", "0.333...", True),
        ("1/3", "0.(3)", True),
        ("1/3", "0.333", False),
        ("\\alpha", "α", True),
        ("\\lambda", "λ", True),
        ("5", "B) 5", False),
        ("B", "B)", True),
        ("B", "(b)", True),
        ("52_8", "(52)_8", True),
        ("an ellipse", "ellipse", True),
        ("ellipse", "hyperbola", False),
    ],
)
def test_decided_cases(gold, answer, same):
    assert paid(gold, answer) == same


@given(
    small,
    st.sampled_from(
        [
            "The area is {}.",
            "So, the total is {}.",
            "Total: {}",
            "He has {} apples.",
            "The cost is ${}",
            "Therefore, {}.",
            "so {}",
            "x is {}",
            "She sold {} clips altogether in April and May.",
            "It takes {} minutes to get there.",
            "The train travels {} miles per hour.",
            "In total, {} people came.",
            "{} is the answer.",
            "“{}”",
            "{\\bf {}}",
            "\\fbox{{}}",
            "\\boxed {{}}",
            "{} ✓",
            "{} \\qquad \\blacksquare",
            "{}, because the rest is gone.",
        ]
    ),
)
def test_a_sentence_whose_only_number_can_be_meant(value, sentence):
    assert graded(value, sentence.replace("{}", str(value))) and not graded(
        value + 1, sentence.replace("{}", str(value))
    )


@given(
    small,
    st.sampled_from(
        [
            "It is less than {}.",
            "There are about {}.",
            "It is not {}.",
            "The total is {} or more.",
            "He has two bags of {}.",
            "The area is {} thousand.",
            "It was {} minutes past.",
            "It is {} million",
            "Up to {} people came.",
            "The total divided by {}.",
            "It is a multiple of {}.",
            "Half of {}.",
            "The square of {}.",
            "The number of divisors of {}.",
            "He ate {} and she ate 30.",
            "{} is too high.",
            "Maybe {} is the answer.",
            "It may be {}.",
            "{}, because it is not 5.",
        ]
    ),
)
def test_a_sentence_that_doubts_or_multiplies_its_number(value, sentence):
    assert not graded(value, sentence.replace("{}", str(value)))


# --------------------------------------------------------------------------- by hand


CASES = [
    line for line in (Path(__file__).parent / "grader_cases.txt").read_text(encoding="utf-8").splitlines()[1:] if line
]


@pytest.mark.parametrize("case", CASES)
def test_members_of_the_kinds_that_were_written_down_before_they_were_tried(case):
    gold, _, rest = case.partition("|")
    answer, _, same = rest.rpartition("|")
    assert graded(gold, answer) == (same == "1")
