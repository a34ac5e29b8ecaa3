"""From the text of an answer, plain or LaTeX, to tokens. A character it doesn't know ends the reading."""

from __future__ import annotations

import re
from typing import NamedTuple

from rewards.values import Unreadable

MAX_TOKENS = 600


class Token(NamedTuple):
    kind: str
    """num, name, word, fn (a function), cmd (frac, sqrt, ...), op, rel, open, close, sep, begin or end"""
    text: str
    spaced: bool = False
    """White space comes before it: `1 4/5` is a mixed number, `14/5` is not."""


# Commands by what they mean: a token's kind and text ("=" is the command itself), or nothing but typography.
# An answer with any other command is unreadable.
_MEANINGS = """
fn =: sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp | name =: pi infty ell alpha
beta gamma delta epsilon varepsilon zeta eta theta lambda mu nu xi rho sigma tau phi varphi chi psi omega
Gamma Delta Theta Lambda Sigma Phi Psi Omega | cmd frac: frac dfrac tfrac cfrac | cmd sqrt: sqrt | cmd
binom: binom dbinom tbinom | cmd emptyset: emptyset varnothing | op *: times cdot ast | op /: div | op +-:
pm | op -+: mp | op deg: circ degree | op bar: lvert rvert vert | op cup: cup | rel <: lt | rel >: gt | rel
<=: le leq leqslant | rel >=: ge geq geqslant | rel !=: ne neq | rel ~: approx simeq | rel in: in | open
\\{: lbrace | close \\}: rbrace | open (: langle | close ): rangle | : left right big Big bigl bigr bigg
displaystyle quad qquad rm"""
_COMMANDS: dict[str, tuple[str, str]] = {}
for _meaning, _, _commands in (entry.rpartition(":") for entry in _MEANINGS.split("|")):
    _kind, _text = [*_meaning.split(), "", ""][:2]
    _COMMANDS |= {name: (_kind, name if _text == "=" else _text) for name in _commands.split()}

# Letters and signs that Unicode has: as ASCII, as a command, as something else.
_ASCII = dict(zip("\u2212\u2013\u2010\u00d7\u00b7\u22c5\u00f7\u00a0\u2009", "---***/  ", strict=True))
_NAMES = "sqrt pi infty approx cup in pm theta"
_NAMED = dict(zip("\u221a\u03c0\u221e\u2248\u222a\u2208\u00b1\u03b8", _NAMES.split(), strict=True))
_OTHER = {
    "\u2264": "<=",
    "\u2265": ">=",
    "\u2260": "!=",
    "\u00b0": "^\\circ ",
    "\u00b2": "^2",
    "\u00b3": "^3",
}
_HALVES = {"\u00bd": "\\frac12 ", "\u00bc": "\\frac14 ", "\u00be": "\\frac34 "}
_UNICODE = str.maketrans(_ASCII | {sign: f"\\{name} " for sign, name in _NAMED.items()} | _OTHER | _HALVES)
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{([^{}]*)\}")
_THIN_SPACE = re.compile(r"(?<=[0-9])(?:\{,\}|,\\!|\\,|\\!)\s*(?=[0-9]{3}(?![0-9]))")
_THOUSANDS = re.compile(r"(?<![0-9,.])[0-9]{1,3}(?:,[0-9]{3})+(?!,?[0-9])")
_TOKEN = re.compile(
    r"(?P<space>(?:\s|~|\\[!,;:\ ])+)"
    r"|\\(?P<env>begin|end)\s*\{(?P<shape>[pb]?matrix|array)\}(?:\{[lcr|\s]*\})?|\\(?P<command>[a-zA-Z]+)|(?P<letters>[a-zA-Z]+)"
    r"|(?P<num>(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<open>[(\[{]|\\\{)|(?P<close>[)\]}]|\\\})|(?P<sep>[,;])|(?P<rel><=|>=|!=|[=<>])"
    r"|(?P<op>\*\*|\\\\|\\[%|]|[-+*/^_!|&:%$\u00a3\u20ac])"
)
# Two letters that are a unit or a word rather than a product.
_TWO_LETTERS = "cm mm km kg mg ml ft mi hr oz lb pm am no is at by in of on so to go it up us sq"
_SHORT = frozenset(_TWO_LETTERS.split())
_LETTER = re.compile(r"\b[a-zA-Z]\b")
_LETTER_UNITS = {"m": "meter", "g": "gram", "s": "second", "h": "hour", "l": "liter", "L": "liter"}


