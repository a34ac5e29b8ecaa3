# ruff: noqa: RUF001
"""From a spelled answer to tokens."""

from __future__ import annotations

import re
from typing import NamedTuple

from rewards.grader.units import is_unit
from rewards.grader.values import Unreadable

MAX_TOKENS = 600


class Token(NamedTuple):
    kind: str
    """num, name, word, fn (a function), cmd, op, unit, bar, rel, open, close, sep, unknown or end"""
    text: str
    spaced: bool = False
    """White space comes before it: `5 cm` has a unit, `5cm` has one only if `cm` is a known one."""


_KINDS = {
    "fn": "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch"
    " arcsinh arccosh arctanh ln log lg exp",
    "name": "pi infty ell alpha beta gamma delta epsilon varepsilon zeta eta theta lambda mu nu xi rho sigma tau phi"
    " varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega unitvectori unitvectorj unitvectork",
    "cmd": "frac sqrt binom sum prod lfloor lceil",
    "close": "rfloor rceil",
}
_COMMANDS = {name: kind for kind, names in _KINDS.items() for name in names.split()}
_SAME_NAME = {"infinity": "infty", "lg": "log"} | {
    f"{prefix}{name}": f"arc{name}"
    for prefix in ("a", "ar", "arc")
    for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")
}
_THOUSANDS = re.compile(r"(?<![0-9,.])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?!,?[0-9])")
_TOKEN = re.compile(
    r"(?P<space>(?:\s|~|\\[!,;:\ ])+)"
    r"|(?P<open>[(\[{]|\\\{|\\begin\s*\{(?:[pbB]?matrix|smallmatrix|array)\}\s*(?:\{[lcr|\s]*\})?)"
    r"|(?P<close>[)\]}]|\\\}|\\end\s*\{(?:[pbB]?matrix|smallmatrix|array)\})"
    r"|\\(?P<command>[a-zA-Z]+)|(?P<letters>[a-zA-Z]+|[一-鿿]+)"
    r"|(?P<num>(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3}(?![0-9]))?)"
    r"|(?P<sep>[,;&])|(?P<rel><=|>=|!=|[=<>≈∈∉≡⫽])|(?P<bar>\|)|(?P<unit>[%$£€¥₹])|(?P<op>\\\\|[-+*/^_!:°∪∩∖])|(?P<unknown>.)"
)
# Two letters that are a unit, or a word, rather than a product; in a formula `at` is a product.
_UNITS = "cm mm km kg mg ml ft mi hr oz lb pm am sq cu yd kb mb gb tb".split()  # noqa: SIM905
_WORDS = "an no is at by in of on so to go it up us".split()  # noqa: SIM905


def tokenize(text: str, thousands: bool = True) -> list[Token]:
    """The tokens of a spelled answer, its LaTeX delimiters taken off; raises Unreadable for too many.

    thousands: read `1,234` as one number rather than two; among brackets it is always two. What isn't known is a token
    that no rule of the grammar takes.
    """
    if thousands and not re.search(r"[(\[]|\\\{", text):
        text = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
    tokens: list[Token] = []
    spaced = False
    formula = not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}", text) and bool(re.search(r"[-+*/^=()]", text))
    for match in _TOKEN.finditer(text):
        group = str(match.lastgroup)
        if group == "letters":
            tokens += _letters(match[0], spaced, formula)
        elif group == "command":
            name = _SAME_NAME.get(match["command"], match["command"])
            tokens.append(Token(_COMMANDS.get(name, "unknown"), name, spaced))
        elif group != "space":
            tokens.append(Token(group, match[0], spaced))
        spaced = group == "space"
    if len(tokens) > MAX_TOKENS:
        raise Unreadable("too many tokens")
    return [*tokens, Token("end", "")]


def _letters(letters: str, spaced: bool, formula: bool) -> list[Token]:
    """A run of letters: a function, a word, or a product of variables."""
    if letters in ("or", "and"):
        return [Token("sep", letters, spaced)]
    name = _SAME_NAME.get(letters, letters)
    if name in ("pi", "infty", "sqrt") or _COMMANDS.get(name) == "fn":
        return [Token(_COMMANDS[name], name, spaced)]
    ascending = list(letters) == sorted(set(letters)) and (letters[-1] <= "d" or letters[0] >= "p")
    mixed = formula and len(letters) == 2 and not letters.isupper() and not is_unit(letters)  # Ce^x
    pair = letters.islower() and len(letters) == 2 and letters not in (_UNITS if formula else _UNITS + _WORDS)
    product = mixed or pair or (letters.islower() and ascending)
    consonants = re.fullmatch("(?![A-Z]+$)[^aeiouyAEIOUY]{2,4}", letters) and not is_unit(letters)  # mgh, nRT
    if not letters.isascii() or (len(letters) > 1 and not (product or consonants)):
        return [Token("word", letters, spaced)]
    return [Token("name", letter, spaced and i == 0) for i, letter in enumerate(letters)]
