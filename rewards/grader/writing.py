# ruff: noqa: RUF001
"""How an answer is written, and the one way in which it is read: Unicode, LaTeX's fonts and spaces, signs, spellings.

`normalised` changes nothing that a reader sees and comes before everything else; `spelled` comes once the answer has
been found in its sentence.
"""

from __future__ import annotations

import re
import unicodedata

from rewards.grader.units import UNIT_LETTERS

MAX_GROUP = 2000
"""Characters among which the end of a group is looked for."""
MAX_OVER = 4
"""How deep `{a \\over b}` may nest."""
# fmt: off
_SPELLINGS = {
    "*": r"\times \cdot \ast × · ⋅", "/": r"\div ÷", "-": "− – ‐ ‒", "^": "**", "±": r"\pm", "∓": r"\mp",
    "%": r"\%", "°": r"\circ \degree º", "|": r"\| \lvert \rvert \vert",
    "∪": r"\cup", "∩": r"\cap", "∖": r"\setminus \backslash", "∈": r"\in", "∉": r"\notin",
    "<": r"\lt", ">": r"\gt", "<=": r"\le \leq \leqslant ≤ ⩽", ">=": r"\ge \geq \geqslant ≥ ⩾",
    "!=": r"\ne \neq ≠", "≈": r"\approx \simeq", "≡": r"\equiv",
    "(": r"\langle ⟨", ")": r"\rangle ⟩", r"\{": r"\lbrace", r"\}": r"\rbrace", r"\{\}": r"\emptyset \varnothing ∅",
    r"\binom": r"\dbinom \tbinom", r"\sqrt": "√", r"\sum": "∑", r"\prod": "∏",
    r"\infty": "∞", r"\ldots": r"\dots \cdots …", "/ ": "⁄", r"\lfloor": "⌊", r"\rfloor": "⌋", r"\lceil": "⌈",
    r"\rceil": "⌉", r"\sqrt[3]": "∛", r"\sqrt[4]": "∜", r"(-\infty,\infty)": "ℝ", "'": r"’ ′ \prime",
    r"\mid": "∣", "": r"\quad \qquad \blacksquare \square \checkmark ∎ ✓ ✔ ✅",
}
# What LaTeX only sets in another size, place, font or colour.
_UNSEEN = (
    r"\left \right \big \Big \bigl \bigr \bigg \biggl \biggr \displaystyle \textstyle \scriptstyle \rm \bf \it \tt "
    r"\limits \nolimits \centering \normalsize \large \Large \LARGE \huge \Huge \small \strut \mathstrut \nonumber "
    r"\hfill \noindent \relax \middle"
)
# fmt: on
_SPELLED = {variant: f" {text} " for text, variants in _SPELLINGS.items() for variant in variants.split()}
_SPELLED |= dict.fromkeys(_UNSEEN.split(), " ")
for _sign in "αβγδεζηθλμνξπρστφχψωΔΓΩΣΦΨΛ":  # GREEK SMALL LETTER ALPHA
    _name = unicodedata.name(_sign).split()[-1].lower().replace("lamda", "lambda")
    _SPELLED[_sign] = f" \\{_name.capitalize() if _sign.isupper() else _name} "
