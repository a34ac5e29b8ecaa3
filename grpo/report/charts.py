"""Line charts as SVG text: numbers in, one small figure out, no library, no script."""

from __future__ import annotations

import math
from html import escape

WIDTH, HEIGHT = 320, 132
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 8, 22  # margins of the plot in the figure, in pixels
MOST_POINTS = 200  # of a longer run every n-th point is drawn, the last for one


def chart(name: str, points: list[tuple[float, float]]) -> str:
    """The points (x, y), x ascending, as an <svg> element; those that are not finite are left out, "" if all are."""
    points = [(x, y) for x, y in points if math.isfinite(y) and abs(y) < 1e100]
    if not points:
        return ""
    points = points[:: -math.ceil(len(points) / MOST_POINTS)][::-1] if len(points) > 1 else points * 2  # a dot
    first, last = points[0][0], points[-1][0]
    low, high = min(y for _, y in points), max(y for _, y in points)

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
    parts.append(f'<polyline points="{" ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)}"/></svg>')
    return "".join(parts)


def number(value: float) -> str:
    """A number as a person would write it on an axis."""
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value + 0.0:.3g}"  # + 0.0: no "-0"
