"""Files as people have them: .json, .csv and .tsv, compressed or not, and several in one run."""

from __future__ import annotations

import csv
import gzip
import json
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import DataConfig, DataError, load_problems

ROWS = [
    {"question": "What is 1 + 1?", "answer": "2", "level": "1"},
    {"question": 'He said:\n"2, 3 or 4?"', "answer": "1,234", "level": "2"},
    {"question": "\u221a9 = ?", "answer": "3", "level": "3"},
]


def write(path: Path, rows: list[dict], bom: bool = False) -> str:
    kind = Path(path.name.removesuffix(".gz")).suffix
    if kind == ".jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    elif kind == ".json":
        text = json.dumps(rows, indent=1)
    else:
        import io

        out = io.StringIO()
        table = csv.DictWriter(out, list(rows[0]), delimiter="\t" if kind == ".tsv" else ",")
        table.writeheader()
        table.writerows(rows)
        text = out.getvalue()
    content = (b"\xef\xbb\xbf" if bom else b"") + text.encode()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return str(path)


@pytest.mark.parametrize("bom", [False, True], ids=["", "bom"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "jsonl.gz", "json.gz", "csv.gz", "CSV"])
def test_every_kind_of_file_reads_alike(tmp_path, kind, bom):
    path = write(tmp_path / f"mine.{kind}", ROWS, bom) if kind != "CSV" else write(tmp_path / "mine.csv", ROWS, bom)
    problems = load_problems(DataConfig(path))
    assert [(p.question, p.answer, p.columns) for p in problems] == [
        (row["question"], row["answer"], {"level": row["level"]}) for row in ROWS
    ]
    assert [p.id for p in problems] == [f"mine/train/{i}" for i in range(3)]
    assert load_problems(DataConfig(path, start=1, count=1)) == problems[1:2]
    assert load_problems(DataConfig(path, where={"level": ">=2"})) == problems[1:]


def test_a_json_object_may_hold_the_rows(tmp_path):
    path = tmp_path / "x.json"
    for key in ("data", "train", "rows"):
        path.write_text(json.dumps({"version": "1.1", key: ROWS, "test": ROWS[:1]}))
        assert len(load_problems(DataConfig(str(path)))) == 3
    assert len(load_problems(DataConfig(str(path), "test"))) == 1


def test_lines_of_json_under_the_name_json(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "{")
    with pytest.raises(DataError, match=r"x\.json:4: not JSON"):
        load_problems(DataConfig(str(path)))
    assert len(load_problems(DataConfig(str(path), count=3))) == 3


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.json", b"", r"x\.json: not JSON: Expecting value at column 1"),
        ("x.json", b'[{"question": "q",\n "answer": 1},\n nonsense]', r"x\.json: not JSON: .* at line 3, column 2"),
        ("x.json", b'[{"question": "q", "answer": 1}, 5]', r"x\.json, row 1: not a JSON object"),
        ("x.json", b'[{"question": "q", "answer": 1}, {"question": "q"}]', r"x\.json, row 1: the field 'answer'"),
        ("x.json", b'[{"a": 1, "a": 2}]', r"x\.json: the field 'a' is given twice"),
        ("x.json", b'{"question": {"0": "q"}}', r"x\.json: is no list of objects, and has none under 'train'"),
        ("x.json", b"5", r"x\.json: is no list of objects"),
        ("x.csv", b"question,answer\nq,1\nq,1,2\n", r"x\.csv:3: the row has 3 cells, but the first line names 2"),
        ("x.csv", b'question,answer\n"a\nb",1\nq\n', r"x\.csv:4: the row has 1 cells"),
        ("x.csv", b"question,answer,answer\nq,1,2\n", r"x\.csv:1: the column 'answer' is given twice"),
        ("x.csv", b"question,answer\nq,1\n\xff,2\n", r"x\.csv:3: not UTF-8: byte 0xff"),
        ("x.csv", b'question,answer\n"q"x,1\n', r"x\.csv:2: "),
        ("x.csv", b'question,answer\n"q,1\n', r"x\.csv:2: unexpected end of data"),
        ("x.csv", b"question;answer\nq;1\n", r"x\.csv:2: the field 'question' is null .* 'question;answer'"),
        ("x.csv", b"question,answer\n", r"x\.csv: no problem there"),
        ("x.csv", b"", r"x\.csv: no problem there"),
        ("x.csv", b"question,answer\nq,\n", r"x\.csv:2: the answer is empty"),
        ("x.jsonl.gz", b'{"question": "q", "answer": 1}', r"x\.jsonl\.gz: cannot be read: Not a gzipped file"),
        ("x.jsonl.gz", gzip.compress(b"{}\n" * 999, mtime=0)[:-9], r"x\.jsonl\.gz"),
        ("x.jsonl.gz", gzip.compress(b'{"question": "q", "answer": 1}\n{', mtime=0), r"x\.jsonl\.gz:2: not JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_with_file_and_row(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        load_problems(DataConfig(str(tmp_path / name)))
    assert "\n" not in str(caught.value)


def test_bad_rows_of_every_kind_can_be_skipped(tmp_path):
    (tmp_path / "x.csv").write_text("question,answer\nq,1\nq\nq,3\n")
    (tmp_path / "x.json").write_text(json.dumps([ROWS[0], 5, ROWS[2]]))
    for name in ("x.csv", "x.json"):
        with pytest.warns(UserWarning, match="skipped 1 bad rows"):
            assert len(load_problems(DataConfig(str(tmp_path / name), skip_bad_rows=True))) == 2


def test_a_long_cell_is_read(tmp_path):
    path = write(tmp_path / "x.csv", [{"question": "q " * 200_000, "answer": "1"}])
    assert len(load_problems(DataConfig(path))[0].question) == 399_999


PIECES = [b"question,answer\n", b"q,1\n", b'"', b",", b"\n", b"\r", b"[", b"]", b'{"question": "q", "answer": "1"}',
          b"{", b'"rows":', b"\x00", b"\xff", b"1"]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=10).map(b"".join),
       st.sampled_from(["x.csv", "x.json", "x.tsv", "x.jsonl.gz"]), st.booleans())  # fmt: skip
