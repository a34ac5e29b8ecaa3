"""Charts as SVG text: numbers in, one figure out, no library. The script only adds a cursor that reads the values.

A long series is thinned to the least and the greatest value of each stretch, so that no spike is lost.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 360, 170
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 24  # margins of the plot in the figure, in pixels
STRETCHES = 150  # of a series that is drawn, two values each
COLOURS = 8  # of series, as CSS classes s0 to s7

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """A line of a chart."""

    name: str
    points: Points
    """(x, y), x ascending; those that are not finite are left out. Empty: the band alone is drawn, as far as it lies
    near the lines."""
    style: str = "s0"
    band: list[tuple[float, float, float]] = field(default_factory=list)
    """(x, low, high) of the area behind it."""
    dots: bool = False
    right: bool = False
    """On the right axis, which goes from 0 to 1."""


def thinned(points: Points, stretches: int = STRETCHES) -> Points:
    """The first, the last, and the least and greatest value of each of so many stretches, in their order."""
    if len(points) <= 2 * stretches:
        return points
    kept = {0, len(points) - 1}
    for k in range(stretches):
        stretch = range(k * len(points) // stretches, (k + 1) * len(points) // stretches)
        kept |= {min(stretch, key=lambda i: points[i][1]), max(stretch, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]


def finite(points: Points) -> Points:
    """Those that can be drawn."""
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and abs(y) < 1e100]


class Scale:
    """From values to pixels along one axis, with round ticks."""

    def __init__(self, low: float, high: float, start: float, end: float, whole: bool = False):
        if high <= low:
            pad = abs(low) * 0.1 or 1.0
            low, high = low - pad, high + pad
        step = _round_step((high - low) / 4)
        self.step = max(1.0, step) if whole else step
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside the axis."""
        first = math.ceil(self.low / self.step - 1e-9)
        last = math.floor(self.high / self.step + 1e-9)
        return [i * self.step for i in range(first, last + 1)][:12]


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 1e-300 else 1e-300
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def line_chart(title: str, series: list[Series], unit: str = "", x_name: str = "step") -> str:
    """Lines over steps as an <svg> element; "" where there is nothing finite to draw."""
    series = [Series(s.name, finite(s.points), s.style, s.band, s.dots, s.right) for s in series]
    areas, series = [s for s in series if s.band and not s.points], [s for s in series if s.points]
    if not series:
        return ""
    xs = [x for s in series for x, _ in s.points] + [x for s in areas for x, _, _ in s.band]
    ys = [y for s in series if not s.right for _, y in s.points]
    ys += [y for s in series for _, low, high in s.band for y in (low, high)]
    ys += _near(areas, ys)
    both = any(s.right for s in series)
    across = Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT - 18 * both, whole=True)
    up = Scale(*((min(ys), max(ys)) if ys else (0.0, 1.0)), HEIGHT - BOTTOM, TOP)
    right = Scale(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    parts = [_axes(across, up, right if both else None, x_name)]
    for s in areas + series:
        axis = right if s.right else up
        if s.band:
            edge = [(x, high) for x, _, high in s.band] + [(x, low) for x, low, _ in reversed(s.band)]
            edge = [(x, min(axis.high, max(axis.low, y))) for x, y in edge]
            parts.append(f'<polygon class="band {s.style}" points="{_path(edge, across, axis)}"/>')
        if not s.points:
            continue
        shown = thinned(s.points)
        if len(shown) > 1 and not s.dots:
            parts.append(f'<polyline class="line {s.style}" points="{_path(shown, across, axis)}"/>')
        else:
            parts += [
                f'<circle class="dot {s.style}" cx="{across(x):.1f}" cy="{axis(y):.1f}" r="3.5"/>' for x, y in shown
            ]
    return _svg(title, "".join(parts), across, [(s.name, thinned(s.points)) for s in series], x_name, unit)


def _near(areas: list[Series], ys: list[float]) -> list[float]:
    """The edges of bands, as far as they leave the lines most of the figure's height. ys: the lines' values."""
    if not ys or not areas:
        return []
    room = (max(ys) - min(ys)) or abs(ys[0]) * 0.1 or 1.0
    edges = [y for s in areas for _, low, high in s.band for y in (low, high)]
    return [max(min(edges), min(ys) - room), min(max(edges), max(ys) + room)]


def stacked_chart(title: str, layers: list[Series], line: Series | None) -> str:
    """Layers on top of each other, negative ones below 0, and a thick line on an axis of its own from 0 to 1."""
    layers = [Series(s.name, thinned(finite(s.points)), s.style) for s in layers if finite(s.points)]
    xs = sorted({x for s in layers for x, _ in s.points})
    if not xs:
        return ""
    values = [dict(s.points) for s in layers]
    tops, bottoms = dict.fromkeys(xs, 0.0), dict.fromkeys(xs, 0.0)
    areas = []
    for some in values:
        low, high = [], []
        for x in xs:
            y = some.get(x, 0.0)
            side = tops if y >= 0 else bottoms
            low.append((x, side[x]))
            side[x] += y
            high.append((x, side[x]))
        areas.append(high + low[::-1])
    across = Scale(xs[0], xs[-1], LEFT, WIDTH - RIGHT - 18, whole=True)
    up = Scale(min(0.0, *bottoms.values()), max(1e-9, *tops.values()), HEIGHT - BOTTOM, TOP)
    right = Scale(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    parts = [_axes(across, up, right if line else None)]
    for s, area in zip(layers, areas, strict=True):
        parts.append(f'<polygon class="layer {s.style}" points="{_path(area, across, up)}"/>')
    shown = [(s.name, s.points) for s in layers]
    if line and (points := thinned(finite(line.points))):
        parts.append(f'<polyline class="halo" points="{_path(points, across, right)}"/>')
        parts.append(f'<polyline class="thick" points="{_path(points, across, right)}"/>')
        shown.append((line.name, points))
    return _svg(title, "".join(parts), across, shown, "step", "")


def dot_chart(title: str, rows: list[tuple[str, list[tuple[float, float, float, str]]]]) -> str:
    """A row per name, with a dot and its whiskers for each (value, low, high, style); the axis goes from 0 to 1."""
    if not rows:
        return ""
    longest = max(len(name) for name, _ in rows)
    left, row_height = min(260, 16 + 7.4 * min(longest, 33)), 30
    height = TOP + row_height * len(rows) + BOTTOM
    across = Scale(0.0, 1.0, left, 560 - RIGHT)
    parts = []
    for x in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(
            f'<line class="rule" x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        )
        parts.append(f'<text x="{across(x):.1f}" y="{height - 8}" text-anchor="middle">{x:g}</text>')
    for i, (name, dots) in enumerate(rows):
        middle = TOP + row_height * (i + 0.5)
        shown = name if len(name) <= 33 else "..." + name[-30:]
        parts.append(f'<text x="{left - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(shown)}</text>')
        for k, (value, low, high, style) in enumerate(dots):
            y = middle + (k - (len(dots) - 1) / 2) * 11
            if math.isfinite(low) and math.isfinite(high):
                parts.append(
                    f'<line class="whisker {style}" x1="{across(low):.1f}" x2="{across(high):.1f}" y1="{y}" y2="{y}"/>'
                )
            parts.append(f'<circle class="{style}" cx="{across(value):.1f}" cy="{y}" r="4.5"/>')
    return (
        f'<svg class="dots" viewBox="0 0 560 {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _axes(across: Scale, up: Scale, right: Scale | None, x_name: str = "step") -> str:
    parts = [f'<text x="4" y="{HEIGHT - 7}">{escape(x_name)}</text>']
    for y in up.ticks():
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{across.end}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{up(y) + 3.5:.1f}" text-anchor="end">{number(y)}</text>')
    for x in across.ticks():
        parts.append(f'<text x="{across(x):.1f}" y="{HEIGHT - 7}" text-anchor="middle">{number(x)}</text>')
    for y in (0.0, 0.5, 1.0) if right else ():
        parts.append(f'<text x="{across.end + 4}" y="{right(y) + 3.5:.1f}">{y:g}</text>')
    return "".join(parts)


def _path(points: Points, across: Scale, up: Scale) -> str:
    return " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)


def _svg(title: str, body: str, across: Scale, shown: list[tuple[str, Points]], x_name: str, unit: str) -> str:
    """The figure; its values go along for the cursor."""
    values = [[name, [[_short(x), _short(y)] for x, y in points]] for name, points in shown]
    facts = {"x": [across.low, across.high, across.start, across.end], "name": x_name, "unit": unit, "series": values}
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" '
        f'data-chart="{escape(json.dumps(facts, separators=(",", ":")))}">{body}</svg>'
    )


def _short(value: float) -> float | int:
    value = float(f"{value:.5g}")
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def number(value: float) -> str:
    """A number as a person would write it on an axis."""
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value + 0.0:.3g}"  # + 0.0: no "-0"
