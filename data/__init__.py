"""Problems, prompts and cold-start responses: everything the trainer reads, and nothing of the trainer.

load_problems(DataConfig(source="gsm8k", split="train"))   -> [Problem, ...]
"""

from data.embedded import DemoConfig, make_problems
from data.errors import DataError
from data.problems import DataConfig, Problem, load_problems
from data.prompts import Prompt, PromptConfig, build_prompt, without_prefill

__all__ = [
    "DataConfig",
    "DataError",
    "DemoConfig",
    "Problem",
    "Prompt",
    "PromptConfig",
    "build_prompt",
    "load_problems",
    "make_problems",
    "without_prefill",
]