def test_any_bytes_are_problems_or_one_line_errors(tmp_path_factory, content, name, zipped):
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") and zipped else content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert load_problems(DataConfig(str(path)))
        except DataError as error:
            assert len(str(error).splitlines()) == 1 and str(error).startswith(str(path))


# --------------------------------------------------------------------------- several sources


def test_several_sources_are_read_one_after_the_other(tmp_path):
    first, second = write(tmp_path / "a.jsonl", ROWS[:2]), write(tmp_path / "b.csv", ROWS)
    problems = load_problems(DataConfig([first, second]))
    assert [p.id for p in problems] == ["a/train/0", "a/train/1", "b/train/0", "b/train/1", "b/train/2"]
    assert problems[:2] == load_problems(DataConfig(first)) and problems[2:] == load_problems(DataConfig(second))
    assert load_problems(DataConfig([first, second], start=1, count=2)) == problems[1:3]
    assert DataConfig([first, second]).label == f"{first}+{second}/train"


def test_files_of_one_name_keep_their_problems_apart(tmp_path):
    paths = []
    for folder in "ab":
        (tmp_path / folder).mkdir()
        paths.append(write(tmp_path / folder / "train.jsonl", ROWS))
    ids = [problem.id for problem in load_problems(DataConfig(paths))]
    assert len(set(ids)) == 6 and all(id.startswith(f"{path}/train/") for id, path in zip(ids[::3], paths, strict=True))


def test_no_story_is_on_both_sides_of_a_cut_of_several_files(tmp_path):
    """A story in two files: cut file by file, it would be trained on in one and held out in the other."""
    words = ["apple", "boat", "cat", "dog", "egg", "fish", "goat", "hat", "ink", "jar", "kite", "lamp"]
    paths = []
    for number, name in enumerate("ab"):
        order = words if number else words[::-1]
        rows = [
            {"question": f"{word} {word}s {i}?", "answer": i} for i, word in enumerate(order) for _ in range(number + 1)
        ]
        paths.append(write(tmp_path / f"{name}.jsonl", rows))
    stories = {}
    for split in ("train", "test"):
        problems = load_problems(DataConfig(paths, split, held_out=0.4))
        assert {problem.id[0] for problem in problems} == {"a", "b"}
        stories[split] = {problem.question.split()[0] for problem in problems}
    assert stories["train"] and stories["test"] and not stories["train"] & stories["test"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ([], "data.source: name a data set or a file"),
        ("", "data.source: name a data set or a file"),
        (["demo", "a.jsonl"], "the demo's problems are made, and cannot stand in a list"),
        (["a.jsonl", "demo"], "the demo's problems are made, and cannot stand in a list"),
        (["{a}", "{a}"], "data.source: .*a.jsonl stands there twice"),
        (["{a}", "gsm8"], "unknown source 'gsm8'; did you mean 'gsm8k'"),
        (["{a}", "none.csv"], "none.csv: no such file"),
    ],
    ids=str,
)
def test_sources_that_cannot_be_read_together_are_named(tmp_path, source, reason):
    a = write(tmp_path / "a.jsonl", ROWS)
    source = [name.format(a=a) for name in source] if isinstance(source, list) else source
    with pytest.raises(DataError, match=reason):
        load_problems(DataConfig(source))


def test_a_path_in_the_home_folder(tmp_path, monkeypatch):
    write(tmp_path / "x.jsonl", ROWS)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_problems(DataConfig("~/x.jsonl"))) == 3


def test_one_split_alone_can_be_cut(tmp_path, monkeypatch):
    """AIME 2024 and OpenR1-Math have one split on the hub; a folder or another name there may have one as well."""
    words = ["apple", "boat", "cat", "dog", "egg", "fish", "goat", "hat", "ink", "jar"]
    rows = [{"problem": f"{word} {word}s?", "answer": i} for i, word in enumerate(words)]
    write(tmp_path / "aime24_train.jsonl", rows)
    parts = [load_problems(DataConfig("aime24", split, str(tmp_path), held_out=0.3)) for split in ("train", "test")]
    assert [len(part) for part in parts] == [7, 3]
    with pytest.raises(DataError, match=r"aime24 has no split 'test', only train; data.held_out=0.1 cuts it"):
        load_problems(DataConfig("aime24", "test", str(tmp_path)))
    datasets = pytest.importorskip("datasets")
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, split, **__: asked.append(split) or rows)
    parts = [load_problems(DataConfig("someone/maths", split, held_out=0.3)) for split in ("train", "test")]
    assert [len(part) for part in parts] == [7, 3] and asked == ["train", "train"]
