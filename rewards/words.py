"""The words in an answer: units and currencies after a number, or an answer that is nothing but words.

Units are spelt in one way but not converted: 5 km is 5000 m only to a reader who does the sum.
"""

from __future__ import annotations

from rewards.lexer import Cursor
from rewards.values import Struct

CURRENCIES = {"$": "dollar", "\u00a3": "pound", "\u20ac": "euro"}
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_NAMES = """
meter m metre; centimeter cm centimetre; millimeter mm millimetre; kilometer km kilometre; inch in inche;
foot ft feet; yard yd; mile mi; gram g; kilogram kg kilo; milligram mg; pound lb; ounce oz; liter l litre;
milliliter ml millilitre; second s sec; minute min; hour h hr; degree deg; dollar usd buck; cent; mph; am;
pm; % percent percentage"""
_UNITS = {alias: names.split()[0] for names in _NAMES.split(";") for alias in names.split()}

# Words that speak against reading what follows a number as its unit.
_HEDGES = """
or and not but if is isn are aren was were be may might could can cannot maybe perhaps possibly probably
likely either neither nor except than more less least most about approximately roughly almost around nearly
plus minus times half quarter third dozen hundred thousand million billion trillion negative positive
squared cubed doubled factorial root roots mod modulo base remainder wrong incorrect false invalid instead
rather actually wait hmm guess think then so because since unless to from with without no never other
another sure unsure mistake error should would also versus vs through until"""
_NO_UNIT = frozenset(_HEDGES.split())
_SQUARES = {"square": "^2", "sq": "^2", "cubic": "^3"}


def unit_name(words: list[str], glued: bool) -> str:
    """One spelling for the words after a number; "" if they aren't a unit.

    A unit is at most four words, none of hedging or arithmetic. Letters glued to the number (`2AB`) must be
    a known abbreviation.

    >>> unit_name(["square", "feet"], False), unit_name(["inches", "^", "2"], False), unit_name(["or"], False)
    ('foot^2', 'inch^2', '')
    """
    words = [word.lower() for word in words if word.lower() not in ("of", "the", "a", "an")]
    if not words or len(words) > 5 or not _NO_UNIT.isdisjoint(words) or (glued and words[0] not in _UNITS):
        return ""
    name, power = "", ""
    for word in words:
        if word in _SQUARES:
            power = _SQUARES[word]
        elif word in ("^", "/", "per") or name.endswith("^"):
            name += "/" if word == "per" else word
        elif not word.isalpha():
            return ""
        else:
            singular = word[:-1] if word.endswith("s") and len(word) > 2 else word
            name += (" " if name and name[-1] != "/" else "") + _UNITS.get(word, _UNITS.get(singular, singular)) + power
            power = ""
    return name


def read_currency(cursor: Cursor) -> str:
    """A currency sign or a percent sign, as a unit; "" if there is none."""
    sign = cursor.needs("op") if cursor.sees("op", "%", *CURRENCIES) else ""
    return CURRENCIES.get(sign, sign)


def read_unit(cursor: Cursor) -> str:
    """The unit that the words at the cursor are; "", and nothing read, if they are none."""
    start, glued = cursor.at, not cursor.tokens[cursor.at].spaced
    words: list[str] = []
    while cursor.sees("word") or (words and cursor.sees("op", "/", "^")) or words[-1:] in (["/"], ["^"]):
        words.append(cursor.needs("word", "op", "num", "name"))
    unit = unit_name(words, glued)
    cursor.at = cursor.at if unit else start
    return unit


def read_words(cursor: Cursor) -> Struct:
    """An answer in words, without its article."""
    words = []
    while cursor.sees("word") or cursor.sees("name") or cursor.sees("num"):
        words.append(cursor.needs("word", "name", "num").casefold())
    return Struct("words", (), " ".join(words[words[0] in ("the", "a", "an") and len(words) > 1 :]))
