"""Which rows are taken: by a column, and not those whose answer can never be matched."""

from __future__ import annotations

import json
import warnings

import pytest

from data import DataConfig, DataError, load_problems
from data.sources.text import ungradable
from grpo.runs.settings import ConfigError, load_config

ROWS = [
    {"question": "0?", "answer": "0", "level": 5, "subject": "Algebra", "tags": ["a", "b"]},
    {"question": "1?", "answer": "1", "level": "5", "subject": "Geometry", "tags": []},
    {"question": "2?", "answer": "2", "level": 4.0, "subject": " Algebra ", "tags": None},
    {"question": "3?", "answer": "3", "level": 3, "subject": None, "checked": True},
]


def write(folder, rows, name="x.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def taken(path, **config) -> list[int]:
    return [int(problem.id.rpartition("/")[2]) for problem in load_problems(DataConfig(path, **config))]


# --------------------------------------------------------------------------- by a column


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ({}, [0, 1, 2, 3]),
        ({"level": 5}, [0, 1]),
        ({"level": "5"}, [0, 1]),
        ({"level": 5.0}, [0, 1]),
        ({"level": [3, 4]}, [2, 3]),
        ({"level": ">=4"}, [0, 1, 2]),
        ({"level": "> 4"}, [0, 1]),
        ({"level": "<4.5"}, [2, 3]),
        ({"level": "<=3"}, [3]),
        ({"subject": "Algebra"}, [0, 2]),
        ({"subject": ["Algebra", "Geometry"]}, [0, 1, 2]),
        ({"subject": "!=Algebra"}, [1, 3]),
        ({"subject": None}, [3]),
        ({"tags": "b"}, [0]),
        ({"tags": None}, [1, 2, 3]),
        ({"checked": True}, [3]),
        ({"checked": "true"}, [3]),
        ({"level": 5, "subject": "Algebra"}, [0]),
        ({"answer": [1, 3]}, [1, 3]),
    ],
    ids=str,
)
def test_rows_are_selected_by_their_columns(tmp_path, where, rows):
    assert taken(write(tmp_path, ROWS), where=where) == rows


def test_the_slice_is_of_the_rows_that_are_asked_for(tmp_path):
    path = write(tmp_path, ROWS * 3)
    assert taken(path, where={"level": 5}, count=3) == [0, 1, 4]
    assert taken(path, where={"level": 5}, start=2, count=3) == [4, 5, 8]


def test_a_row_that_is_not_asked_for_need_not_be_right(tmp_path):
    path = write(tmp_path, [*ROWS, {"question": "?", "level": 1}])
    assert taken(path, where={"level": 5}) == [0, 1]
    with pytest.raises(DataError, match=r"x\.jsonl:5: the field 'answer'"):
        taken(path, where={"level": 1})


def test_the_cut_by_story_is_the_same_whatever_is_asked_for(tmp_path):
    """Else a story that one level is trained on might be held out for another."""
    names = ["apple", "boat", "cat", "dog", "egg", "fish", "goat", "hat", "ink", "jar"]
    rows = [
        {"question": f"{n} {n}s {m}{n} {i}?", "answer": i, "level": i % 3} for i, n in enumerate(names) for m in "xy"
    ]
    path = write(tmp_path, rows)
    whole = set(taken(path, split="test", held_out=0.4))
    parts = [taken(path, split="test", held_out=0.4, where={"level": level}) for level in range(3)]
    assert set().union(*parts) == whole and sum(map(len, parts)) == len(whole) > 0


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ({"level": 6}, r"x\.jsonl: no row is as data.where asks: level is '5', '4', '3'"),
        ({"levl": 5}, r"no row has the column 'levl'; did you mean 'level'\?"),
        ({"kind": 5}, r"no row has the column 'kind'; there are question, answer, level"),
        (
            {"subject": ">4"},
            r"x\.jsonl:1: the column 'subject' is 'Algebra', no number to compare: data.where.subject=>4",
        ),
    ],
    ids=str,
)
def test_where_nothing_is_selected_the_columns_are_named(tmp_path, where, reason):
    with pytest.raises(DataError, match=reason) as caught:
        taken(write(tmp_path, ROWS), where=where)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wanted", [">x", ">=", {"a": 1}, [[1]], [">4"], "<__import__('os')"], ids=str)
def test_what_is_no_condition_is_refused(wanted):
    with pytest.raises(DataError, match=r"data\.where\.level: ") as caught:
        DataConfig("x.jsonl", where={"level": wanted})
    assert "\n" not in str(caught.value)


