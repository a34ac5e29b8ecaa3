"""The grader's public face: find the answer in a completion, and compare it with the gold. See `rewards.grader`."""

from rewards.grader.answer import equivalent
from rewards.grader.extract import extract_answer, last_boxed
from rewards.grader.settings import GradingConfig

__all__ = ["GradingConfig", "equivalent", "extract_answer", "last_boxed"]
