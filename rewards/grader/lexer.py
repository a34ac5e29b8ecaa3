# ruff: noqa: RUF001
"""From the text of an answer, plain or LaTeX, to tokens."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from rewards.grader.values import Unreadable

MAX_TOKENS = 600


class Token(NamedTuple):
    kind: str
    """num, name, word, fn (a function), cmd, op, unit, bar, rel, open, close, sep, unknown or end"""
    text: str
    spaced: bool = False
    """White space comes before it: `5 cm` has a unit, `5cm` has one only if `cm` is a known one."""


# What is written in several ways, and the one in which it is read.
# fmt: off
_SPELLINGS = {
    "*": r"\times \cdot \ast × · ⋅", "/": r"\div ÷", "-": "− – ‐", "^": "**", "±": r"\pm", "∓": r"\mp",
    "%": r"\%", "°": r"\circ \degree", "|": r"\| \lvert \rvert \vert",
    "∪": r"\cup", "∩": r"\cap", "∖": r"\setminus \backslash", "∈": r"\in",
    "<": r"\lt", ">": r"\gt", "<=": r"\le \leq \leqslant ≤", ">=": r"\ge \geq \geqslant ≥",
    "!=": r"\ne \neq ≠", "≈": r"\approx \simeq",
    "(": r"\langle", ")": r"\rangle", r"\{": r"\lbrace", r"\}": r"\rbrace", r"\{\}": r"\emptyset \varnothing ∅",
    r"\frac": r"\dfrac \tfrac \cfrac", r"\binom": r"\dbinom \tbinom", r"\sqrt": "√",
    r"\infty": "∞", r"\ldots": r"\dots \cdots …", "/ ": "⁄",
    r"\sqrt[3]": "∛", r"\sqrt[4]": "∜", r"(-\infty,\infty)": "ℝ", "'": "’ ′",
    "": r"\left \right \big \Big \bigl \bigr \bigg \displaystyle \quad \qquad \rm \bf \it"
    r" \blacksquare ∎ ✓ ✔ ✅",
}
# fmt: on
_SPELLED = {variant: f" {text} " for text, variants in _SPELLINGS.items() for variant in variants.split()}
for _sign in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒":
    _top, _, _bottom = unicodedata.normalize("NFKC", _sign).partition("⁄")
    _SPELLED[_sign] = rf" \frac{{{_top}}}{{{_bottom}}} "
for _sign in "αβγδεζηθλμνξπρστφχψω":  # GREEK SMALL LETTER ALPHA
    _SPELLED[_sign] = f" \\{unicodedata.name(_sign).split()[-1].lower().replace('lamda', 'lambda')} "
_SCRIPTS = {"^": ("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n"), "_": ("₀₁₂₃₄₅₆₇₈₉", "0123456789")}
_VARIANT = re.compile(r"\\\\|\\[a-zA-Z]+|\\[%|]|\*\*|[^\x00-\x7f]")

_KINDS = {
    "fn": "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp",
    "name": "pi infty ell alpha beta gamma delta epsilon varepsilon zeta eta theta lambda mu nu xi rho sigma tau phi"
    " varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega",
    "cmd": "frac sqrt binom",
}
_COMMANDS = {name: kind for kind, names in _KINDS.items() for name in names.split()}

_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{([^{}]*)\}")
_REPEATING = re.compile(r"(?<![0-9])([0-9]*)\.([0-9]*)\\(?:overline|bar|dot)\s*\{?([0-9]+)\}?")
_PATTERNS = [
    (r"(?<=[0-9])(?:\{,\}|,\\!|\\[,!: ]|[\u2009\u202f\u00a0])\s*(?=[0-9]{3}(?![0-9]))", ""),  # 10\,000
    (r"(?<=[0-9])'(?=[0-9]{3}(?![0-9]))", ""),  # 10'000
    (r"\\(?:wedge|land)\b", " and "),
    (r"\\mathbb\s*(?:\{\s*R\s*\}|R)|\ball real(?: number)?s\b", r"(-\\infty,\\infty)"),
    (r"(?<=\)) (?:except|excluding|other than)(?: for)? (?:[a-z] *= *)?([-0-9][-0-9/, ]*)$", r" ∖ \{\1\}"),
    (r"(?<=\))\s*-\s*(?=\\\{)", " ∖ "),  # R - {0}
    (r"\\\{\s*[a-z]\s*(?:∈ *\(-\\infty,\\infty\)\s*)?(?:[|:]|\\mid)([^{}]*[<>=][^{}]*)\\\}", r"\1"),  # {x : x > 3}
    (r"(?:\bm\s*)?\\(?:measured)?angle\b", ""),  # the angle ABC is ABC
    (r"\\triangle\b", ""),
    (r"(?<=[0-9])\.\(([0-9]{1,20})\)", r".\\overline{\1}"),  # 0.(3)
    (r"(?<=[0-9])\.([0-9]{0,9}?)([0-9]{1,9}?)\2{2,9}(?:\.\.\.|\s*\\ldots)", r".\1\\overline{\2}"),  # 0.333...
    (r"\.\.\.", r" \\ldots "),
    (r"(?<=[)\]])\s*U\s*(?=[(\[])", " ∪ "),
    (r"\\(?:overline|overrightarrow|widehat|hat|vec)\s*\{?([A-Z]{1,3})\}?", r"\1"),  # the segment AB
    (r"\|\s*([A-Z]{2})\s*\|", r" \1 "),
    (r"(?<=[a-zA-Z])\s+([a-zA-Z]+)\s*\^\s*\{\s*-\s*1\s*\}", r"/\1"),  # m s^{-1}
    (
        r"(?<=[0-9])(?:\s|~|\\,)*\\frac\{(?:\\text\{)?\s*([a-zA-Z]+)\s*\}?\}\{(?:\\text\{)?\s*([a-zA-Z]+)\s*\}?\}",
        r" \1/\2",
    ),  # 15 \frac{m}{s}
    (r"(?<![0-9.,/])[1-9][0-9]{0,2}(?: [0-9]{3})+(?![0-9.,/])", lambda match: match[0].replace(" ", "")),
    (r"\^\s*\{\s*([0-9])\s*\}", r"^\1 "),  # cm^{2}
    (r"(?<=[a-zA-Z])'+(?=\()", "_prime"),  # f'(1)
    (r"\(([0-9a-fA-F]+)\)\s*_", r"\1_"),  # (52)_8
    (r"(?<=[0-9])\s*[xX]\s*(?=10\s*\^)", "*"),  # 1.5 x 10^3
    (r"\^\s*(?:°|\{\s*°\s*\})", "°"),  # 30^\circ
    (r"°\s*(?:C\b|\\(?:text|mathrm)\s*\{\s*C\s*\})", " celsius "),
    (r"°\s*(?:F\b|\\(?:text|mathrm)\s*\{\s*F\s*\})", " fahrenheit "),
    (r"\bper cent\b", "percent"),
    (r"\b(?:US|CA|AU|[CA])\$|\bUSD(?=[\s}]*[0-9])", "$"),
    (r"\b(?:Rs\.?|INR)(?=[\s}]*[0-9])", "₹"),
    (r"\bEUR(?=[\s}]*[0-9])", "€"),
    (r"\bGBP(?=[\s}]*[0-9])", "£"),
    (r"(?:(?<=[0-9])|(?<=[0-9] dollars)|(?<=[0-9] cents))\s+an?\s+(?=[a-z]{3,}\b)", " per "),  # $29 a day
    (r"(?<=[0-9%])\s*\(([a-zA-Z]+(?: [a-zA-Z]+)?)\)\s*$", r" \1"),  # 29 (apples)
    (r"\b(sq|cu|ft|in|yd|lbs?|oz|hrs?|mins?|secs?)\.(?=\s|$)", r"\1"),
    (r"(?<=[0-9])\s+([a-z]{2,})(?=\s*[-+]\s*[0-9.]+\s+\1\b.*=)", ""),  # 20 apples + 22 apples = 42 apples
    (r"(?<![0-9./])([0-9]+)\s+([0-9]+)/([0-9]+)(?![0-9./])", r"\1\\frac{\2}{\3}"),  # 1 4/5
    (r"\\frac\s*([0-9])\s*([0-9])", r"\\frac{\1}{\2}"),  # \frac45
    (r"_\s*\{\s*([a-zA-Z]+|[0-9]+)\s*\}", r"_\1 "),  # x_{10}
    (r"(?i)\b([ap])\.\s?m\b\.?", r"\1m"),  # 4:30 p.m.
]
_REWRITES = [(re.compile(pattern), replacement) for pattern, replacement in _PATTERNS]
_THOUSANDS = re.compile(r"(?<![0-9,.])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?!,?[0-9])")
_TOKEN = re.compile(
    r"(?P<space>(?:\s|~|\\[!,;:\ ])+)"
    r"|(?P<open>[(\[{]|\\\{|\\begin\s*\{(?:[pb]?matrix|array)\}(?:\{[lcr|\s]*\})?)"
    r"|(?P<close>[)\]}]|\\\}|\\end\s*\{(?:[pb]?matrix|array)\})"
    r"|\\(?P<command>[a-zA-Z]+)|(?P<letters>[a-zA-Z]+)"
    r"|(?P<num>(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3}(?![0-9]))?)"
    r"|(?P<sep>[,;&])|(?P<rel><=|>=|!=|[=<>≈∈])|(?P<bar>\|)|(?P<unit>[%$£€¥₹])|(?P<op>\\\\|[-+*/^_!:°∪∩∖])|(?P<unknown>.)"
)
# Two letters that are a unit or a word rather than a product.
_TWO_LETTERS = "cm mm km kg mg ml ft mi hr oz lb pm am an no is at by in of on so to go it up us sq cu yd kb mb gb tb"
_UNIT_LETTERS = {"m": "meter", "g": "gram", "s": "second", "h": "hour", "l": "liter", "L": "liter", "N": "newton",
                 "J": "joule", "W": "watt", "V": "volt"}  # fmt: skip


def spelled(text: str) -> str:
    """An answer with each thing in it spelled in one way."""
    for sign, (scripts, plain) in _SCRIPTS.items():
        table = str.maketrans(scripts, plain)
        text = re.sub(f"[{scripts}]+", lambda match, s=sign, t=table: f"{s}{{{match[0].translate(t)}}}", text)
    text = _VARIANT.sub(lambda match: _SPELLED.get(match[0], match[0]), text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return _TEXT.sub(_words, _REPEATING.sub(_quotient, text))


def tokenize(text: str, thousands: bool = True) -> list[Token]:
    """The tokens of a spelled answer.

    Args:
        text: what `spelled` makes, without `$` delimiters (a `$` left over is the currency).
        thousands: read `1,234` as one number rather than two; among brackets it is always two.

    Raises:
        Unreadable: for too many tokens. What isn't known is a token that no rule of the grammar takes.
    """
    if thousands and not re.search(r"[(\[]|\\\{", text):
        text = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
    tokens: list[Token] = []
    spaced = False
    for match in _TOKEN.finditer(text):
        group = str(match.lastgroup)
        if group == "letters":
            tokens += _letters(match[0], spaced)
        elif group == "command":
            tokens.append(Token(_COMMANDS.get(match["command"], "unknown"), match["command"], spaced))
        elif group != "space":
            tokens.append(Token(group, match[0], spaced))
        spaced = group == "space"
    if len(tokens) > MAX_TOKENS:
        raise Unreadable("too many tokens")
    return [*tokens, Token("end", "")]


def _letters(letters: str, spaced: bool) -> list[Token]:
    """A run of letters: a function, a word, or a product of variables."""
    if letters in ("or", "and"):
        return [Token("sep", letters, spaced)]
    name = "infty" if letters == "infinity" else letters
    if name in ("pi", "infty", "sqrt") or _COMMANDS.get(name) == "fn":
        return [Token(_COMMANDS[name], name, spaced)]
    ascending = list(letters) == sorted(set(letters)) and (letters[-1] <= "d" or letters[0] >= "p")
    product = letters.islower() and (ascending or (len(letters) == 2 and letters not in _TWO_LETTERS.split()))
    if len(letters) > 1 and not product:
        return [Token("word", letters, spaced)]
    return [Token("name", letter, spaced and i == 0) for i, letter in enumerate(letters)]


def _words(match: re.Match[str]) -> str:
    """What `\\text{}` holds; single letters in it are units."""
    return f" {re.sub('[a-zA-Z]+', lambda word: _UNIT_LETTERS.get(word[0], word[0]), match[1])} "


def _quotient(match: re.Match[str]) -> str:
    """`0.1\\overline{6}` as a quotient of two integers: 15/90."""
    whole, fixed, repeated = match.groups()
    top = int(whole + fixed + repeated) - int(whole + fixed or 0)
    return rf" \frac{{{top}}}{{{(10 ** len(repeated) - 1) * 10 ** len(fixed)}}} "
