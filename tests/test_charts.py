"""Line charts as SVG text."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo.report.charts import chart, number

EXPERIMENTS = Path(__file__).parent.parent / "experiments" / "demo"


def labels(svg: ET.Element) -> list[str]:
    return [text.text for text in svg.findall("text")]


def test_the_axes_say_the_lowest_and_the_highest_value_and_the_first_and_last_step():
    svg = ET.fromstring(chart("x", [(1, 0.25), (2, -1.0), (3, 1234.5)]))
    assert labels(svg) == ["-1", "1,234", "1", "3"]


def test_a_level_line_runs_through_the_middle():
    svg = ET.fromstring(chart("x", [(1, 0.5), (2, 0.5)]))
    ys = {float(point.split(",")[1]) for point in svg.find("polyline").get("points").split()}
    assert len(ys) == 1 and 40 < ys.pop() < 80 and labels(svg) == ["0.5", "1", "2"]


@given(st.lists(st.floats(-1e99, 1e99) | st.sampled_from([math.nan, math.inf]), min_size=1, max_size=9))
def test_whatever_the_values_the_curve_stays_inside_the_figure(values):
    text = chart("x", [(float(x), y) for x, y in enumerate(values)])
    for piece in ET.fromstring(text).findall("polyline") if text else ():
        for point in piece.get("points").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 320 and 0 <= y <= 132


def test_points_lie_where_the_values_say():
    svg = ET.fromstring(chart("x", [(1, 0.0), (2, 1.0), (3, 0.5)]))
    points = svg.find(".//polyline").get("points").split()
    (x1, y1), (x2, y2), (x3, y3) = ([float(v) for v in p.split(",")] for p in points)
    assert x1 < x2 < x3 and x2 - x1 == pytest.approx(x3 - x2)
    assert y2 < y3 < y1 and y3 == pytest.approx((y1 + y2) / 2)  # SVG's y grows downwards


def test_a_curve_stays_inside_its_figure_and_is_named():
    svg = ET.fromstring(chart("a<b", [(float(x), (x - 3.0) ** 3) for x in range(8)]))
    _, _, width, height = map(int, svg.get("viewBox").split())
    for point in svg.find("polyline").get("points").split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= width and 0 <= y <= height
    assert svg.find("title").text == "a<b"


def test_a_single_point_is_shown_and_nothing_is_no_figure():
    (start, end) = ET.fromstring(chart("x", [(1.0, 2.0)])).find("polyline").get("points").split()
    assert start == end  # a line without length has round ends: a dot; a line of one point would not be drawn
    assert chart("x", [(1.0, math.nan), (2.0, math.inf)]) == chart("x", []) == ""


def test_of_a_long_curve_every_nth_point_is_drawn():
    svg = ET.fromstring(chart("x", [(float(i), float(i)) for i in range(1000)]))
    assert len(svg.find("polyline").get("points").split()) == 200
    assert labels(svg) == ["4", "999", "4", "999"]  # the last one is there


def test_numbers_as_a_person_writes_them():
    values = (0.30000000000000004, 12345.6, 1e-7, 0.0, 2e9, math.nan, -0.5, -0.0)
    assert [number(v) for v in values] == ["0.3", "12,346", "1e-07", "0", "2e+09", "-", "-0.5", "0"]
