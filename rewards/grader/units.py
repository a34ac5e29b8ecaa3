"""Units and currencies, each spelt in one way but not converted: 5 km is 5000 m only to a reader who does the sum."""

from __future__ import annotations

import re
from fractions import Fraction

_LARGE = {
    "ten": 10, "dozen": 12, "hundred": 10**2, "thousand": 10**3, "lakh": 10**5, "million": 10**6, "crore": 10**7,
    "billion": 10**9, "trillion": 10**12, "quadrillion": 10**15,
}  # fmt: skip
_PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "twelfth": 12, "sixteenth": 16, "hundredth": 100, "thousandth": 1000, "millionth": 10**6,
}  # fmt: skip
SCALES = _LARGE | {word: Fraction(1, part) for word, part in _PARTS.items()}
"""Words that multiply the number before them, in the singular."""

_NAMES = """
meter m metre 米; centimeter cm centimetre 厘米; millimeter mm millimetre 毫米; kilometer km kilometre 千米 公里;
inch in inche; foot ft feet; yard yd; mile mi; gram g 克; kilogram kg kilo 千克 公斤; milligram mg; pound lb;
ounce oz; sterling £; yen ¥; rupee ₹; kilobyte kb; megabyte mb; gigabyte gb; terabyte tb; liter l litre;
milliliter ml millilitre; second s sec 秒; minute min 分钟; hour h hr 小时; degree deg 度; dollar $ usd buck 美元;
euro €; cent; am; pm; % percent percentage pct; newton; joule; watt; volt; ampere amp; kelvin; coulomb; farad; ohm;
tesla; henry; pascal; hertz; mole; electronvolt; calorie; unit 个 人 名 只 本 件 次 种 条 张 支 棵; radian; year 岁;
day 天; week; month; people; men; women; children; teeth; mice; sheep; fish; money; profit; water; milk; gold;
celsius; fahrenheit; yuan 元; time; space; person"""
_UNITS = {alias: names.split()[0] for names in _NAMES.split(";") for alias in names.split()}

# Words that speak against reading what follows a number as its unit.
_HEDGES = """
or and not but if is isn are aren was were be may might could can cannot maybe perhaps possibly probably
likely either neither nor except than more less least most about approximately roughly almost around nearly
plus minus times half quarter third dozen hundred thousand million billion trillion negative positive
squared cubed doubled factorial root roots mod modulo base remainder wrong incorrect false invalid instead
rather actually wait hmm guess think then so because since unless to from with without no never other
another sure unsure mistake error should would also versus vs through until below under above over zero lakh crore
past ago before after late early at one two three four five six seven eight nine ten eleven twelve
thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
twice double triple tenth hundredth
thousandth halve gross score mil mille permille basis ppm bps myriad fold short loss debt deficit opposite reciprocal
add subtract divided multiplied multiply multiple factor divisor increased decreased halved tripled up too remove
exceeds close approx est circa tops max incorrect itself"""
_JOINING = "or and if is are was were be may because since so then to with from at after before other early late"
NO_UNIT = frozenset(_HEDGES.split())
CHANGING = NO_UNIT - {*_JOINING.split()}
"""Those that make another number, or none, of what they stand beside: half, at least, not."""


_AFTER = """
altogether total overall left remaining each in on for of by during this every and with to old tall long wide high
deep apart away north south east west worth came now today"""
_BEFORE_NOUN = "in on for of by during this every and with to"
PLAIN = frozenset(["is", "are", "was", "were", "has", "have", "can", "so", "then", "to", "with", "the", "it", "and"])
"""Words that change no number."""
_SYMBOLS = {"N": "newton", "J": "joule", "W": "watt", "V": "volt", "A": "ampere", "K": "kelvin", "C": "coulomb",
            "F": "farad", "T": "tesla", "H": "henry", "Pa": "pascal", "Hz": "hertz", "mol": "mole", "L": "liter",
            "eV": "electronvolt", "cal": "calorie", "rad": "radian", r"\Omega": "ohm"}  # fmt: skip