def test_the_command_line_and_yaml_select_alike(tmp_path):
    path = write(tmp_path, ROWS)
    for settings in (["data.where.level=[4,5]", "data.where.subject=Algebra"],
                     ["data.where={level: [4, 5], subject: Algebra}"]):  # fmt: skip
        config = load_config(None, [f"data.source={path}", *settings])
        assert [problem.answer for problem in load_problems(config.data)] == ["0", "2"]
    with pytest.raises(ConfigError, match=r"data\.where\.level: '>x' must compare with a number"):
        load_config(None, ["data.where.level='>x'"])


def test_the_demo_makes_its_problems_and_says_so():
    with pytest.raises(DataError, match=r"data\.where: .* see data\.demo\.levels"):
        load_problems(DataConfig(count=3, where={"level": "Level 5"}))


# --------------------------------------------------------------------------- answers that can never be matched


@pytest.mark.parametrize(
    "gold",
    [
        "proof", "Proof.", "(proof)", "**Proof**", r"\text{proof}", r"$\text{Proof}$", "proof omitted", "proved",
        "Q.E.D.", "the proof is complete", "notfound", "not found", "Not_Found", "not provided", "answer not found",
        "the answer not given", "no answer provided", "see solution", "See the solution above.",
        "see proof", "see figure 3", "refer to the diagram", "nan", "NaN", "null", "<NA>", "N/A", "tbd", "?", "...",
        "\u2026", "--", "['4']", "[]", r"\boxed{}", r"$\boxed{ }$", "$$", "![](https://x.org/a.png)", "<image>",
    ],
)  # fmt: skip
def test_what_says_that_there_is_no_answer_is_found(gold):
    assert ungradable(gold)


@pytest.mark.parametrize(
    "gold",
    [
        "4", "Na", "NA", "none", "None of the above", "no", "no solution", "no real solutions", "unknown", "undefined",
        "does not exist", r"\text{no solution}", "-", "+", "<", "{}", r"\{\}", r"\emptyset", "()", "[1, 2]", "(0, 1)",
        r"\boxed{4}", r"\text{Monday}", "true", "not a function", "proof by induction", "80 proof", "seen", "see saw",
        "not found in nature", "waterproof", "...5", "f(?)", "$", "Nancy", "null set",
    ],
)  # fmt: skip
def test_answers_that_look_alike_stay(gold):
    assert not ungradable(gold)


def test_it_is_fast_on_long_golds():
    assert not ungradable("see " * 100_000) and not ungradable("(" * 100_000) and not ungradable("? " * 100_000)


def test_rows_that_cannot_be_graded_are_left_out_and_named(tmp_path):
    rows = [
        {"question": f"{i}?", "answer": gold} for i, gold in enumerate(["4", "proof", "5", "NotFound", r"\boxed{}"])
    ]
    path = write(tmp_path, rows)
    warning = r"3 of 5 answers can never be matched \(.*x.jsonl:2 'proof', .*x.jsonl:4 'NotFound', .*:5 .*\): left out"
    with pytest.warns(UserWarning, match=warning) as caught:
        assert taken(path) == [0, 2]
    assert len(caught) == 1 and "data.keep_ungradable=true keeps them" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert taken(path, keep_ungradable=True) == [0, 1, 2, 3, 4]


def test_of_many_only_the_first_are_named(tmp_path):
    path = write(tmp_path, [{"question": f"{i}?", "answer": "nan" if i else "1"} for i in range(40)])
    with pytest.warns(UserWarning, match=r"39 of 40 .*x.jsonl:6 'nan', \.\.\.\): left out") as caught:
        assert taken(path) == [0]
    assert "jsonl:7" not in str(caught[0].message)


def test_a_column_without_any_answer_is_an_error(tmp_path):
    path = write(tmp_path, [{"question": f"{i}?", "answer": "see solution"} for i in range(3)])
    with pytest.raises(DataError, match=r"3 of 3 answers can never .*x.jsonl:1 'see solution'.*data\.answer_field"):
        taken(path)


def test_sft_needs_an_answer_only_where_it_writes_one(tmp_path):
    talk = [{"role": "user", "content": "Prove it."}, {"role": "assistant", "content": "<think>so</think> Done."}]
    rows = [{"messages": talk, "answer": "proof"}, {"question": "1?", "solution": "It is so.", "answer": "proof"}]
    with pytest.warns(UserWarning, match=r"1 of 2 answers can never be matched \(.*:2 'proof'\)"):
        (problem,) = load_problems(DataConfig(write(tmp_path, rows)), teach=True)
    assert problem.response == "<think>so</think> Done."
