"""Keeps README.md true: `python tests/readme.py` rewrites its line links and glossary from the code."""

from __future__ import annotations

import re
from pathlib import Path

from grpo.report.glossary import EVALUATION, GROUPS, REJECTION

REPO = Path(__file__).parent.parent
LINK = re.compile(r"\[`(\w+)`\]\(([\w/]+\.py)#L(\d+)\)")
GLOSSARY = re.compile(r"(## Glossary\n).*?(?=\n## )", re.DOTALL)


def mended(text: str) -> str:
    """The README with every `[`name`](file.py#L1)` at the line that defines the name, and the code's glossary."""
    return GLOSSARY.sub(lambda m: m[1] + glossary(), LINK.sub(_relinked, text))


def _relinked(match: re.Match[str]) -> str:
    name, file = match[1], match[2]
    definition = re.compile(rf"\s*(def|class) {name}\b")
    lines = (REPO / file).read_text(encoding="utf-8").splitlines()
    numbers = [n for n, line in enumerate(lines, 1) if definition.match(line)]
    if len(numbers) != 1:
        raise ValueError(f"{file} defines {name} {len(numbers)} times")
    return f"[`{name}`]({file}#L{numbers[0]})"


def glossary() -> str:
    """Every figure that a run writes down, from `grpo/glossary.py`."""
    lines = []
    for title, names in {**GROUPS, "Evaluation": EVALUATION, "Rejection sampling": REJECTION}.items():
        lines += ["", f"**{title}**", "", "| figure | meaning |", "|---|---|"]
        lines += [f"| `{name}` | {text.replace('|', chr(92) + '|')} |" for name, text in names.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    readme = REPO / "README.md"
    readme.write_text(mended(readme.read_text(encoding="utf-8")), encoding="utf-8")
