"""No story that is trained on is evaluated: in files that we cut ourselves, and in the sets that come cut.

The demo's stories are few templates: what it holds out is the arithmetic, see tests/test_data_embedded.py.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from data import DataConfig, DataError, load_problems
from data.sources.named import SOURCES
from data.sources.split import held_out, same_story, stories, story_words

ROOT = Path(__file__).parents[2] / "shared" / "data"
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru")
WORDS = [first + second for first in SYLLABLES for second in ("lark", "mint", "nest", "oak", "pine")]


def variations(count: int, seed: int = 0) -> list[dict]:
    """Rows as SVAMP has them: 60 stories, each told several times with other numbers, and with other questions."""
    rng = random.Random(seed)
    plots = [rng.sample(WORDS, 8) for _ in range(60)]
    rows = []
    for i in range(count):
        who, thing, place, *others = rng.choice(plots)
        body = f"{who} had {rng.randint(1, 99)} {thing} in a {place}. {' '.join(others)} took {rng.randint(1, 99)}."
        rows.append({"Body": body, "Question": f"How many {thing}, case {i}?", "Answer": 7, "Equation": "( 3 + 4 )"})
    return rows


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def number(problem) -> int:
    return int(problem.id.rpartition("/")[2])


def texts_of(source: str, problems: list, root: Path) -> list[str]:
    """The story of each problem, read from the file once more: SVAMP's is its body, without the question."""
    if source != "svamp":
        return [problem.question for problem in problems]
    lines = (root / "svamp_test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(lines[number(problem)])["Body"] for problem in problems]


def without_numbers(text: str) -> str:
    return " ".join(re.sub(r"\d+(?:[.,]\d+)*", "#", text.casefold()).split())


def leaks(train: list[str], test: list[str]) -> list[str]:
    """Held-out texts that are a training text up to its numbers."""
    known = set(map(without_numbers, train))
    return [text for text in test if without_numbers(text) in known]


# --------------------------------------------------------------------------- every source


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_no_held_out_problem_has_the_story_of_a_training_problem(source):
    files = [ROOT / name for name in SOURCES[source].files.values()]
    if not files or not all(file.exists() for file in files):
        pytest.skip(f"{source} is not there")
    train, test = (load_problems(DataConfig(source, split, str(ROOT))) for split in ("train", "test"))
    assert not {p.question for p in train} & {p.question for p in test}
    train, test = texts_of(source, train, ROOT), texts_of(source, test, ROOT)
    assert leaks(train, test) == []
    number_of = stories(train + test)
    shared = len([story for story in number_of[len(train) :] if story in set(number_of[: len(train)])])
    if SOURCES[source].held_out:
        assert shared == 0
    else:
        assert shared / len(test) < 0.01, "the official cut: GSM8K has 4 of 1319"


@pytest.mark.parametrize("stage", ["sft", "grpo", "reject", "final", "eval"])
def test_svamps_experiments_train_on_700_and_evaluate_on_300(stage):
    if not (ROOT / "svamp_test.jsonl").exists():
        pytest.skip("SVAMP is not there")
    from grpo.runs.settings import load_config

    path = EXPERIMENTS / "svamp" / f"{stage}.yaml"
    config = load_config(str(path), [f"data.root={ROOT}", f"eval.data.root={ROOT}"])
    assert (len(load_problems(config.data)), len(load_problems(config.eval.data))) == (700, 300)


# --------------------------------------------------------------------------- a file of one's own


def test_svamps_file_is_cut_by_body(tmp_path):
    rows = variations(400)
    write(tmp_path / "svamp_test.jsonl", rows)
    train, test, whole = (load_problems(DataConfig("svamp", s, str(tmp_path))) for s in ("train", "test", "all"))
    assert len(test) in range(100, 121) and len(train) + len(test) == len(whole) == 400
    assert {number(p) for p in train} | {number(p) for p in test} == set(range(400))
    assert leaks(texts_of("svamp", train, tmp_path), texts_of("svamp", test, tmp_path)) == []
    bodies = [row["Body"] for row in rows]
    assert len(leaks(bodies[:280], bodies[280:])) > 50, "cut by rows, as it used to be, it leaks"


def test_a_file_of_ones_own_is_cut_where_that_is_asked_for(tmp_path):
    rows = [{"question": row["Body"], "answer": 7} for row in variations(200)]
    path = str(write(tmp_path / "mine.jsonl", rows))
    train = load_problems(DataConfig(path, "train", held_out=0.25))
    test = load_problems(DataConfig(path, "test", held_out=0.25))
    assert leaks([p.question for p in train], [p.question for p in test]) == []
    assert len(train) + len(test) == 200 and len(test) in range(40, 51)
    assert load_problems(DataConfig(path, "test", held_out=0.25, start=3, count=5)) == test[3:8]
    assert len(load_problems(DataConfig(path, "test"))) == 200, "a path is not cut unasked"
    assert len(load_problems(DataConfig(path, "all", held_out=0.25))) == 200


def test_a_cut_that_cannot_be_made_says_so(tmp_path):
    path = str(write(tmp_path / "sums.jsonl", [{"question": f"{i} + {i}?", "answer": 2 * i} for i in range(9)]))
    with pytest.raises(DataError, match=r"no problem there \(.*data.split=test data.held_out=0.5: whole stories"):
        load_problems(DataConfig(path, "test", held_out=0.5))
    with pytest.raises(DataError, match=r"with data\.held_out it is train, test, all, not 'dev'"):
        load_problems(DataConfig(path, "dev", held_out=0.5))
    with pytest.raises(DataError, match="gsm8k has splits of its own, train, test"):
        load_problems(DataConfig("gsm8k", "test", held_out=0.5))
    with pytest.raises(DataError, match="the demo has splits of its own"):
        load_problems(DataConfig(count=3, held_out=0.5))
    with pytest.raises(DataError, match="is a share"):
        DataConfig(held_out=1.0)


# --------------------------------------------------------------------------- what is one story


def test_alike_texts_are_found_as_by_comparing_every_pair():
    rng = random.Random(1)
    letters = [chr(97 + i) * 2 for i in range(14)]
    texts = [" ".join(rng.sample(letters, rng.randint(1, 12))) for _ in range(300)]
    sets = [story_words(text) for text in texts]
    group = list(range(300))
    for i in range(300):  # the plain way: relabel whenever two are alike
        for j in range(i):
            if same_story(sets[i], sets[j]) and group[i] != group[j]:
                group = [group[j] if g == group[i] else g for g in group]
    found = stories(texts)
    assert len(set(found)) == len(set(group)) == len(set(zip(found, group, strict=True))) > 20


def test_numbers_case_and_a_word_or_two_make_no_other_story():
    first, *others = (
        "Mia has 12 red apples and gives five to Tom at the market",
        "Mia has 1,205 red apples and gives 7.5 to Tom at the market",
        "Mia has 3 RED apples and gives eleven to Tom, at the old market.",
    )
    assert all(same_story(story_words(first), story_words(other)) for other in others)
    assert not same_story(story_words(first), story_words("Leo sells 12 blue books to Eve at the market"))


def test_stories_are_held_out_whole_up_to_the_share():
    texts = [row["Body"] for row in variations(300)]
    for share in (0.1, 0.3, 0.5):
        out = held_out(texts, share)
        assert 0.9 * share <= sum(out) / 300 <= share
        assert out == held_out(texts, share)
        by_story = {}
        for story, is_out in zip(stories(texts), out, strict=True):
            assert by_story.setdefault(story, is_out) == is_out
