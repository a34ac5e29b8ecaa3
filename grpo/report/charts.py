"""Line charts as SVG text: numbers in, one small figure out, no library, no script."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 320, 132
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 8, 20  # margins of the plot in the figure, in pixels
MOST_POINTS = 200  # more than that are averaged: the figure has no more pixels to show them

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One curve."""

    name: str
    points: list[Point]
    """(x, y), x ascending; a y that is not finite leaves a gap."""
    whiskers: tuple[tuple[float, float, float], ...] = ()
    """(x, low, high) intervals, drawn as vertical bars."""


def chart(lines: list[Line], x_names: list[str] | None = None, width: int = WIDTH, height: int = HEIGHT) -> str:
    """Curves over a common x axis as an <svg> element; "" if there is no finite value to show.

    x_names: what stands below x = 0, 1, 2, ...; without it the first and last x are written as numbers.
    """
    lines = [Line(line.name, thin(line.points), line.whiskers) for line in lines]
    ys = [y for line in lines for _, y in line.points if _drawable(y)]
    if not ys:
        return ""
    ys += [y for line in lines for _, low, high in line.whiskers for y in (low, high)]
    xs = [x for line in lines for x, _ in line.points]
    ticks = nice_ticks(min(ys), max(ys))
    across = _scale(min(xs), max(xs), LEFT + (24 if x_names else 0), width - RIGHT - (24 if x_names else 0))
    up = _scale(ticks[0], ticks[-1], height - BOTTOM, TOP)

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(", ".join(x.name for x in lines))}">']
    for y in ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{up(y) + 3.5:.1f}" text-anchor="end">{number(y)}</text>')
    for x, text, anchor in _x_labels(xs, x_names):
        parts.append(f'<text x="{across(x):.1f}" y="{height - 5}" text-anchor="{anchor}">{escape(text)}</text>')
    for i, line in enumerate(lines):
        parts.append(f'<g class="line{i % 6}"><title>{escape(line.name)}</title>')
        for x, low, high in line.whiskers:
            parts.append(f'<line x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{up(low):.1f}" y2="{up(high):.1f}"/>')
        for piece in _unbroken(line.points):
            path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in piece)
            parts.append(f'<polyline points="{path}"/>')
            if len(piece) == 1 or x_names:
                parts += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="2.5"/>' for x, y in piece]
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


def thin(points: list[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points: the means of equal runs of neighbours, over their finite values."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return points
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    means = []
    for run in runs:
        ys = [y for _, y in run if _drawable(y)]
        means.append((sum(x for x, _ in run) / len(run), sum(ys) / len(ys) if ys else math.nan))
    return means


def nice_ticks(low: float, high: float) -> list[float]:
    """2 to 6 round numbers that enclose [low, high]; from 0 where that costs little room."""
    if 0 <= low < high / 2:
        low = 0.0
    if max(abs(low), abs(high)) < 1e-100:
        low, high = 0.0, 1.0
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - abs(low) / 2, high + abs(high) / 2  # a level line runs through the middle
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [i * step for i in range(first, last + 1)]


def number(value: float) -> str:
    """A number as a person would write it on an axis."""
    if not math.isfinite(value):
        return "-"
    if abs(value) >= 1e6:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value + 0.0:.3g}"  # + 0.0: no "-0"


def _drawable(y: float) -> bool:
    return math.isfinite(y) and abs(y) < 1e100


def _scale(low: float, high: float, start: float, end: float):
    """The linear map of [low, high] to [start, end]; a single value goes to the middle."""
    if high == low:
        return lambda _: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _x_labels(xs: list[float], names: list[str] | None) -> list[tuple[float, str, str]]:
    if names:
        return [(i, name, "middle") for i, name in enumerate(names)]
    first, last = min(xs), max(xs)
    return (
        [(first, number(first), "start"), (last, number(last), "end")]
        if last > first
        else [(first, number(first), "middle")]
    )


def _unbroken(points: list[Point]) -> list[list[Point]]:
    """The pieces between gaps."""
    pieces: list[list[Point]] = [[]]
    for x, y in points:
        if _drawable(y):
            pieces[-1].append((x, y))
        elif pieces[-1]:
            pieces.append([])
    return [p for p in pieces if p]
