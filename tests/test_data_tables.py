"""Data as people have them: the public data sets' columns, in .jsonl, .parquet and hub form."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from data import ColdStartConfig, DataConfig, DataError, load_problems, response_text
from data.sources.named import SOURCES
from rewards.answer import equivalent

MATH = {
    "problem": "What is 1/4 + 1/4?",
    "level": "Level 3",
    "type": "Algebra",
    "solution": r"It is $\boxed{\frac{1}{2}}$.",
}
TRACES = ["<think>cut off", "<think>\nfive?\n</think>\n$5$", "<think>\n2 + 2 = 4, a long one.\n</think>\n$4$",
          "<think>\n4.\n</think>\n$4$"]  # fmt: skip
OPENR1 = {"problem": "2 + 2?", "solution": "It is 4.", "answer": "4", "problem_type": "Algebra", "source": "olympiads",
          "uuid": "u", "generations": TRACES, "correctness_math_verify": [True, False, True, True],
          "is_reasoning_complete": [False, True, True, True], "problem_is_valid": "Yes"}  # fmt: skip
AIME = {"id": 60, "problem": "Find N.", "solution": r"So $\boxed{204}$", "answer": "204", "url": "u", "year": "2024"}
GPQA = {"Question": "Which is a prime?", "Correct Answer": "seven", "Incorrect Answer 1": "four",
        "Incorrect Answer 2": "six", "Incorrect Answer 3": "nine", "Subdomain": "Number theory",
        "Explanation": None}  # fmt: skip
ROWS = {"math_lighteval": MATH, "openr1_math": OPENR1, "aime24": AIME, "gpqa_diamond": GPQA}


def write(folder: Path, kind: str, rows: list[dict], name: str = "x") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Nothing is downloaded; what `datasets` keeps goes to a folder of the test."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


# --------------------------------------------------------------------------- each public set, in each form


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("known", [True, False], ids=["by name", "by path"])
def test_a_public_data_set_reads_alike_by_name_and_by_path(tmp_path, kind, name, known):
    path = write(tmp_path, kind, [ROWS[name], ROWS[name]], f"{name}_train")
    config = DataConfig(name, root=str(tmp_path)) if known else DataConfig(str(path))
    first, second = load_problems(config)
    assert first.id == f"{name if known else path.stem}/train/0" and second.id.endswith("/1")
    gold = {"math_lighteval": r"\frac{1}{2}", "openr1_math": "4", "aime24": "204"}.get(name, first.answer)
    assert first.answer == gold and first.question.startswith((ROWS[name].get("problem") or "Which is a prime?")[:10])
    if name == "math_lighteval":
        assert first.columns == {"level": "Level 3", "type": "Algebra"}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_folder_of_data_files_is_read_as_the_hub_is(tmp_path, hub, kind):
    write(tmp_path / "set", kind, [MATH, {**MATH, "level": "Level 5"}], "train")
    write(tmp_path / "set", kind, [MATH], "test")
    problems = load_problems(DataConfig(str(tmp_path / "set")))
    assert [p.columns["level"] for p in problems] == ["Level 3", "Level 5"] and problems[0].answer == r"\frac{1}{2}"
    assert len(load_problems(DataConfig(str(tmp_path / "set"), "test"))) == 1
    assert [p.columns["level"] for p in load_problems(DataConfig(str(tmp_path / "set"), start=1, count=5))] == [
        "Level 5"
    ]
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        load_problems(DataConfig(str(tmp_path / "set"), "validation"))
    assert "\n" not in str(caught.value)


def test_a_name_on_the_hub_reaches_datasets_as_it_is(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name, subset, *, split, revision):
        asked.append((name, subset, split, revision))
        return [GPQA] if subset else [MATH]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert load_problems(DataConfig("someone/maths", "dev", revision="v2", subset="s"))[0].answer in "ABCD"
    load_problems(DataConfig("gpqa_diamond", root="no"))
    load_problems(DataConfig("math_lighteval", "test", root="no"))
    assert asked == [
        ("someone/maths", "s", "dev", "v2"),
        ("Idavidrein/gpqa", "gpqa_diamond", "train", None),
        ("DigitalLearningGmbH/MATH-lighteval", None, "test", None),
    ]
    assert {source.hub for source in SOURCES.values() if source.hub} >= {name for name, *_ in asked[1:]}


def test_the_hub_that_cannot_be_reached_is_one_line(hub):
    with pytest.raises(DataError, match=r"data\.source=someone/nothing: cannot be loaded: ") as caught:
        load_problems(DataConfig("someone/nothing"))
    assert "\n" not in str(caught.value)


def test_a_missing_column_is_one_line_that_names_those_that_are_there(tmp_path):
    path = write(tmp_path, "parquet", [{"prompt": "q", "gold": 4, "level": 1}])
    with pytest.raises(
        DataError, match=r"x.parquet, row 0: the field 'answer' .* the row has 'prompt', 'gold', 'level'"
    ):
        load_problems(DataConfig(str(path)))
    assert load_problems(DataConfig(str(path), answer_field="gold"))[0].answer == "4"
    broken = {name: text for name, text in GPQA.items() if name != "Incorrect Answer 2"}
    with pytest.raises(DataError, match="'Incorrect Answer 2' is missing or empty; the row has 'Question', "):
        load_problems(DataConfig(str(write(tmp_path, "jsonl", [broken]))))


def test_a_damaged_table_is_one_line(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read: ") as caught:
        load_problems(DataConfig(str(tmp_path / "x.parquet")))
    assert "\n" not in str(caught.value)


def test_what_json_does_not_have_becomes_text(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import datetime

    row = {"question": "q", "answer": "4", "day": datetime.date(2024, 2, 1), "more": {"at": [datetime.time(7)]}}
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist([row]), tmp_path / "x.parquet")
    (problem,) = load_problems(DataConfig(str(tmp_path / "x.parquet")))
    assert problem.columns == {"day": "2024-02-01", "more": {"at": ["07:00:00"]}}


# --------------------------------------------------------------------------- multiple choice


def test_choices_are_shuffled_by_the_seed_and_the_letter_is_the_answer(tmp_path):
    path = write(tmp_path, "jsonl", [GPQA] * 200)
    problems = load_problems(DataConfig(str(path)), seed=3)
    for problem in problems:
        lines = problem.question.splitlines()
        assert lines[0] == "Which is a prime?" and f"{problem.answer}) seven" in lines and "letter" in lines[-1]
        assert sorted(line[3:] for line in lines[2:6]) == ["four", "nine", "seven", "six"]
        assert equivalent(problem.answer, problem.answer)
    letters = [problem.answer for problem in problems]
    assert all(30 <= letters.count(letter) <= 70 for letter in "ABCD")
    assert letters == [p.answer for p in load_problems(DataConfig(str(path)), seed=3)]
    assert letters != [p.answer for p in load_problems(DataConfig(str(path)), seed=4)]
    assert problems[0].columns["Subdomain"] == "Number theory" and problems[0].columns["Correct Answer"] == "seven"


# --------------------------------------------------------------------------- traces


@pytest.mark.parametrize(
    ("trace", "thought"),
    [("first", "five?"), ("correct", "2 + 2 = 4, a long one."), ("shortest", "4.")],
)
def test_the_trace_that_is_taught_is_a_setting(tmp_path, trace, thought):
    (problem,) = load_problems(DataConfig(str(write(tmp_path, "parquet", [OPENR1])), trace=trace))
    taught = response_text(problem, ColdStartConfig())
    assert taught == f"<think>\n{thought}\n</think>\n<answer>4</answer>"


def test_without_the_setting_the_solution_is_taught(tmp_path):
    (problem,) = load_problems(DataConfig(str(write(tmp_path, "jsonl", [OPENR1]))))
    assert problem.solution == "It is 4."


def test_a_row_without_a_right_trace_is_left_out_and_counted(tmp_path):
    wrong = {**OPENR1, "correctness_math_verify": [True, False, False, False]}  # the one that is right was cut off
    path = write(tmp_path, "jsonl", [wrong, OPENR1, wrong])
    with pytest.warns(UserWarning, match="2 rows have no trace for data.trace=correct: left out"):
        (problem,) = load_problems(DataConfig(str(path), trace="correct"))
    assert problem.id == "x/train/1"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_problems(DataConfig(str(path)))) == 3


def test_traces_that_are_not_there_are_named(tmp_path):
    with pytest.raises(
        DataError, match=r"data\.trace=correct: the field 'generations' is no list; the row has 'problem'"
    ):
        load_problems(DataConfig(str(write(tmp_path, "jsonl", [MATH])), trace="correct"))
    unmarked = {name: value for name, value in OPENR1.items() if name != "correctness_math_verify"}
    with pytest.raises(DataError, match="correctness_math_verify"):
        load_problems(DataConfig(str(write(tmp_path, "jsonl", [unmarked])), trace="shortest"))
    with pytest.raises(DataError, match=r"data\.trace: 'best' is none of first, correct, shortest, or empty"):
        DataConfig(trace="best")
