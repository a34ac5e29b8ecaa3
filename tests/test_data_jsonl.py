"""The JSON Lines reader: any bytes are rows or one-line errors, and nothing slips through silently."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import DataConfig, DataError, load_problems
from data.sources.files import read_file
from data.sources.jsonl import parse_row, read_lines

GOOD = b'{"question": "1 + 1?", "answer": "2"}'

# What is nearly a row: pieces of rows in any order find more than random bytes do.
PIECES = [
    GOOD,
    b"\n",
    b"\r\n",
    b"\r",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"{",
    b"}",
    b"[",
    b'"',
    b'"answer":',
    b",",
    b"1e999",
]
PIECES += [
    b"NaN",
    b"null",
    b'"\\ud800"',
    b"\\u2028",
    "\u2028".encode(),
    b"\x00",
    b"9" * 5000,
    b" ",
    b"-0.0",
    b"####",
]
ROW_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ROWS = st.dictionaries(st.sampled_from(["question", "answer", "solution", "level", "prompts"]), ROW_VALUES)
FILES = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=12).map(b"".join),
    st.lists(ROWS.map(json.dumps).map(str.encode), max_size=4).map(b"\n".join),
)


@given(FILES)
def test_any_bytes_are_problems_or_one_line_errors(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "x.jsonl"
    path.write_bytes(content)
    try:
        problems = load_problems(DataConfig(source=str(path)))
    except DataError as error:
        assert len(str(error).splitlines()) == 1, "an error is one line"
        assert str(error).startswith(str(path)) and len(str(error)) < len(str(path)) + 600
        return
    assert problems
    for problem in problems:
        problem.question.encode(), problem.answer.encode(), json.dumps(problem.columns).encode()
        assert problem.question.strip() == problem.question != ""
        assert problem.answer.strip() == problem.answer != ""
        assert not {"prompts", "completions", "question", "answer", "solution"} & set(problem.columns)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), ROW_VALUES.filter(lambda v: v == v)))
def test_a_row_is_what_json_says(row):
    try:
        text = json.dumps(row, allow_nan=False)
        text.encode().decode(), json.dumps(row, ensure_ascii=False).encode()
    except ValueError:
        return
    assert parse_row(text.encode()) == row


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\xff", "not UTF-8: byte 0xff at column 1"),
        (GOOD.decode().encode("utf-16"), "not UTF-8"),
        (b"{", "not JSON"),
        (GOOD + GOOD, "not JSON: Extra data at column 38"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"answer": 1, "answer": 2}', "the field 'answer' is given twice"),
        (b'{"x": {"a\\n": 1, "a\\n": 1}}', "the field 'a\\n' is given twice"),
        (b'{"answer": NaN}', "NaN is no number"),
        (b'{"answer": -Infinity}', "-Infinity is no number"),
        (b'{"answer": 1e999}', "too large"),
        (b'{"answer": ' + b"9" * (sys.get_int_max_str_digits() + 1) + b"}", "cannot be read"),
        (b'{"answer": "\\ud83d"}', "half a surrogate pair"),
        (b"[" * 200_000, "cannot be read"),
    ],
)
def test_what_is_refused(line, reason):
    with pytest.raises(DataError) as caught:
        parse_row(line)
    assert reason in str(caught.value)


def test_a_whole_surrogate_pair_is_text():
    assert parse_row(b'{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_lines_are_numbered_as_an_editor_does(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\r\n\n{1}\r\n   \n{2}\xe2\x80\xa8{2}\n{3}")
    with open(path, "rb") as file:
        everything = list(read_lines(file))
    assert everything == [(0, 3, b"{1}\r\n"), (1, 5, b"{2}\xe2\x80\xa8{2}\n"), (2, 6, b"{3}")]
    places = [(row, f"{path}:{line}") for row, line, _ in everything]
    assert [found[:2] for found in read_file(path, "train")] == places
    assert [found[:2] for found in read_file(path, "train", start=1)] == places[1:]
    assert [found[:2] for found in read_file(path, "train", start=1, count=1)] == places[1:2]
    assert list(read_file(path, "train", start=7, count=1)) == []


def test_a_byte_order_mark_before_a_row(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\r\n")
    assert load_problems(DataConfig(source=str(path)))[0].answer == "2"
    path.write_bytes(GOOD + b"\n\xef\xbb\xbf" + GOOD)  # anywhere else it is junk
    with pytest.raises(DataError, match=r"x\.jsonl:2: not JSON"):
        load_problems(DataConfig(source=str(path)))


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        list(read_file(tmp_path, "train"))
