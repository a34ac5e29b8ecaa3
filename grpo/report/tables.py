"""Text tables: any rows, and evaluations side by side."""

from __future__ import annotations

from typing import Any

WIDTH = 100  # characters of a text table; evaluations that do not fit go below

ROWS = (  # label, part of the evaluation, figure and digits; `glossary.EVALUATION` says what each means
    ("accuracy, sampled", "sampled", "accuracy", 3),
    ("  95 % interval", "sampled", "ci95", 3),
    ("accuracy, greedy", "greedy", "accuracy", 3),
    ("  95 % interval", "greedy", "ci95", 3),
    ("pass@", "sampled", "pass_at", 3),
    ("maj@", "sampled", "maj", 3),
    ("format rate", "sampled", "format", 3),
    ("reflection rate", "sampled", "reflection_rate", 3),
    ("reflections per completion", "sampled", "reflections", 2),
    ("accuracy when reflecting", "sampled", "accuracy_reflecting", 3),
    ("accuracy otherwise", "sampled", "accuracy_others", 3),
    ("length in tokens", "sampled", "length", 1),
    ("truncated", "sampled", "truncated", 3),
)


def table(headers: list[str], rows: list[list[str]]) -> str:
    """A plain text table, the first column to the left and all others to the right."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    lines = []
    for first, *others in (headers, ["-" * width for width in widths], *rows):
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def evaluation_rows(results: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Label and a cell per evaluation, row by row; "-" for what an evaluation lacks."""
    rows = []
    for label, part, figure, digits in ROWS:
        values = [result.get(part, {}).get(figure) for result in results]
        if label.endswith("@"):  # one value for each k; that of 1 is the accuracy once more
            ks = sorted({k for by_k in values for k in by_k or ()} - {"1"}, key=int)
            rows += [(label + k, [_cell((by_k or {}).get(k), digits) for by_k in values]) for k in ks]
        else:
            rows.append((label, [_cell(value, digits) for value in values]))
    return rows


def evaluation_table(results: dict[str, dict[str, Any]]) -> str:
    """Evaluations by name, side by side, in blocks that are not wider than `WIDTH`."""
    for count in range(len(results), 0, -1):
        names = list(results)[:count]
        rows = evaluation_rows([results[name] for name in names])
        block = table(["", *names], [[label, *cells] for label, cells in rows])
        if count == 1 or max(map(len, block.splitlines())) <= WIDTH:
            break
    rest = {name: result for name, result in results.items() if name not in names}
    return f"{block}\n\n{evaluation_table(rest)}" if rest else block


def _cell(value: float | list[float] | None, digits: int) -> str:
    if isinstance(value, list):
        return "-".join(f"{v:.{digits}f}" for v in value)
    return "-" if value is None or value != value else f"{value:.{digits}f}"
