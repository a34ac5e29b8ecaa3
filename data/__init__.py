"""Problems, prompts and cold-start responses: everything the trainer reads, and nothing of the trainer.

    problems = load_problems(DataConfig(source="gsm8k", split="train"))
    prompt = build_prompt(problems[0], tokenizer, PromptConfig())
    response = response_text(problems[0], ColdStartConfig())

Everything that the user can mend is a `DataError` of one line.
"""

from data.coldstart import ColdStartConfig, response_text
from data.embedded import DemoConfig, make_problems
from data.errors import DataError
from data.problem import Problem
from data.problems import DataConfig, load_problems
from data.prompts import Prompt, PromptConfig, build_prompt, fitting, prompts_hash, without_prefill

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
