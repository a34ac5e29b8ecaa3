"""Loading problems: fields, gold answers, slices, and errors that name file, line and reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import DataConfig, DataError, DemoConfig, load_problems, make_problems
from data.sources.text import last_boxed, number_text, split_final_answer, strip_annotations


@pytest.fixture
def write(tmp_path):
    """Write rows (dicts, or raw lines) to a file and return its path."""

    def write_rows(*rows, name="x.jsonl"):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(tmp_path / name)

    return write_rows


def row(number: int = 0, **more) -> dict:
    return {"question": f"What is {number} + 0?", "answer": str(number), **more}


# --------------------------------------------------------------------------- one row


def test_gsm8k_row(write, tmp_path):
    worked = "She sold 48/2 = <<48/2=24>>24.\nAll: $<<48*50=2400>>2,400"
    write({"question": " How many? ", "answer": f"{worked}\n#### 2,400"}, name="gsm8k_train.jsonl")
    (problem,) = load_problems(DataConfig(source="gsm8k", root=str(tmp_path)))
    assert problem.id == "gsm8k/train/0"
    assert problem.question == "How many?"
    assert problem.answer == "2400"
    assert problem.solution == "She sold 48/2 = 24.\nAll: $2,400"
    assert problem.columns == {"annotated_solution": worked}


def test_gsm8k_by_its_path_reads_the_same(write):
    path = write({"question": "q", "answer": "so <<1+1=2>>2\n#### -1,002.5"})
    (problem,) = load_problems(DataConfig(source=path, split="test"))
    assert (problem.id, problem.answer, problem.solution) == ("x/test/0", "-1002.5", "so 2")


def test_gsm8k_without_its_final_line(write, tmp_path):
    write({"question": "q", "answer": "72"}, name="gsm8k_test.jsonl")
    with pytest.raises(DataError, match=r"gsm8k_test.jsonl:1: the answer does not end in a line `#### N`"):
        load_problems(DataConfig(source="gsm8k", split="test", root=str(tmp_path)))


def test_math_gold_from_its_field_or_else_from_the_box(write, tmp_path):
    solution = r"$\boxed{1}$ no, $\boxed{\frac{1}{2}}$."
    rows = [
        {"problem": "p", "solution": solution, "level": 5},
        {"problem": "p", "solution": solution, "answer": "0.5"},
    ]
    write(*rows, name="math_train.jsonl")
    first, second = load_problems(DataConfig(source="math", root=str(tmp_path)))
    assert (first.answer, first.solution, first.columns) == (r"\frac{1}{2}", solution, {"level": 5})
    assert second.answer == "0.5"


def test_svamp_fields_join_and_its_float_is_an_integer(write, tmp_path):
    write(
        {
            "Body": "Two apples.",
            "Question": "How many?",
            "Answer": 2.0,
            "Equation": "( 1.0 + 1.0 )",
            "ID": "c-1",
        },
        name="svamp_test.jsonl",
    )
    (problem,) = load_problems(DataConfig(source="svamp", split="all", root=str(tmp_path)))
    assert (problem.question, problem.answer) == ("Two apples. How many?", "2")
    assert (problem.solution, problem.columns) == ("( 1.0 + 1.0 )", {"ID": "c-1"})


def test_field_names_are_configurable(write):
    path = write({"a": "A", "b": "B", "gold": 7, "how": "1 + 6", "question": "shadow", "keep": [1], "trainer_state": 1})
    fields = {"question_field": ["a", "b"], "answer_field": "gold", "solution_field": ["how"]}
    (problem,) = load_problems(DataConfig(source=path, **fields))
    assert (problem.question, problem.answer, problem.solution) == ("A B", "7", "1 + 6")
    assert problem.columns == {"keep": [1]}, "a column that a reward gets anyway is left out"


@pytest.mark.parametrize(
    ("bad", "config", "reason"),
    [
        ("{", {}, "not JSON"),
        ("[1]", {}, "not a JSON object"),
        ({"answer": "1"}, {}, "the field 'question' is null or missing; the row has 'answer'"),
        ({}, {}, "the row has nothing"),
        ({"question": "q", "answer": None}, {}, "the field 'answer' is null or missing"),
        ({"question": "q", "answer": " "}, {}, "the answer is empty"),
        ({"question": "q", "answer": "so\n####"}, {}, "the answer is empty"),
        ({"question": "", "answer": "1"}, {}, "the question is empty"),
        ({"question": 3, "answer": "1"}, {}, "the field 'question' must be text, not a number"),
        (
            {"question": "q", "answer": True},
            {},
            "the field 'answer' must be text or a number, not true or false",
        ),
        ({"question": "q", "answer": ["1"]}, {}, "not a list"),
        (row(), {"solution_field": "worked"}, "the field 'worked' is null or missing"),
        (row(), {"question_field": ["question", "body"]}, "the field 'body' is null or missing"),
        ({"question": "q", "solution": r"\boxed{1}"}, {"answer_field": "gold"}, "the field 'gold' is null"),
        ({"question": "q", "solution": "no box"}, {}, "the answer is empty"),
        ({"question": "q", "solution": r"\boxed{1}", "gold": " "}, {"answer_field": "gold"}, "the answer is empty"),
        ({"question": "q", "solution": r"\boxed{{1}"}, {}, "never closed"),
    ],
)
def test_a_bad_row_names_file_line_and_reason(write, bad, config, reason):
    path = write(row(), "", bad)
    fine = write({**row(), "worked": "w", "body": "b", "gold": "1"}, "", bad) if config else path
    with pytest.raises(DataError) as caught:
        load_problems(DataConfig(source=fine, **config))
    assert str(caught.value).startswith(f"{fine}:3: ") and reason in str(caught.value)
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------- which rows


def test_slices_cut_a_file_into_parts_with_stable_ids(write):
    path = write(*[row(i) for i in range(10)])
    whole = load_problems(DataConfig(source=path))
    train = load_problems(DataConfig(source=path, count=7))
    rest = load_problems(DataConfig(source=path, start=7, count=5))
    assert train + rest == whole
    assert [problem.id for problem in rest] == ["x/train/7", "x/train/8", "x/train/9"]


def test_skipped_rows_are_counted_and_keep_their_numbers(write):
    path = write(row(0), "{", row(2), "[]", row(4))
    with pytest.warns(UserWarning, match=r"skipped 2 bad rows; the first: .*x\.jsonl:2: not JSON"):
        problems = load_problems(DataConfig(source=path, skip_bad_rows=True))
    assert [problem.id for problem in problems] == ["x/train/0", "x/train/2", "x/train/4"]
    with pytest.warns(UserWarning):
        assert len(load_problems(DataConfig(source=path, skip_bad_rows=True, count=3))) == 2
    with pytest.warns(UserWarning), pytest.raises(DataError, match="no problem there"):
        load_problems(DataConfig(source=path, skip_bad_rows=True, start=3, count=1))


@pytest.mark.parametrize("shuffle", [False, True])
def test_problems_are_loaded_in_the_files_order(write, shuffle):
    """Whatever the order that they are trained in: held-out problems and figures per problem keep theirs."""
    path = write(*[row(i) for i in range(30)])
    for seed in (0, 5):
        problems = load_problems(DataConfig(source=path, shuffle=shuffle), seed)
        assert [problem.id for problem in problems] == [f"x/train/{i}" for i in range(30)]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"source": "gsm8"}, "unknown source 'gsm8'; did you mean 'gsm8k'?"),
        ({"source": "xyz.txt"}, "the path of a .jsonl, .json, .csv, .tsv, .parquet file"),
        ({"source": "none.jsonl"}, "none.jsonl: no such file; look at data.source"),
        ({"source": "gsm8k", "split": "dev"}, "gsm8k has no split 'dev', only train, test"),
        (
            {"source": "gsm8k", "root": "no"},
            "no/gsm8k_train.jsonl: no such file; `make data` downloads it, data.root=",
        ),
        ({"source": "math", "root": "no"}, "`python -m data.download math` fetches it, data.root="),
        (
            {"source": "svamp", "split": "test", "root": "no"},
            "put it there, or name its folder with data.root=",
        ),
        ({"start": -1}, "must not be negative"),
        ({"count": -1}, "must not be negative"),
        ({"source": "demo"}, "data.count is 0, but the demo's problems have no end"),
    ],
)
def test_what_cannot_be_loaded_says_what_to_do(config, reason):
    with pytest.raises(DataError) as caught:
        load_problems(DataConfig(**config))
    assert reason in str(caught.value)


def test_beyond_the_last_row(write):
    with pytest.raises(DataError, match=r"x.jsonl: no problem there \(data.start=1 data.count=0\)"):
        load_problems(DataConfig(source=write(row()), start=1))


def test_the_root_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("GRPO_DATA", "elsewhere")
    assert DataConfig().root == "elsewhere" and DataConfig(root="here").root == "here"
    monkeypatch.delenv("GRPO_DATA")
    assert DataConfig().root == "datasets"


def test_demo_problems_are_the_generators():
    demo = DemoConfig(levels=(3,))
    made = make_problems("validation", 5, 3, demo)
    config = DataConfig(source="demo", split="validation", start=2, count=3, demo=demo)
    assert load_problems(config, seed=3) == made[2:]


# --------------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("solution", "gold"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} done }", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\{1\\}", r"\{1\\"),
        (r"$\boxed 5$ apples", "5"),
        (r"\boxed {7}", "7"),
        ("no box", ""),
        ("\\boxed", ""),
    ],
)
def test_last_boxed(solution, gold):
    assert last_boxed(solution) == gold


def test_last_boxed_is_linear():
    assert last_boxed(r"\boxed{" * 100_000 + "}" * 100_000) == ""
    with pytest.raises(DataError, match="never closed"):
        last_boxed(r"\boxed{" + "{" * 1_000_000)


@given(st.text("abc1,.$- ", max_size=20).map(str.strip).filter(bool), st.text("ab\n#<>", max_size=20))
def test_split_final_answer_takes_the_last_line(gold, solution):
    before, after = split_final_answer(f"{solution}\n#### {gold}\n")
    assert before == solution.strip()
    assert after.replace(",", "") == gold.replace(",", "")


@pytest.mark.parametrize(("gold", "same"), [("1,234,567", "1234567"), ("1,23", "1,23"), ("(1,234)", "(1,234)")])
def test_only_thousands_lose_their_commas(gold, same):
    assert split_final_answer(f"#### {gold}") == ("", same)


def test_text_without_a_final_line_is_the_gold():
    assert split_final_answer(" #### 1\nx 1,000 ") == ("", "#### 1\nx 1,000")


def test_strip_annotations():
    assert strip_annotations("a <<1+1=2>>2 < 3 << 4\n >> <<>>") == "a 2 < 3 << 4\n >> "


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (145.0, "145"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1e-07, "0.0000001"),
        (1e21, "1" + "0" * 21),
        (100, "100"),
        (-2.50, "-2.5"),
    ],
)
def test_number_text(number, text):
    assert number_text(number) == text


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_number_text_loses_nothing(number):
    assert (
        type(number)(number_text(number)) == number if isinstance(number, float) else number_text(number) == str(number)
    )
