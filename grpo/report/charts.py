"""Line charts as SVG text: numbers in, one small figure out, no library, no script."""

from __future__ import annotations

import math
from html import escape

WIDTH, HEIGHT = 320, 132
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 8, 22  # margins of the plot in the figure, in pixels
MOST_POINTS = 200  # more than that are averaged: the figure has no more pixels to show them

Point = tuple[float, float]


def chart(name: str, points: list[Point]) -> str:
    """A curve as an <svg> element between its lowest and its highest value; "" if there is no finite value to show.

    points: (x, y), x ascending; a y that is not finite leaves a gap.
    """
    points = thin(points)
    pieces = _unbroken(points)
    if not pieces:
        return ""
    ys = [y for piece in pieces for _, y in piece]
    (first, last), (low, high) = (points[0][0], points[-1][0]), (min(ys), max(ys))

    def across(x: float) -> float:
        return LEFT + (x - first) / ((last - first) or 1.0) * (WIDTH - RIGHT - LEFT)

    def up(y: float) -> float:
        share = (y - low) / (high - low) if high > low else 0.5
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(name)}</title>']
    for y in sorted({low, high}):
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{up(y) + 3.5:.1f}" text-anchor="end">{number(y)}</text>')
    for x, anchor in ((first, "start"), (last, "end"))[: 1 + (last > first)]:
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
