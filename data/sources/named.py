"""The data sets known by name: their files or their name on the Hugging Face hub, and the fields of a problem.

MATH-lighteval      problem, level, type, solution: the answer is boxed in the solution
OpenR1-Math-220k    problem, solution, answer, generations, correctness_math_verify: with traces of DeepSeek-R1
AIME 2024           problem, solution, answer
GPQA-diamond        Question, Correct Answer, Incorrect Answer 1, 2, 3: a multiple choice
"""

from __future__ import annotations

from dataclasses import dataclass, field

Fields = str | list[str]


@dataclass(frozen=True)
class Source:
    """A known data set: its file per split, or its name on the hub, and the fields that make up a problem."""

    files: dict[str, str] = field(default_factory=dict)
    hub: str = ""
    """Its name on the hub, asked when `data.root` has no `NAME_SPLIT.parquet` or `NAME_SPLIT.jsonl`."""
    subset: str = ""
    """Which of a hub data set's configurations."""
    splits: tuple[str, ...] = ()
    """The splits of a hub data set."""
    question: Fields = "question"
    answer: Fields = "answer"
    solution: Fields = "solution"
    marked: bool = False
    """Whether every answer must end in a line `#### N`."""
    held_out: float = 0.0
    """Share of a single file that is held out for the split `test`, by story (`split.py`); 0: it is not cut."""
    advice: str = "put it there, or name its folder with data.root=DIR"
    """What to do when a file is missing."""


CUT_SPLITS = ("train", "test", "all")
"""The splits of a single file that is cut by story."""

SOURCES = {
    "gsm8k": Source(
        files={"train": "gsm8k_train.jsonl", "test": "gsm8k_test.jsonl"},
        marked=True,
        advice="`make data` downloads it, data.root=DIR names another folder",
    ),
    "math": Source(
        files={"train": "math_train.jsonl", "test": "math500_test.jsonl"},
        question="problem",
        advice="`python -m data.download math` fetches it, data.root=DIR names another folder",
    ),
    "svamp": Source(
        files=dict.fromkeys(CUT_SPLITS, "svamp_test.jsonl"),
        question=["Body", "Question"],
        answer="Answer",
        solution="Equation",
        held_out=0.3,
    ),
    "math_lighteval": Source(hub="DigitalLearningGmbH/MATH-lighteval", splits=("train", "test"), question="problem"),
    "openr1_math": Source(hub="open-r1/OpenR1-Math-220k", splits=("train",), question="problem"),
    "aime24": Source(hub="HuggingFaceH4/aime_2024", splits=("train",), question="problem"),
    "gpqa_diamond": Source(hub="Idavidrein/gpqa", subset="gpqa_diamond", splits=("train",)),
}
"""`demo` is made, not read; anything else is a path, or a name on the hub."""

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
SUFFIXES = (*KINDS, *(f"{kind}.gz" for kind in KINDS[:-1]))
"""How the names of files end that are read."""


def is_file_name(name: str) -> bool:
    """Whether the name ends as that of a file that is read."""
    return name.lower().endswith(SUFFIXES)


PLAIN = Source(question="")
"""A file of one's own, or a data set on the hub that has no name here."""

CONVERSATIONS = ("messages", "conversations")
"""Fields of whole conversations, with the reply: OpenR1's, and ShareGPT's."""
PLAIN_QUESTIONS = ("question", "problem", "prompt", *CONVERSATIONS)
"""Where such a one has its question: the first of these fields that is there."""
