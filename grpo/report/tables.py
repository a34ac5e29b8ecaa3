"""Text tables: any rows, and evaluations side by side."""

from __future__ import annotations

from typing import Any

from grpo.report.glossary import EVALUATION

WIDTH = 100  # characters of a text table; evaluations that do not fit go below


def table(headers: list[str], rows: list[list[str]]) -> str:
    """A plain text table, the first column to the left and all others to the right."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    lines = []
    for first, *others in (headers, ["-" * width for width in widths], *rows):
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def evaluation_rows(results: list[dict[str, Any]]) -> list[tuple[str, list[str], str]]:
    """Label, a cell per evaluation ("-" for what it lacks) and explanation of each figure."""
    rows = []
    for label, part, figure, digits, text in EVALUATION:
        values = [result.get(part, {}).get(figure) for result in results]
        if part == "paired":  # left out where nothing was compared; a difference has a sign
            if any(value is not None for value in values):
                rows.append((label, [_difference(value, digits) for value in values], text))
        elif label.endswith(("@k", " *")):  # one value for each k (that of 1 is the accuracy once more) or reward
            keys = sorted({key for some in values for key in some or ()} - {"1"}, key=lambda key: (len(key), key))
            more = {k: ", settings differ" for k in keys if label.endswith("*") and not same_reward(k, results)}
            rows += [
                (label[:-1] + k + more.get(k, ""), [_cell((some or {}).get(k), digits) for some in values], text)
                for k in keys
            ]
        else:
            rows.append((label, [_cell(value, digits) for value in values], text))
    return rows


def same_reward(name: str, results: list[dict[str, Any]]) -> bool:
    """Whether a reward had the same settings in all evaluations that say which it had."""
    settings = [result["reward_settings"][name] for result in results if name in result.get("reward_settings", {})]
    return all(one == settings[0] for one in settings)


def evaluation_table(results: dict[str, dict[str, Any]]) -> str:
    """Evaluations by name, side by side, in blocks that are not wider than `WIDTH`."""
    for count in range(len(results), 0, -1):
        names = list(results)[:count]
        rows = evaluation_rows([results[name] for name in names])
        block = table(["", *names], [[label, *cells] for label, cells, _ in rows])
        if count == 1 or max(map(len, block.splitlines())) <= WIDTH:
            break
    rest = {name: result for name, result in results.items() if name not in names}
    return f"{block}\n\n{evaluation_table(rest)}" if rest else block


def _difference(value: float | list[float] | str | None, digits: int) -> str:
    if isinstance(value, list):
        return f"{value[0]:+.{digits}f} to {value[1]:+.{digits}f}"
    return _cell(value, digits) if value is None or not digits else f"{value:+.{digits}f}"


def _cell(value: float | list[float] | str | None, digits: int) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "-".join(f"{v:.{digits}f}" for v in value)
    return "-" if value is None or value != value else f"{value:.{digits}f}"