def tokenize(text: str, thousands: bool = True) -> list[Token]:
    """The tokens of an answer.

    Args:
        text: plain or LaTeX, without `$` delimiters (a `$` left over is the currency).
        thousands: read `1,234` as one number rather than two; among brackets it is always two.

    Raises:
        Unreadable: for an unknown character or command, or too many tokens.
    """
    text = _TEXT.sub(_spoken, _THIN_SPACE.sub("", text.translate(_UNICODE)))
    if thousands and not re.search(r"[(\[]|\\\{", text):
        text = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
    tokens: list[Token] = []
    at, spaced = 0, False
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or len(tokens) >= MAX_TOKENS:
            raise Unreadable(f"too many tokens or an unknown character: {text[at]!r}")
        at = match.end()
        new = _tokens(match, spaced)
        spaced = match.lastgroup == "space" or (spaced and not new)
        tokens += new
    return [*tokens, Token("end", "")]


def _spoken(match: re.Match[str]) -> str:
    """What `\\text{}` holds; after something else, its single letters are units."""
    if not match.start():
        return f" {match[1]} "
    return f" {_LETTER.sub(lambda letter: _LETTER_UNITS.get(letter[0], letter[0]), match[1])} "


def _tokens(match: re.Match[str], spaced: bool) -> list[Token]:
    if match["space"]:
        return []
    if match["env"]:
        return [Token(match["env"], match["shape"], spaced)]
    if match["letters"]:
        return _letters(match["letters"], spaced)
    if match["command"]:
        if match["command"] not in _COMMANDS:
            raise Unreadable(f"unknown command \\{match['command']}")
        kind, text = _COMMANDS[match["command"]]
        return [Token(kind, text, spaced)] if kind else []
    symbol = match.group()
    return [
        Token(
            str(match.lastgroup),
            {"**": "^", "\\%": "%", "\\|": "bar", "|": "bar"}.get(symbol, symbol),
            spaced,
        )
    ]


def _letters(letters: str, spaced: bool) -> list[Token]:
    """A run of letters: a function, a word, or a product of variables."""
    if letters in ("or", "and"):
        return [Token("sep", letters, spaced)]
    if letters in ("pi", "infty", "infinity", "sqrt") or _COMMANDS.get(letters, "")[:1] == ("fn",):
        return [Token(*_COMMANDS[letters.replace("infinity", "infty")], spaced)]
    ascending = list(letters) == sorted(set(letters)) and (letters[-1] <= "d" or letters[0] >= "p")
    product = letters.islower() and (ascending or (len(letters) == 2 and letters not in _SHORT))
    if len(letters) > 1 and not product:
        return [Token("word", letters, spaced)]
    return [Token("name", letter, spaced and i == 0) for i, letter in enumerate(letters)]


class Cursor:
    """A place in a list of tokens."""

    def __init__(self, tokens: list[Token]):
        self.tokens, self.at = tokens, 0

    def sees(self, kind: str, *texts: str) -> bool:
        token = self.tokens[self.at]
        return token.kind == kind and (not texts or token.text in texts)

    def takes(self, kind: str, *texts: str) -> bool:
        found = self.sees(kind, *texts)
        self.at += found
        return found

    def needs(self, *kinds: str, text: str = "") -> str:
        token = self.tokens[self.at]
        if token.kind not in kinds or (text and token.text != text):
            raise Unreadable(f"{token.text!r} where {text or ' or '.join(kinds)} should be")
        self.at += 1
        return token.text