_VULGAR = re.compile("[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒]")
_SCRIPTS = {"^": ("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n"), "_": ("₀₁₂₃₄₅₆₇₈₉", "0123456789")}
_VARIANT = re.compile(r"\\\\|\\[a-zA-Z]+|\\[%|]|\*\*|[^\x00-\x7f]")
_KEPT = "ℝ…º"  # NFKC would make a letter, and three full stops, of them
_CHINESE = str.maketrans({"。": ".", "、": ", ", "．": ".", "【": "[", "】": "]", "《": '"', "》": '"'})
_WRAPPER = re.compile(  # around its argument, or before it, it only changes how that looks
    r"\\(?:boldsymbol|bm|pmb|mathbf|mathit|mathsf|mathtt|mathnormal|ensuremath|underline|uline|emph|mathclap"
    r"|(?:textcolor|colorbox)\s*\{[^{}]*\}|color\s*\{[^{}]*\}|[vh]space\*?\s*\{[^{}]*\})(?![a-zA-Z])\s*"
)
_UNIT_VECTOR = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|hat|vec|widehat|overrightarrow)\s*"
    r"(?:\{\s*(?:\\(?:mathbf|boldsymbol|hat|vec)\s*)?\{?\s*\\?([ijk])(?:math)?\s*\}?\s*\}|\\?([ijk])(?:math)?(?![a-zA-Z]))"
)
_GROUP = r"([^{}]*(?:\{[^{}]*\}[^{}]*)*)"
_OVER = re.compile(rf"\{{{_GROUP}\\over(?![a-zA-Z]){_GROUP}\}}|^{_GROUP}\\over(?![a-zA-Z]){_GROUP}$")
_LABEL = re.compile(
    r"\\text\s*\{\s*((?:the |final |correct )*(?:answer|total|result)(?: is| ?[:=])?)\s*\}", re.IGNORECASE
)
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{([^{}]*)\}")
_REPEATING = re.compile(r"(?<![0-9])([0-9]*)\.([0-9]*)\\(?:overline|bar|dot)\s*\{?([0-9]+)\}?")
_PATTERNS = [
    (r"(?<=[0-9])(?:\{,\}|,\\!|\\[,!: ])\s*(?=[0-9]{3}(?![0-9]))", ""),  # 10\,000
    (r"(?<=[0-9])'(?=[0-9]{3}(?![0-9]))", ""),  # 10'000
    (r"(?<=[0-9)])!=", "! = "),  # 5!=120
    (r"\+/-", "±"),
    (r"(?<=[(\[, +-])(?:inf|oo)(?=\s*[)\],])", r"\\infty"),
    (r"\\\\\s*\[[0-9.]+ *(?:pt|em|ex|mm)\]", r"\\\\"),  # space between the rows of a matrix
    (r"\\cr(?![a-zA-Z])", r"\\\\"),
    (r"\\(?:wedge|land)\b", " and "),
    (r"\\text\s*\{\s*(all real[^{}]*)\}", r" \1 "),
    (r"\\mathbb\s*(?:\{\s*R\s*\}|R)|\ball real(?: number)?s\b", r"(-\\infty,\\infty)"),
    (r"(?<=\))\s+(?:except|excluding|other than)(?: for)?\s+(?:[a-z] *= *)?([-0-9][-0-9/, ]*)$", r" ∖ \{\1\}"),
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
    (r"\^\s*\{?\s*('+)\s*\}?", r"\1"),  # f^\prime
    (r"(?<=[a-zA-Z])'+(?=\()", "_prime"),  # f'(1)
    (r"\\not\s*∈", "∉"),
    (r"(?<=[0-9])\s*万", r" * 10^4 "),
    (r"(?<=[0-9])\s*亿", r" * 10^8 "),
    (r"平方", " square "),
    (r"立方", " cubic "),
    (r"\\not\s*=", "!="),
    (r"\(([0-9a-fA-F]+)\)\s*_", r"\1_"),  # (52)_8
    (r"(?<=[0-9])\s*[xX]\s*(?=10\s*\^)", "*"),  # 1.5 x 10^3
    (r"\^\s*(?:°|\{\s*°\s*\})", "°"),  # 30^\circ
    (r"°\s*(?:C\b|\\(?:text|mathrm)\s*\{\s*C\s*\})", " celsius "),
    (r"°\s*(?:F\b|\\(?:text|mathrm)\s*\{\s*F\s*\})", " fahrenheit "),
    (r"\bper cent\b", "percent"),
    (r"(?<![a-zA-Z])mph\b", " mi/h"),
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
_FRACTION = re.compile(r"\\(?:[dtc]frac|nicefrac|sfrac|flatfrac)(?![a-zA-Z])")
_MODULUS = re.compile(
    r"[(,]?\s*(?:\\(?:p?mod|bmod|pod)(?![a-zA-Z])|\\(?:text|mathrm|operatorname)\s*\{\s*mod(?:ulo)?\s*\}|\bmod(?:ulo)?\b)"
    r"(?:\s|\\[ ,;:]|\{)*([0-9]+|[a-zA-Z])\s*\}?\s*\)?\s*$"
)


def normalised(text: str) -> str:
    """A text in Unicode's compatibility form, without the LaTeX that only changes how its argument looks.

    >>> normalised("４２"), normalised(r"\\textcolor{red}{42}"), normalised(r"{1 \\over 2}")
    ('42', '42', '\\\\frac{1 }{ 2}')
    """
    text = _VULGAR.sub(lambda sign: rf" \frac{{{unicodedata.normalize('NFKC', sign[0]).replace('⁄', '}{')}}} ", text)
    for sign, (scripts, plain) in _SCRIPTS.items():
        table = str.maketrans(scripts, plain)
        text = re.sub(f"[{scripts}]+", lambda match, s=sign, t=table: f"{s}{{{match[0].translate(t)}}}", text)
    text = "".join(c if c in _KEPT else unicodedata.normalize("NFKC", c) for c in text) if not text.isascii() else text
    text = _LABEL.sub(r"\1 ", text)
    text = _FRACTION.sub(r"\\frac", _UNIT_VECTOR.sub(r" \\unitvector\1\2 ", text.translate(_CHINESE)))
    while bare := _WRAPPER.search(text):
        before, after = text[: bare.start()], text[bare.end() :]
        end = group_end(after, 0) if after[:1] == "{" else 0
        argument = before.rstrip()[-1:] in ("^", "_", "}") or re.search(r"\\[a-zA-Z]+\s*$", before)  # x^\mathbf{10}
        text = before + (after if argument or not end else after[1 : end - 1] + after[end:])
    for _ in range(MAX_OVER if "\\over" in text else 0):
        text = _OVER.sub(r"\\frac{\1\3}{\2\4}", text)
    whole = re.fullmatch(r"\s*\\(?:text(?:bf|it|rm|normal)?|mbox|mathrm)\s*\{([^{}]*)\}\s*([.!]?)\s*", text)
    return whole[1] + whole[2] if whole else text


def spelled(text: str) -> str:
    """An answer with each thing in it spelled in one way."""
    text = _VARIANT.sub(lambda match: _SPELLED.get(match[0], match[0]), text)
    if "≡" in text or "pmod" in text or re.search(r"\((?:\\text\s*\{)?\s*\\?b?mod\b", text):
        text = re.sub(r"\\text\s*\{([^{}]*\bmod\b[^{}]*)\}", r"\1", text)
        text = _MODULUS.sub(r" ⫽ \1", text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return _TEXT.sub(_words, _REPEATING.sub(_quotient, text))


def group_end(text: str, start: int) -> int:
    """Where the group in braces that begins at `start` ends."""
    depth = 0
    for brace in re.finditer(r"[{}]", text[start : start + MAX_GROUP]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return start + brace.end()
    return len(text)


def _words(match: re.Match[str]) -> str:
    """What `\\text{}` holds; single letters in it are units."""
    return f" {re.sub('[a-zA-Z]+', lambda word: UNIT_LETTERS.get(word[0], word[0]), match[1])} "


def _quotient(match: re.Match[str]) -> str:
    """`0.1\\overline{6}` as a quotient of two integers: 15/90."""
    whole, fixed, repeated = match.groups()
    top = int(whole + fixed + repeated) - int(whole + fixed or 0)
    return rf" \frac{{{top}}}{{{(10 ** len(repeated) - 1) * 10 ** len(fixed)}}} "