UNIT_LETTERS = {letter: _SYMBOLS.get(letter) or _UNITS[letter] for letter in "mgshlLNJWV"}
"""Letters that are units where no formula is expected."""
_SI = re.compile("(?:da|[fpnumcdkMGT])?(?:mol|Pa|Hz|eV|Wb|cd|rad|bar|cal|ohm|Wh|Ah|[mgsAKNJWVCFHTSLl])")
_FACTOR = (
    r"(\s+per\s+|(?:[\s~*/.]|\\[,;: ])*)((?:sq|square|cu|cubic)\s+)?(\\mu\s*)?"
    r"((?!(?:sq|square|cu|cubic|per)\b)[a-zA-Z]+(?![a-zA-Z])|[一-鿿]+(?![一-鿿])|\\Omega|[%$£€¥₹])(?:\s*\^\s*(?:\{\s*)?((?:-\s*)?[0-9])(?:\s*\})?)?"
)
_FACTORS = re.compile(f"(?:{_FACTOR})+")
_MEASURED = re.compile(rf"([-+0-9.,*^{{}} ]*[0-9}}])((?:[\s~*/.]|\\[,;: ])(?:{_FACTOR})+)")


def is_unit(word: str) -> bool:
    """Whether a word is a unit by itself: m, J, km, hours; no other letter."""
    known = len(word) > 1 and not {word.lower(), word.lower().removesuffix("s")}.isdisjoint(_UNITS)
    return known or word in ("per", "sq", "cu", "square", "cubic", *UNIT_LETTERS)


def counted(words: list[str]) -> list[str] | None:
    """What a number counts, of the words after it: ["red", "apples"] of "red apples in total"; None if they say more.

    It ends in a plural or a unit. What may follow is short: where, when, in all.
    """
    lower = ["month" if word == "May" else word.lower() for word in words]
    end = next((i for i, word in enumerate(lower) if word in _AFTER.split()), len(words))
    what, where = lower[:end], lower[end:]
    if len(what) > 5 or (what and not _is_noun(what[-1])) or (where and where[-1] in _BEFORE_NOUN.split()):
        return None
    return words[:end] if NO_UNIT.isdisjoint({*what} | ({*where} - PLAIN - {"from", "at"})) else None


def _is_noun(word: str) -> bool:
    plural = len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is", "ous"))
    return plural or word in _UNITS or is_unit(word)


def measured(text: str) -> tuple[str, str] | None:
    """A spelled number and its unit of physics by symbols, `5 * 10^3` and "kilometer/second"; None if it is none."""
    found = _MEASURED.fullmatch(text.strip())
    if not found or re.search(r"(?<![a-zA-Z])[a-zA-Z] [a-zA-Z](?![a-zA-Z])", found[2]):  # V W is a product
        return None
    for *_, symbol, _ in re.findall(_FACTOR, found[2]):
        if symbol.lower() in NO_UNIT or not (_named(symbol) or (_SI.fullmatch(symbol) and len(symbol) > 1)):
            return None
    return found[1], _spelled(found[2])


def _named(symbol: str) -> str | None:
    return _SYMBOLS.get(symbol) or _UNITS.get(symbol) or _UNITS.get(symbol.lower().removesuffix("s"))


def _spelled(unit: str) -> str:
    """Units by their names and powers, nouns in the singular: "meter/second^2" of `m s^{-2}`."""
    powers: dict[str, int] = {}
    sign = 1
    for joint, area, micro, symbol, power in re.findall(_FACTOR, unit):
        sign = -1 if "/" in joint or "per" in joint else sign
        name = ("micro" if micro else "") + (_named(symbol) or symbol.removesuffix("s"))
        powers[name] = powers.get(name, 0) + sign * int(power.replace(" ", "") or {"s": 2, "c": 3}.get(area[:1], 1))
    sides = [
        " ".join(sorted(n + (f"^{abs(p)}" if abs(p) > 1 else "") for n, p in powers.items() if p * side > 0))
        for side in (1, -1)
    ]
    return "/".join(filter(None, sides))


def unit_name(words: list[str], glued: bool, trusted: bool = False) -> str:
    """One spelling for the words after a number; "" if they aren't a unit.

    A unit is at most five words, none of hedging or arithmetic. Letters glued to the number (`2AB`) must be
    a known abbreviation.

    >>> unit_name(["square", "feet"], False), unit_name(["inches", "^", "2"], False), unit_name(["or"], False)
    ('foot^2', 'inch^2', '')
    """
    words = [word.lower() for word in words]
    if (
        not words
        or sum(map(str.isalpha, words)) > 5
        or not NO_UNIT.isdisjoint(words)
        or (glued and words[0] not in _UNITS and words[0].removesuffix("s") not in _UNITS)
        or not (trusted or not words[0].isalpha() or counted(re.split(r" [/^] ", " ".join(words))[0].split()))
    ):
        return ""
    text = re.sub(r"\b(?:of|the|an?) ", "", " ".join(words))
    return _spelled(text) if _FACTORS.fullmatch(text) else ""
