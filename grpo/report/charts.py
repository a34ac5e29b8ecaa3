"""Line charts as SVG text: numbers in, one small figure out, no library, no script."""

from __future__ import annotations

import math
from html import escape

WIDTH, HEIGHT = 320, 132
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 8, 20  # margins of the plot in the figure, in pixels
MOST_POINTS = 200  # more than that are averaged: the figure has no more pixels to show them

Point = tuple[float, float]


def chart(name: str, points: list[Point]) -> str:
    """A curve as an <svg> element; "" if there is no finite value to show. points: (x, y), x ascending.

    A y that is not finite leaves a gap.
    """
    points = thin(points)
    pieces = _unbroken(points)
    if not pieces:
        return ""
    ys, first, last = [y for piece in pieces for _, y in piece], points[0][0], points[-1][0]
    ticks = nice_ticks(min(ys), max(ys))

    def across(x: float) -> float:
        return LEFT + (x - first) / ((last - first) or 1.0) * (WIDTH - RIGHT - LEFT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (y - ticks[0]) / (ticks[-1] - ticks[0]) * (HEIGHT - BOTTOM - TOP)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(name)}</title>']
    for y in ticks:
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{up(y) + 3.5:.1f}" text-anchor="end">{number(y)}</text>')
    for x, anchor in ((first, "start"), (last, "end")) if last > first else ((first, "start"),):
        parts.append(f'<text x="{across(x):.1f}" y="{HEIGHT - 5}" text-anchor="{anchor}">{number(x)}</text>')
    for piece in pieces:
        parts.append(f'<polyline points="{" ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in piece)}"/>')
        if len(piece) == 1:
            parts.append(f'<circle cx="{across(piece[0][0]):.1f}" cy="{up(piece[0][1]):.1f}" r="2.5"/>')
    return "".join([*parts, "</svg>"])


def thin(points: list[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points: the means of equal runs of neighbours, over their finite values."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return points
    means = []
    for run in (points[i : i + size] for i in range(0, len(points), size)):
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


def _unbroken(points: list[Point]) -> list[list[Point]]:
    """The pieces between gaps."""
    pieces: list[list[Point]] = [[]]
    for x, y in points:
        if _drawable(y):
            pieces[-1].append((x, y))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]
