"""Charts as SVG text: curves lie where the values say, and inside their figure."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo.report.charts import HEIGHT, WIDTH, Series, dot_chart, line_chart, number, stacked_chart


def drawn(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points of the only curve of a chart, in pixels."""
    line = ET.fromstring(line_chart("x", [Series("run", points)])).find("polyline")
    return [tuple(map(float, point.split(","))) for point in line.get("points").split()]


def test_points_lie_where_the_values_say():
    (x1, y1), (x2, y2), (x3, y3) = drawn([(1, 0.0), (2, 1.0), (3, 0.5)])
    assert x1 < x2 < x3 and x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y2 < y3 < y1 and y3 == pytest.approx((y1 + y2) / 2, abs=0.2)  # SVG's y grows downwards


def test_a_level_line_runs_through_the_middle():
    ys = {y for _, y in drawn([(1, 0.5), (2, 0.5)])}
    assert len(ys) == 1 and HEIGHT * 0.3 < ys.pop() < HEIGHT * 0.7


@given(st.lists(st.floats(-1e99, 1e99) | st.sampled_from([math.nan, math.inf]), min_size=1, max_size=9))
def test_whatever_the_values_the_curve_stays_inside_the_figure(values):
    text = line_chart("x", [Series("run", [(float(x), y) for x, y in enumerate(values)])])
    assert bool(text) == any(math.isfinite(v) for v in values)
    svg = ET.fromstring(text) if text else ET.Element("svg")
    points = [p for line in svg.findall("polyline") for p in line.get("points").split()]
    points += [f"{dot.get('cx')},{dot.get('cy')}" for dot in svg.findall("circle")]
    for x, y in (map(float, point.split(",")) for point in points):
        assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT


def test_a_single_point_is_a_dot_and_nothing_is_no_figure():
    assert ET.fromstring(line_chart("x", [Series("run", [(1.0, 2.0)])])).find("circle") is not None
    assert line_chart("x", [Series("run", [(1.0, math.nan), (2.0, math.inf)])]) == line_chart("x", []) == ""
    assert stacked_chart("x", [], None) == dot_chart("x", []) == ""


def test_layers_add_up_to_the_total():
    """The upper edge of the second layer lies at the sum of both."""
    layers = [Series("a", [(1, 1.0), (2, 1.0)]), Series("b", [(1, 1.0), (2, 3.0)], "s1")]
    svg = ET.fromstring(stacked_chart("x", layers, None))
    areas = [area.get("points").split() for area in svg.findall("polygon")]
    first, second = ([tuple(map(float, point.split(","))) for point in area] for area in areas)
    bottom, one, two, four = first[-1][1], first[0][1], second[0][1], second[1][1]
    assert bottom - two == pytest.approx(2 * (bottom - one), abs=0.3)
    assert bottom - four == pytest.approx(4 * (bottom - one), abs=0.3)


def test_names_are_escaped():
    assert "<script>" not in line_chart("<script>", [Series("<script>", [(1.0, 2.0), (2.0, 3.0)])])


def test_numbers_as_a_person_writes_them():
    values = (0.30000000000000004, 12345.6, 1e-7, 0.0, 2e9, math.nan, -0.5, -0.0)
    assert [number(v) for v in values] == ["0.3", "12,346", "1e-07", "0", "2e+09", "-", "-0.5", "0"]
