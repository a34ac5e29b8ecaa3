# ruff: noqa: RUF001
"""What an answer in words says: a short list of ways to state an answer.

A sentence is read for what it is recognised to say, never for the only number in it: "Nobody got 42." says nothing.
"""

from __future__ import annotations

import re

from rewards.grader.units import NO_UNIT, PLAIN, SCALES, counted
from rewards.grader.values import Unreadable

PHRASE = re.compile(
    r"(?:\b(?:(?:the |my |our )?(?:final |correct )?answer(?: is| ?[:=]|\**\n\s*))|答案(?:是|为|:)|答:)[ :]*",
    re.IGNORECASE,
)
HEDGE = re.compile(
    r"\b(?:not|never|cannot|isn't|aren't|wasn't|can't|don't|doesn't|won't|wrong|incorrect|either|or|maybe|perhaps"
    r"|possibly|might|could|(?-i:may)|unsure|rule out|ruled out|instead|unlikely|wait|hmm|actually|sorry|rather"
    r"|correction|mistake|oops|false|doubt|alternatively|opposite)\b|不",
    re.IGNORECASE,
)
ALSO_CHANGING = frozenset(["inverse", "thrice", "fewer", "greater", "square", "cube", "power"])
_LEAD = (
    r"(?:(?:so|thus|hence|therefore|then|finally|now|and|altogether|overall|consequently|clearly|exactly|since then"
    r"|a total of|in (?:total|all|the end|conclusion|summary|fact)|as a result|after (?:that|all)|it follows that"
    r"|所以|因此|故|(?:we|i) (?:get|find|have|see|conclude|know) that|(?:this|which) means(?: that)?)[,:]? *)"
)
_VERB = (
    r"(?:is|are|was|were|equals?|is equal to|will (?:be|have|take|cost|need|get|make|earn|pay)"
    r"|has|have|had|needs?|takes?|took|costs?|makes?|made"
    r"|gives?|gave|gets?|got|finds?|found|obtains?|sells?|sold|buys?|bought|spends?|spent|earns?|earned|pays?|paid"
    r"|eats?|ate|saves?|saved|travel(?:s|ed)?|drives?|drove|walk(?:s|ed)?|runs?|ran|reads?|uses?|used|collect(?:s|ed)?"
    r"|weighs?|scored|contains?|holds?|receives?|received|works?|worked|comes to|amounts to|ends up with|was left with)"
)
_WORD = r"[A-Za-z][A-Za-z'-]*"
_SUBJECT = (
    r"(?:it|he|she|they|we|i|you|there|this|that|[b-z]"
    rf"|(?:the|his|her|their|its|our|your|my|each|every|this|these|those|all|both|an?)(?: {_WORD}){{1,12}}?"
    rf"|(?-i:[A-Z][a-z]+)(?:'s(?: {_WORD}){{1,8}}?| and (?-i:[A-Z][a-z]+))?)"
)
_LABEL = (
    r"(?:the )?(?:final |total )?(?:answer|total|result|solution|value|area|perimeter|volume|cost|price|sum|product"
    r"|average|mean|probability|profit|distance|time|speed|age|number|amount|length|width|height|conclusion) ?[:=]"
)
_NO_NAME = (
    "no not nobody none neither nor never nothing only few some any many most almost nearly about roughly half maybe"
    " perhaps if when what who how why over under until unless although but however suppose assume say everyone"
)
_QUANTITIES = frozenset(["remainder", "least", "multiple", "divisor", "factor", "score", "loss", "debt"])
"""What changes a number beside it, but not as what a sentence is about: the least common multiple is 42."""
_OBJECT = r"(?:(?:him|her|them|us|me|you|exactly|now|a total of|equal to) )*"
_STATEMENT = re.compile(
    rf"(?P<before>(?P<lead>{_LEAD}*)(?:(?P<subject>{_SUBJECT}) {_VERB} {_OBJECT}|{_LABEL} ?)?)"
    r"(?P<value>[0-9]+/[0-9]+|-?(?:\\?\$)?[0-9][0-9,]*(?:\.[0-9]+)?%?|\([-0-9., /]+\)|\$[^$]+\$|\\\([^()]+\\\))"
    rf"(?P<after>(?:,? {_WORD})*)[.!]?",
    re.IGNORECASE,
)
_VERDICT = re.compile(r"(yes|no|true|false)(?:\s*[.,;:!\u2014\u2013]|\s+-|\s+(?:because|since|as)\b)(.*)", re.I | re.S)
_REVERSED = re.compile(
    r"\b(?:yes|true|false|but|however|wait|actually|sorry|hmm|maybe|perhaps|possibly|might|unsure|correction|mistake|oops"
    r"|or|instead|rather|although|opposite|second thought)\b|(?:^|[.;!?])\s*no\b",
    re.IGNORECASE,
)
_SAID = re.compile(
    r"(?:the|this|that|it)(?: (?:statement|claim|assertion|proposition|sentence|answer))? is (true|false)"
    rf"|{_LEAD}*(?:the )?(?:correct )?(?:option|choice) is \(?([A-J])\)?"
    rf"|{_LEAD}*(?:there (?:is|are|exists?)|it has|we have|the (?:equation|system|inequality|problem) has)"
    r" (no (?:(?:real|integer|positive) )?solution)s?",
    re.IGNORECASE,
)
_DOMAINS = {"z": "integer", "r": "real", "n": "natural", "q": "rational", "c": "complex"}
_CLAUSE = re.compile(
    r"(?P<kept>.*?[^\s,;(])(?:\s*[,;(]?\s*(?:\b(?:for|where|with)\b|\\forall)"
    r"|\s*(?:[,;(]|\\q?quad)\s*(?=[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*(?:\\in\b|∈)))"
    r"\s*(?:all|any|every|each|some|\\forall)?\s*(?P<kind>real|integers?|positive integers?|natural)?\s*(?:numbers?)?"
    r"\s*(?:values? of )?(?:\\?[a-zA-Z](?:\s*(?:,|and)\s*\\?[a-zA-Z])*(?![a-zA-Z]))?\s*"
    r"(?:(?:\\in\b|∈)\s*(?:\\mathbb\s*)?\{?\s*(?P<set>[ZRNQCℝ])\s*\}?|(?:is|are|being) (?:an? |any )?(?:arbitrary )?"
    r"(?P<what>(?:real|positive integer|integer|natural|complex)s?|constants?)(?: numbers?| constants?)?)?\s*[).]*"
)
_CLAUSE_TEXT = re.compile(
    r"\\(?:text|mbox|mathrm)\s*\{((?:[^{}]*\b)?(?:for|where|with|all|is|are|any|real|integer)\b[^{}]*)\}"
)


