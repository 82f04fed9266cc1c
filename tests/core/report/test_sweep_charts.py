"""Charts of a sweep: marks lie where their data are, open their runs, and thinning keeps the outline."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from raytrain_xai.report.curves import colour_of
from raytrain_xai.report.marks import Mark, thinned
from raytrain_xai.report.parallel_chart import Line, parallel_chart
from raytrain_xai.report.scales import scale_of
from raytrain_xai.report.sweep_charts import Curve, Front, curve_chart, plane_chart
from raytrain_xai.sweeps.repeats import stat_of

HOSTILE = '<script>alert(1)</script>"&'


def line_points(svg: str, colour: str) -> list[tuple[float, float]]:
    """Vertices of the line that matplotlib drew in a colour."""
    path = re.search(rf'<path d="([^"]*)"[^>]*style="fill: none; stroke: {colour}', svg)
    assert path is not None
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", path[1])]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def circles(svg: str) -> list[tuple[float, float]]:
    return [(float(n.attrib["cx"]), float(n.attrib["cy"])) for n in ElementTree.fromstring(svg).iter("circle")]


def test_marks_lie_on_the_line_through_the_same_data() -> None:
    """Marks are placed by us, the line by matplotlib: both must agree on where (60, 30) is."""
    places = [(60.0, 30.0), (64.0, 20.0), (61.0, 25.0)]
    marks = [Mark(x, y, 0, "") for x, y in places]
    svg = plane_chart("plane", [Front(0, [60, 64, 61], [30, 20, 25])], marks, ("F1", "EPG"))
    drawn = line_points(svg, colour_of(0))
    assert [x for x, _ in drawn] == sorted(x for x, _ in drawn)  # joined by F1
    for (x, y), expected in zip(sorted(circles(svg)), sorted(drawn), strict=True):
        assert x == pytest.approx(expected[0], abs=0.06)
        assert y == pytest.approx(expected[1], abs=0.06)


def test_marks_are_links_with_texts_and_escape_them() -> None:
    marks = [
        Mark(1, 1, 2, HOSTILE, href='trials/a/report.html?"<'),
        Mark(2, 2, None, "unguided", shape="diamond"),
        Mark(3, 1, 0, "x", faint=True),
    ]
    svg = plane_chart(HOSTILE, [], marks, ("F1", "EPG"))
    root = ElementTree.fromstring(svg)
    assert "<script" not in svg
    [link] = root.iter("a")
    assert link.attrib["href"] == 'trials/a/report.html?"<'
    assert HOSTILE in [title.text for title in root.iter("title")]
    assert [circle.attrib.get("fill-opacity") for circle in root.iter("circle")] == ["0.38", None]  # faint ones below
    assert len(re.findall(r'<path [^>]*fill="currentColor"', svg)) == 1
    assert root.attrib["role"] == "group"  # what is inside an image cannot be reached


def test_bands_are_intervals_of_student_and_do_not_stretch_the_chart() -> None:
    """Two seeds at 10 and 12: 11 ± 12.71 x 1.414 / 1.414, which is wider than everything else."""
    scale = scale_of("guidance.annotated_fraction", [0.1, 1])
    curve = Curve(1, scale.place([0.1, 1]).tolist(), [stat_of([10, 12]), stat_of([20, 22])])
    single = Curve(1, curve.x, [stat_of([11]), stat_of([21])])
    assert stat_of([10, 12]).interval == pytest.approx((11 - 12.7062, 11 + 12.7062))
    marks = [Mark(float(scale.place([0.1])[0]), 10, 1, "")]
    with_band, without = (curve_chart("EPG", scale, [own], marks, "EPG") for own in (curve, single))
    assert len(re.findall(r"fill-opacity: 0.14", with_band)) == 1
    assert "fill-opacity" not in without
    assert line_points(with_band, colour_of(1)) == line_points(without, colour_of(1))
    assert {"10 %", "100 %"} <= {node.text for node in ElementTree.fromstring(with_band).iter("text")}


def test_the_level_is_a_dashed_line_at_its_mean() -> None:
    scale = scale_of("k", [0, 1])
    svg = curve_chart("EPG", scale, [Curve(0, [0, 1], [stat_of([5]), stat_of([5])])], [], "EPG", stat_of([5]))
    dashed = re.search(r'<path d="M [\d.]+ ([\d.]+)[^"]*"[^>]*stroke-dasharray', svg)
    assert dashed is not None
    assert float(dashed[1]) == pytest.approx(line_points(svg, colour_of(0))[0][1], abs=1e-3)


def test_names_are_not_joined() -> None:
    scale = scale_of("strategy", ["random", "k_centre"])
    curve = Curve(0, [0, 1], [stat_of([1, 2, 3]), stat_of([2, 3, 4])])
    svg = curve_chart("EPG", scale, [curve], [], "EPG")
    lines = re.findall(rf'<path d="([^"]*)"[^>]*style="fill: none; stroke: {colour_of(0)}', svg)
    assert lines and all(len(set(re.findall(r"[ML] ([\d.]+)", line))) == 1 for line in lines)  # vertical: intervals


def test_parallel_lines_go_through_their_values() -> None:
    """Three axes; on each the lowest label or value is at the bottom and the highest at the top."""
    scales = [scale_of("guidance.weight", [0.01, 1]), scale_of("guidance.loss", ["energy", "l1"]), scale_of("epg", [1])]
    lines = [
        Line([-2, 0, 10], 0, "a", "trials/a/report.html"),
        Line([0, 1, 30], 1, HOSTILE, faint=True),
        Line([-1, 1, 20], None, "c"),
    ]
    svg = parallel_chart("all", scales, lines)
    root = ElementTree.fromstring(svg)
    shown = list(root.iter("polyline"))
    assert [line.attrib["class"] for line in shown] == ["trial faint", "trial full", "trial full"]
    corners = [[tuple(map(float, p.split(","))) for p in line.attrib["points"].split()] for line in shown]
    high, low, middle = corners
    for axis in range(3):
        assert high[axis][0] == low[axis][0]
        assert high[axis][1] < low[axis][1]  # y grows downwards
    assert middle[0][1] == pytest.approx((high[0][1] + low[0][1]) / 2, abs=0.11)
    assert middle[2][1] == pytest.approx((high[2][1] + low[2][1]) / 2, abs=0.11)
    assert shown[2].attrib["stroke"] == "currentColor"
    assert "<script" not in svg
    assert [a.attrib["href"] for a in root.iter("a")] == ["trials/a/report.html"]


def test_thinning_keeps_what_must_stay_and_the_outline() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 20_000))
    keep = np.zeros(20_000, dtype=np.bool_)
    keep[::1000] = True
    drawn = thinned(x, y, keep, 1500)
    assert drawn[keep].all()
    assert 700 < drawn.sum() <= 1500
    cell = max(np.ptp(x), np.ptp(y)) / 20
    left_out = np.flatnonzero(~drawn)[::50]
    nearest = [np.hypot(x[drawn] - x[i], y[drawn] - y[i]).min() for i in left_out]
    assert max(nearest) < cell  # each lies beside one that is drawn


def test_few_points_and_equal_points() -> None:
    few = np.arange(10, dtype=np.float64)
    assert thinned(few, few, np.zeros(10, dtype=np.bool_), 10).all()
    same = np.ones(50)
    assert thinned(same, same, np.zeros(50, dtype=np.bool_), 10).sum() == 1
    assert thinned(same, same, np.ones(50, dtype=np.bool_), 10).all()  # more than the limit, but all must stay
