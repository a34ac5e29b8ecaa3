"""Keeps docs/glossary.md equal to the code: `PYTHONPATH=. python tests/readme.py` writes it again."""

from __future__ import annotations

from pathlib import Path

from grpo.report.glossary import EVALUATION, GROUPS, REJECTION

REPO = Path(__file__).parent.parent
GLOSSARY = REPO / "docs" / "glossary.md"
HEAD = """# Glossary

Every figure that a run writes down. A test holds this page equal to
[grpo/report/glossary.py](../grpo/report/glossary.py), and the report shows each line beside its chart.
Shares lie between 0 and 1, log-probs are in nats, lengths in tokens. Figures of the trainer describe one step.
"""


def glossary() -> str:
    """The page, from the same lines that the report shows."""
    lines = [HEAD.rstrip()]
    evaluation = {label.strip(): text for label, *_, text in EVALUATION}
    for title, names in {**GROUPS, "Evaluation": evaluation, "Rejection sampling": REJECTION}.items():
        lines += ["", f"## {title}", "", "| figure | meaning |", "|---|---|"]
        lines += [f"| `{name}` | {text.replace('|', chr(92) + '|')} |" for name, text in names.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    GLOSSARY.write_text(glossary(), encoding="utf-8")
