"""Problems, prompts and cold-start responses: everything the trainer reads, and nothing of the trainer.

    problems = load_problems(DataConfig(source="gsm8k", split="train"))
    prompt = build_prompt(problems[0], tokenizer, PromptConfig())
    response = response_text(problems[0], ColdStartConfig())

    problem.py  problems.py  config.py     the record, and where it comes from
    prompts.py  chat.py  stream.py         what the model reads, and in which order
    sources/                               files, data sets known by name, the hub: rows, and their fields
    solutions/                             worked solutions as responses that SFT can teach
    embedded/                              a world of its own: stories, a tokenizer and a model, nothing to download
    download.py                            `make data`

Everything that the user can fix is a `DataError` of one line.
"""

from data.config import DataConfig
from data.embedded.stories import DemoConfig, make_problems
from data.errors import DataError
from data.problem import Problem
from data.problems import load_problems
from data.prompts import Prompt, PromptConfig, build_prompt, fitting, prompts_hash, without_prefill
from data.solutions.coldstart import ColdStartConfig, response_text

__all__ = [
    "ColdStartConfig",
    "DataConfig",
    "DataError",
    "DemoConfig",
    "Problem",
    "Prompt",
    "PromptConfig",
    "build_prompt",
    "fitting",
    "load_problems",
    "make_problems",
    "prompts_hash",
    "response_text",
    "without_prefill",
]
