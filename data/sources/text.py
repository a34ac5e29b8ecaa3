"""Reading the texts of the data sets: where the gold answer stands, and what in them is markup."""

from __future__ import annotations

import re
from decimal import Decimal

from data.errors import DataError

ANNOTATION = re.compile(r"<<([^<>\n]*)>>")
"""GSM8K's calculator annotation, `<<48/2=24>>`."""

_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")


def strip_annotations(solution: str) -> str:
    """A solution without its calculator annotations: "48/2 = <<48/2=24>>24" reads "48/2 = 24"."""
    return ANNOTATION.sub("", solution)


def has_final_line(text: str) -> bool:
    """Whether the last line is GSM8K's `#### gold`."""
    return text.strip().rpartition("\n")[2].startswith("####")


def split_final_answer(text: str) -> tuple[str, str]:
    """GSM8K's answer text as (worked solution, gold); ("", text) if its last line is not `#### gold`.

    The gold loses its thousands separators: "1,234" is "1234".
    """
    if not has_final_line(text):
        return "", text.strip()
    solution, _, last = text.strip().rpartition("\n")
    gold = last.removeprefix("####").strip()
    return solution.strip(), gold.replace(",", "") if _THOUSANDS.fullmatch(gold) else gold


def last_boxed(solution: str, lenient: bool = False) -> str:
    r"""What the last `\boxed{...}` (or `\boxed 5`) of a LaTeX text holds; "" if there is none. One pass.

    Raises:
        DataError: its brace is never closed, unless `lenient`.
    """
    _, found, tail = solution.rpartition("\\boxed")
    tail = tail.lstrip()
    if not found or not tail.startswith("{"):
        return re.split(r"[$\n]", tail, maxsplit=1)[0].strip() if found else ""
    depth, escaped = 0, False
    for index, char in enumerate(tail):
        if escaped or char == "\\":  # \{ and \} are braces to print, not to count
            escaped = not escaped
            continue
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return tail[1:index].strip()
    if lenient:
        return ""
    raise DataError("the last \\boxed{ of the solution is never closed")


_SEE = "solution|answer|proof|explanation|above|below|figure|graph|diagram|image|picture|attach|text|working"
_UNGRADABLE = re.compile(
    rf"""
    nan | null | <na> | n/a | tbd | \?+ | \.{{3,}} | …+ | [_-]{{2,}}
    | (the\ )? proof ( \ (is\ )? (complete|omitted|required|needed|given|above|below|shown|follows) )?
    | proven | proved | q\.?e\.?d | ( see | refer\ to | as\ in ) (\ the | \ our)? \ ({_SEE}) .*
    | ((the|an?)\ )? (answer|solution)? \ ? not[ _]?(found|provided|available|given|applicable|specified|gradable)
    | no[ _]?(answer|solution)[ _]?(found|provided|available|given)
    | !\[.*\]\(.* | <image>
    """,
    re.VERBOSE,
)


def ungradable(answer: str) -> bool:
    r"""Whether no completion can match a gold: it says that there is none, or is broken.

    `proof`, `notfound`, `\text{not provided}`, "see solution", `nan`, `null`, `?`, an image, a list in a string
    (`['4']`), an empty `\boxed{}`. `none`, `unknown`, `undefined` and `no solution` are answers.
    """
    bare = " ".join(answer[:200].casefold().split())
    if re.fullmatch(r"\[\s*(['\"].*['\"])?\s*\]", bare):
        return True
    bare = re.sub(r"\\(?:boxed|fbox|text|textbf|mathrm|mbox)\b|\\\s|[${}]", " ", bare)
    if not bare.strip():
        return answer.strip() not in ("{}", "$")  # the empty set, a currency
    bare = " ".join(bare.strip(" ()[]*\"'").split())
    return bool(_UNGRADABLE.fullmatch(bare.rstrip(".!") or bare))


def number_text(value: int | float) -> str:
    """A JSON number as people write it: 145.0 is "145", 1e-07 is "0.0000001"."""
    text = format(Decimal(repr(value or 0)), "f")  # -0.0 is 0
    return text.rstrip("0").rstrip(".") if "." in text else text
