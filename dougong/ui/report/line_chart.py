"""Line charts as inline SVG whose colours are the page's own, so that they follow light, dark and
print. Pure.

Numbers that are not finite leave a gap. Long runs are drawn as the lowest and highest value of each
bucket of steps, so that no spike is lost. Hovering over a step shows its numbers, by the browser
alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dougong.ui.report.markup import Markup, join, tag

Point = tuple[float, float]
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 14.0, 12.0, 26.0
_MOST_POINTS = 1200
_MOST_HITS = 240


@dataclass(frozen=True)
class Series:
    """One line. `look` is a CSS class of the page (`train`, `validation`, `rewound`,
    `second`...)."""

    name: str
    points: Sequence[Point]
    look: str
    dots: bool = False


@dataclass(frozen=True)
class Mark:
    """A vertical line at a step, with a short label at its head and a longer text for hovering."""

    x: float
    label: str
    text: str


@dataclass(frozen=True)
class Chart:
    """What to draw. `say` puts a value in words; `floor` is a value that the vertical axis must
    reach down to."""

    title: str
    series: Sequence[Series]
    say: Callable[[float], str]
    marks: Sequence[Mark] = ()
    width: float = 520.0
    height: float = 190.0
    floor: float | None = None


@dataclass(frozen=True)
class _Frame:
    """From values to places on the drawing."""

    chart: Chart
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (
            self.chart.width - _LEFT - _RIGHT
        )

    def y(self, value: float) -> float:
        top = self.top
        return top + (self.y_high - value) / (self.y_high - self.y_low) * (
            self.chart.height - top - _BOTTOM
        )

    @property
    def top(self) -> float:
        return _TOP + (16.0 if self.chart.marks else 0.0)


def draw(chart: Chart) -> Markup:
    """The chart as one `<svg>`; a chart without a finite number says so."""
    finite = [p for s in chart.series for p in s.points if math.isfinite(p[1])]
    shape = f"0 0 {chart.width:g} {chart.height:g}"
    if not finite:
        words = tag("text", "no numbers yet", x=chart.width / 2, y=chart.height / 2, class_="none")
        return tag("svg", words, viewBox=shape, role="img", aria_label=chart.title)
    frame = _frame(chart, finite)
    parts = [
        _grid(frame),
        *(_mark(frame, m) for m in chart.marks),
        *(_line(frame, s) for s in chart.series),
    ]
    return tag("svg", *parts, _hits(frame), viewBox=shape, role="img", aria_label=chart.title)


def card(chart: Chart, unit: str) -> Markup:
    """The chart in a box of the page, under its title, unit and legend."""
    title = tag("h3", chart.title, " ", tag("span", unit, class_="unit"))
    return tag(
        "div",
        tag("div", title, legend(chart), class_="charthead"),
        draw(chart),
        class_="card chart",
    )


def legend(chart: Chart) -> Markup:
    """The names of the series, each with a stroke of its look; nothing for a single one."""
    named = [s for s in chart.series if s.points]
    if len(named) < 2:
        return Markup("")
    stroke = [
        tag("svg", tag("path", d="M0 5H18", class_=f"line {s.look}"), viewBox="0 0 18 10")
        for s in named
    ]
    return tag(
        "div",
        *(tag("span", k, s.name) for k, s in zip(stroke, named, strict=True)),
        class_="legend",
    )


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) from low to high, at most `most` and at least
    two where it can."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * m for m in (1, 2, 5, 10, 20) if span / (power * m) <= most - 1 + 1e-9)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most about `most` points: of each bucket the lowest and the highest, in order; a gap stays
    a gap."""
    if len(points) <= most:
        return list(points)
    kept = []
    buckets = max(most // 2, 1)
    for i in range(buckets):
        bucket = points[i * len(points) // buckets : (i + 1) * len(points) // buckets]
        finite = [p for p in bucket if math.isfinite(p[1])]
        ends = {min(finite, key=_value), max(finite, key=_value)} if finite else {bucket[0]}
        kept += sorted(ends)
    return kept


def _value(point: Point) -> float:
    return point[1]


def _frame(chart: Chart, finite: Sequence[Point]) -> _Frame:
    xs = [x for s in chart.series for x, _ in s.points] + [m.x for m in chart.marks]
    low, high = min(y for _, y in finite), max(y for _, y in finite)
    low = low if chart.floor is None else min(low, chart.floor)
    if high <= low:
        low, high = low - max(abs(low) * 0.05, 1e-12), high + max(abs(high) * 0.05, 1e-12)
    margin = (high - low) * 0.05
    bottom = low if chart.floor is not None and low == chart.floor else low - margin
    x_low, x_high = min(xs), max(xs)
    return _Frame(chart, x_low, x_high if x_high > x_low else x_low + 1.0, bottom, high + margin)


def _grid(frame: _Frame) -> Markup:
    chart, parts = frame.chart, []
    right, bottom = chart.width - _RIGHT, chart.height - _BOTTOM
    for value in ticks(frame.y_low, frame.y_high, 6):
        y = frame.y(value)
        parts.append(tag("path", d=f"M{_LEFT:g} {y:.1f}H{right:g}", class_="grid"))
        parts.append(tag("text", chart.say(value), x=_LEFT - 8, y=y + 3.5, class_="tick end"))
    parts.append(tag("path", d=f"M{_LEFT:g} {bottom:g}H{right:g}", class_="axis"))
    whole = [
        v for v in ticks(frame.x_low, frame.x_high, max(int(chart.width / 90), 3)) if v == int(v)
    ]
    for value in whole:
        parts.append(
            tag("text", f"{int(value):,}", x=frame.x(value), y=bottom + 17, class_="tick middle")
        )
    return join(*parts)


def _line(frame: _Frame, series: Series) -> Markup:
    points = thin(series.points, _MOST_POINTS)
    words, pen_down = [], False
    for x, y in points:
        if math.isfinite(y):
            words.append(f"{'L' if pen_down else 'M'}{frame.x(x):.1f} {frame.y(y):.1f}")
        pen_down = math.isfinite(y)
    parts = [tag("path", d="".join(words), class_=f"line {series.look}")]
    alone = len(points) == 1
    for x, y in points if series.dots or alone else ():
        if math.isfinite(y):
            parts.append(
                tag("circle", cx=frame.x(x), cy=frame.y(y), r=3, class_=f"dot {series.look}")
            )
    return join(*parts)


def _mark(frame: _Frame, mark: Mark) -> Markup:
    x, bottom = frame.x(mark.x), frame.chart.height - _BOTTOM
    late = x > frame.chart.width * 0.8
    label = tag(
        "text",
        mark.label,
        x=x + (-6 if late else 6),
        y=frame.top - 6,
        class_="mark" + (" end" if late else ""),
    )
    line = tag("path", d=f"M{x:.1f} {frame.top - 16:.1f}V{bottom:g}", class_="mark")
    return tag("g", tag("title", mark.text), line, label)


def _hits(frame: _Frame) -> Markup:
    """Bands that show, when pointed at, what each series says there."""
    chart = frame.chart
    steps = sorted({x for s in chart.series for x, _ in s.points})
    steps = steps[:: max(math.ceil(len(steps) / _MOST_HITS), 1)]
    lookup = [(s, dict(s.points)) for s in chart.series]
    half = (chart.width - _LEFT - _RIGHT) / max(len(steps) - 1, 1) / 2
    bands = []
    for step in steps:
        told = [f"{s.name} {chart.say(values[step])}" for s, values in lookup if step in values]
        x = frame.x(step)
        height = chart.height - _BOTTOM - frame.top
        band = tag("rect", x=x - half, y=frame.top, width=2 * half, height=height)
        hair = tag("path", d=f"M{x:.1f} {frame.top:g}v{height:g}")
        bands.append(
            tag(
                "g",
                tag("title", f"step {int(step):,}\n" + "\n".join(told)),
                band,
                hair,
                class_="hit",
            )
        )
    return join(*bands)
