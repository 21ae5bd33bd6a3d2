"""Charts: ticks, thinning, gaps, and SVG that a parser accepts whatever the numbers are."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from dougong.ui.report.charts import two_digits
from dougong.ui.report.line_chart import Chart, Mark, Series, draw, legend, thin, ticks
from hypothesis import example, given
from hypothesis import strategies as st

PLACES = re.compile(r"[ML](-?[\d.]+) (-?[\d.]+)")


def say(value: float) -> str:
    return f"{value:.3g}"


def chart(points: list[tuple[float, float]], **more: object) -> Chart:
    return Chart("Loss", [Series("training", points, "train")], say, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [(0, 10, 6, [0, 2, 4, 6, 8, 10]), (1.9, 5.5, 6, [2, 3, 4, 5]), (0, 0.003, 6, [0, 0.001, 0.002, 0.003]),
     (3, 3, 6, [3]), (-1, 1, 5, [-1, -0.5, 0, 0.5, 1])],
)  # fmt: skip
def test_ticks(low: float, high: float, most: int, expected: list[float]) -> None:
    assert ticks(low, high, most) == pytest.approx(expected)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(3, 12))
def test_ticks_are_few_and_inside(low: float, span: float, most: int) -> None:
    found = ticks(low, low + span, most)
    assert len(found) <= most + 1
    assert all(low - span * 1e-6 - 1e-6 <= t <= low + span * (1 + 1e-6) + 1e-6 for t in found)


def test_thinning_keeps_every_spike() -> None:
    points = [(float(i), 0.0) for i in range(100_000)]
    points[12_345], points[77_777] = (12_345.0, 9.0), (77_777.0, -9.0)
    kept = thin(points, 1200)
    assert len(kept) <= 1200
    assert kept == sorted(kept)
    assert {(12_345.0, 9.0), (77_777.0, -9.0)} <= set(kept)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_number_is_a_gap(broken: float) -> None:
    svg = draw(chart([(1, 1.0), (2, broken), (3, 2.0), (4, 3.0)]))
    (line,) = re.findall(r'd="([^"]*)" class="line train"', svg)
    assert [word[0] for word in re.findall(r"[ML][^ML]*", line)] == ["M", "M", "L"]


def test_nothing_to_draw_says_so() -> None:
    assert "no numbers yet" in draw(chart([]))
    assert "not a finite number: step 1" in draw(chart([(1.0, math.nan)]))


def test_numbers_that_are_not_finite_are_red_bands_and_gaps_are_not() -> None:
    points = [(1.0, 2.0), (2.0, 1.0), (3.0, math.nan), (4.0, math.inf), (5.0, 1.0)]
    svg = draw(Chart("Loss", [Series("training", points, "train")], say))
    assert svg.count('class="broken"') == 2  # the band and its word
    assert "<title>not a finite number: steps 3-4</title>" in svg
    assert 'class="broken"' not in draw(Chart("Loss", [Series("rewound", points, "rewound", has_gaps=True)], say))


def test_a_point_that_stands_alone_is_drawn() -> None:
    alone = draw(chart([(1, 2.0), (2, math.nan), (3, 1.0), (4, 1.5)]))
    assert alone.count("<circle") == 1
    assert draw(chart([(1, 2.0)])).count("<circle") == 1


def test_labels_of_the_value_axis_differ() -> None:
    svg = draw(Chart("Loss", [Series("training", [(1, 5.548), (2, 5.556)], "train")], two_digits))
    labels = re.findall(r'class="tick end">([^<]*)<', svg)
    assert len(labels) > 2 and len(set(labels)) == len(labels)


def test_marks_and_hovering_tell_steps_and_values() -> None:
    svg = draw(chart([(1, 1.5), (2, 2.5)], marks=[Mark(1.5, "east/1", "east/1: <killed>")]))
    assert "<title>east/1: &lt;killed&gt;</title>" in svg
    assert "<title>step 2\ntraining 2.5</title>" in svg


def test_labels_of_close_marks_do_not_lie_on_each_other() -> None:
    points = [(float(step), 1.0) for step in range(1, 101)]
    marks = [Mark(step, f"east/{step}", f"fault at {step}") for step in (20, 21, 22, 60, 97, 98)]
    svg = draw(chart(points, marks=marks))
    assert re.findall(r'class="mark[^"]*">(east[^<]*)<', svg) == ["east/20", "east/60", "east/97"]
    assert svg.count("<title>fault at ") == len(marks)


def test_legend_is_for_more_than_one_series() -> None:
    one = chart([(1, 1.0)])
    assert legend(one) == ""
    two = Chart("Loss", [*one.series, Series("validation", [(1, 2.0)], "validation")], say)
    assert re.sub("<[^>]*>", " ", legend(two)).split() == ["training", "validation"]


numbers = st.floats(-1e12, 1e12) | st.sampled_from([math.nan, math.inf, 0.0, 1e-300])


@given(st.lists(numbers, max_size=40), st.booleans(), st.none() | st.just(0.0))
@example([0.0, 6.189797381747963e-13], False, None)
def test_every_chart_is_well_formed_and_inside_its_frame(values: list[float], dots: bool, floor: float | None) -> None:
    points = [(float(i + 1), v) for i, v in enumerate(values)]
    shown = Chart("x", [Series("a", points, "train", dots)], say, [Mark(2.5, "m", "t")], floor=floor)
    svg = draw(shown)
    ElementTree.fromstring(svg)
    for x, y in PLACES.findall(svg):
        assert -1 <= float(x) <= shown.width + 1
        assert -1 <= float(y) <= shown.height + 1