def said(text: str, sentences: bool = True) -> str:
    """What follows the only "the answer is", or what a sentence states; a text that is neither as it is.

    Raises Unreadable if it states several answers, or hedges, or is a sentence where `sentences` are off.
    """
    before, phrase, answer = split_phrase(text)
    reason = ""
    if verdict := _verdict(answer):
        return verdict
    if before or phrase or answer[:1].isdigit():
        answer, reason = [*re.split(r",? *\b(?:because|since)\b", answer, maxsplit=1), ""][:2]
    if HEDGE.search(before) or HEDGE.search(reason) or PHRASE.search(before) or not leads(before):
        raise Unreadable("a hedged answer")
    if not sentences and text != answer:
        raise Unreadable("a sentence")
    return answer if before or not sentences else _stated(answer) or answer


def split_phrase(text: str) -> tuple[str, str, str]:
    """A text around its last "the answer is": what stands before, the phrase, and what follows."""
    phrases = list(PHRASE.finditer(text))
    if not phrases:
        return "", "", text
    return text[: phrases[-1].start()], phrases[-1].group(), text[phrases[-1].end() :]


def leads(before: str) -> bool:
    """Whether "the answer is" may follow this: a sentence that is over, or "so"."""
    before = before.rstrip(" *_#")
    return not before.strip() or bool(re.search(rf"(?:[.!?:;,\n)$\u3002]|\b{_LEAD})\s*$", before, re.IGNORECASE))


def qualified(text: str) -> tuple[str, str]:
    """A text without the clause at its end that says what a letter may be, and what: `n = 3k, k ∈ Z`, "integer"."""
    plain = _CLAUSE_TEXT.sub(r" \1 ", text)
    if plain == text and not re.search(r"\b(?:for|where|with)\b|\\forall|\\in\b|∈", text):
        return text, ""
    found = _CLAUSE.fullmatch(plain.strip())
    if not found or not re.search(r"[a-zA-Z]", found["kept"]) or re.search(r"\\in\b|∈|\|", found["kept"]):
        return text, ""
    domain = found["kind"] or found["what"] or _DOMAINS.get((found["set"] or "").replace("ℝ", "R").lower(), "")
    return found["kept"], domain.removesuffix("s").replace("constant", "")


# ---------------------------------------------------------------------------------------------------


def _verdict(text: str) -> str:
    """Yes, no, true, false or no solution, as a sentence says it, with a reason or without; else ""."""
    text = text.strip().removesuffix(".")
    if found := _VERDICT.fullmatch(text):
        return "" if _REVERSED.search(found[2]) else found[1]
    found = _SAID.fullmatch(text)
    return found[found.lastindex or 0] if found else ""


def _stated(text: str) -> str:
    """The number that a sentence states, with what it counts; "" for other sentences."""
    if given := re.fullmatch(r"(.*) is (?:the|my|our) (?:final |correct )?answer\.?", text):
        return given[1]
    lead = re.match(f"{_LEAD}+", text, re.IGNORECASE)
    if lead and not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}", text[lead.end() :]):
        return text[lead.end() :]  # So x = 42.
    if not (found := _STATEMENT.fullmatch(text)):
        return ""
    subject = re.findall("[a-z]+", (found["subject"] or "").lower())
    if not {*_NO_NAME.split()}.isdisjoint(subject[:1]) or {*subject} & (
        (NO_UNIT | ALSO_CHANGING) - PLAIN - _QUANTITIES
    ):
        return ""
    after = found["after"].replace(",", "").split()
    if found["value"][:1] in "$\\" and not found["value"].strip("\\$").replace(",", "").replace(".", "").isdigit():
        return "" if after or not found["before"] else found["value"]
    scale = after[:1] if after and re.fullmatch(f"(?:{'|'.join(SCALES)})s?", after[0]) else []
    unit = counted(after[len(scale) :])
    return "" if unit is None or not (found["before"] or after) else " ".join([found["value"], *scale, *unit])
