"""Line charts as inline SVG whose colours are the page's own, so that they follow light, dark and
print. Pure.

Numbers that are not finite are shown as such: a red band over their steps. Long runs are drawn as
the lowest and highest value of each bucket of steps, so that no spike is lost. Hovering over a step
shows its numbers, by the browser alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dougong.ui.formatting import ranges, spans

Point = tuple[float, float]
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 14.0, 12.0, 26.0
_MARK_HEIGHT = 16.0
_LETTER_WIDTH = 6.5
_MOST_POINTS = 1200
_MOST_BANDS = 240


@dataclass(frozen=True)
class Series:
    """One line. `look` is a CSS class of the page (`train`, `validation`, `rewound`, `second`...);
    `has_gaps`: what is not finite is a gap between stretches, and no broken number."""

    name: str
    points: Sequence[Point]
    look: str
    dots: bool = False
    has_gaps: bool = False


@dataclass(frozen=True)
class Mark:
    """A vertical line at a step, with a short label at its head and a longer text for hovering."""

    x: float
    label: str
    text: str


@dataclass(frozen=True)
class Chart:
    """What to draw. `words` puts a value in words; `floor` is a value that the vertical axis must
    reach down to."""

    title: str
    series: Sequence[Series]
    words: Callable[[float], str]
    marks: Sequence[Mark] = ()
    width: float = 520.0
    height: float = 190.0
    floor: float | None = None


@dataclass(frozen=True)
class ChartCard:
    """A drawing in a box of the page, under its title, unit and legend."""

    title: str
    unit: str
    legend: Markup
    drawing: Markup


@dataclass(frozen=True)
class _Frame:
    """From values to places on the drawing."""

    chart: Chart
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return _LEFT + share * (self.right - _LEFT)

    def y(self, value: float) -> float:
        share = (self.y_high - value) / (self.y_high - self.y_low)
        return self.top + share * (self.bottom - self.top)

    @property
    def top(self) -> float:
        return _TOP + _MARK_HEIGHT if self.chart.marks else _TOP

    @property
    def right(self) -> float:
        return self.chart.width - _RIGHT

    @property
    def bottom(self) -> float:
        return self.chart.height - _BOTTOM


def card(chart: Chart, unit: str) -> ChartCard:
    """The chart, ready for the page."""
    return ChartCard(chart.title, unit, legend(chart), draw(chart))


def draw(chart: Chart) -> Markup:
    """The chart as one `<svg>`; a chart without a finite number says so."""
    frame = _frame(chart)
    if frame is None:
        return svg(chart.width, chart.height, chart.title, [_nothing(chart)])
    parts = [*_broken_bands(frame), *_value_axis(frame), *_step_axis(frame)]
    parts += _marks(frame)
    for series in chart.series:
        parts += _line(frame, series)
    parts += _bands(frame)
    return svg(chart.width, chart.height, chart.title, parts)


def svg(width: float, height: float, title: str, parts: Sequence[Markup]) -> Markup:
    """One drawing of the page."""
    element = Markup('<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>')
    return element.format(width, height, title, Markup("").join(parts))


def legend(chart: Chart) -> Markup:
    """The names of the series, each with a stroke of its look; nothing for a single one."""
    named = [series for series in chart.series if series.points]
    if len(named) < 2:
        return Markup("")
    entry = Markup(
        '<span><svg viewBox="0 0 18 10"><path d="M0 5H18" class="line {}"></path></svg>{}</span>'
    )
    entries = [entry.format(series.look, series.name) for series in named]
    return Markup('<div class="legend">{}</div>').format(Markup("").join(entries))


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) from low to high, at most `most` and at least
    two where it can."""
    span = high - low
    if not (math.isfinite(span) and span / most > 0):  # the smallest number halved is zero
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    # The span is 1 to 10 times `most` powers, so a step of 20 powers is always wide enough.
    step = next(power * m for m in (1, 2, 5, 10, 20) if span / (power * m) <= most - 1 + 1e-9)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Decimals by the step's size: a fixed number of them would move the ticks of tiny values.
    decimals = 3 - math.floor(math.log10(step))
    return [round(i * step, decimals) for i in range(first, last + 1)]


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most about `most` points: of each bucket the lowest and the highest, in order; a gap stays
    a gap."""
    if len(points) <= most:
        return list(points)
    buckets = max(most // 2, 1)
    kept: list[Point] = []
    for i in range(buckets):
        bucket = points[i * len(points) // buckets : (i + 1) * len(points) // buckets]
        kept += _ends(bucket)
    return kept


def _ends(bucket: Sequence[Point]) -> list[Point]:
    """The lowest and the highest of some points, in the order of their steps."""
    finite = [point for point in bucket if math.isfinite(point[1])]
    if not finite:
        return [bucket[0]]
    lowest = min(finite, key=lambda point: point[1])
    highest = max(finite, key=lambda point: point[1])
    return sorted({lowest, highest})


def _frame(chart: Chart) -> _Frame | None:
    """Room for every point and mark, with a margin above and below; None without a finite value."""
    steps, values = [mark.x for mark in chart.marks], []
    for series in chart.series:
        steps += [x for x, _ in series.points]
        values += [y for _, y in series.points if math.isfinite(y)]
    if not values:
        return None
    first, last = min(steps), max(steps)
    low, high = _value_range(values, chart.floor)
    return _Frame(chart, first, last if last > first else first + 1.0, low, high)


def _value_range(values: Sequence[float], floor: float | None) -> tuple[float, float]:
    """From the lowest to the highest value with a margin of a twentieth; none below the floor.
    Equal values get a range around them, so that nothing is divided by zero."""
    low, high = min(values), max(values)
    if floor is not None:
        low = min(low, floor)
    if high <= low:
        half = max(abs(low) * 0.05, 1e-12)
        low, high = low - half, high + half
    margin = (high - low) * 0.05
    return low if low == floor else low - margin, high + margin


def _nothing(chart: Chart) -> Markup:
    """What stands where nothing can be drawn: no number, or none that is finite."""
    steps = _broken_steps(chart)
    words = f"not a finite number: {_steps_words(steps)}" if steps else "no numbers yet"
    text = Markup('<text x="{:g}" y="{:g}" class="none{}">{}</text>')
    look = " broken" if steps else ""
    return text.format(chart.width / 2, chart.height / 2, look, words)


def _broken_steps(chart: Chart) -> list[int]:
    """Steps of which a series has a number that is not finite."""
    broken: set[int] = set()
    for series in chart.series:
        if not series.has_gaps:
            broken.update(int(x) for x, y in series.points if not math.isfinite(y))
    return sorted(broken)


def _steps_words(steps: Sequence[int]) -> str:
    return f"{'step' if len(steps) == 1 else 'steps'} {ranges(steps)}"


def _broken_bands(frame: _Frame) -> list[Markup]:
    """A red band over each stretch of steps whose numbers are not finite."""
    band = Markup(
        '<g><title>{}</title><rect x="{:.1f}" y="{:g}" width="{:.1f}" height="{:.1f}"'
        ' class="broken"></rect><text x="{:.1f}" y="{:g}" class="broken{}">nan</text></g>'
    )
    parts = []
    for first, last in spans(_broken_steps(frame.chart)):
        left = max(frame.x(first - 0.5), _LEFT)
        right = min(max(frame.x(last + 0.5), left + 2), frame.right)
        words = f"not a finite number: {_steps_words(range(first, last + 1))}"
        is_late = left > frame.chart.width * 0.9
        place = (left, frame.top, right - left, frame.bottom - frame.top)
        label = (right - 4 if is_late else left + 4, frame.top + 12, " end" * is_late)
        parts.append(band.format(words, *place, *label))
    return parts


def _value_axis(frame: _Frame) -> list[Markup]:
    line = Markup('<path d="M{:g} {:.1f}H{:g}" class="grid"></path>')
    label = Markup('<text x="{:g}" y="{:.1f}" class="tick end">{}</text>')
    parts = []
    values = ticks(frame.y_low, frame.y_high, 6)
    for value, words in zip(values, _unlike(values, frame.chart.words), strict=True):
        y = frame.y(value)
        parts.append(line.format(_LEFT, y, frame.right))
        parts.append(label.format(_LEFT - 8, y + 3.5, words))
    return parts


def _unlike(values: Sequence[float], words: Callable[[float], str]) -> list[str]:
    """The values in words; with more digits, where two of them would look the same."""
    found = [words(value) for value in values]
    for digits in range(3, 16):
        if len(set(found)) == len(values):
            break
        found = [f"{value:.{digits}g}" for value in values]
    return found


def _step_axis(frame: _Frame) -> list[Markup]:
    line = Markup('<path d="M{:g} {:g}H{:g}" class="axis"></path>')
    label = Markup('<text x="{:.1f}" y="{:g}" class="tick middle">{:,}</text>')
    parts = [line.format(_LEFT, frame.bottom, frame.right)]
    most = max(int(frame.chart.width / 90), 3)
    for value in ticks(frame.x_low, frame.x_high, most):
        if value == int(value):
            parts.append(label.format(frame.x(value), frame.bottom + 17, int(value)))
    return parts


def _line(frame: _Frame, series: Series) -> list[Markup]:
    points = thin(series.points, _MOST_POINTS)
    line = Markup('<path d="{}" class="line {}"></path>')
    parts = [line.format(_path(frame, points), series.look)]
    dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3" class="dot {}"></circle>')
    for x, y in _dotted(series, points):
        parts.append(dot.format(frame.x(x), frame.y(y), series.look))
    return parts


def _dotted(series: Series, points: Sequence[Point]) -> list[Point]:
    """The points that are drawn as such: all if the series wants it, else those that stand alone,
    of which a line would show nothing."""
    has_value = [False, *(math.isfinite(y) for _, y in points), False]
    found = []
    for number, point in enumerate(points, 1):
        is_alone = not has_value[number - 1] and not has_value[number + 1]
        if has_value[number] and (series.dots or is_alone):
            found.append(point)
    return found


def _path(frame: _Frame, points: Sequence[Point]) -> str:
    """The points as an SVG path, which begins anew after each gap."""
    words = []
    command = "M"
    for x, y in points:
        if math.isfinite(y):
            words.append(f"{command}{frame.x(x):.1f} {frame.y(y):.1f}")
            command = "L"
        else:
            command = "M"
    return "".join(words)


def _marks(frame: _Frame) -> list[Markup]:
    """A label that would lie on another is left out: its line is there, and tells by hovering."""
    parts = []
    taken: list[tuple[float, float]] = []
    for mark in frame.chart.marks:
        place = _label_place(frame, mark)
        is_free = all(place[1] < left or place[0] > right for left, right in taken)
        if is_free:
            taken.append(place)
        parts.append(_mark(frame, mark, mark.label if is_free else ""))
    return parts


def _label_place(frame: _Frame, mark: Mark) -> tuple[float, float]:
    """From where to where a mark's label reaches."""
    x, width = frame.x(mark.x), _LETTER_WIDTH * len(mark.label)
    return (x - 6 - width, x - 6) if _is_late(frame, x) else (x + 6, x + 6 + width)


def _is_late(frame: _Frame, x: float) -> bool:
    """Whether there is no room for a label on the right."""
    return x > frame.chart.width * 0.8


def _mark(frame: _Frame, mark: Mark, words: str) -> Markup:
    """`words`: its label, empty where there is no room for it."""
    x = frame.x(mark.x)
    is_late = _is_late(frame, x)
    line = Markup('<path d="M{:.1f} {:.1f}V{:g}" class="mark"></path>')
    label = Markup('<text x="{:.1f}" y="{:g}" class="mark{}">{}</text>')
    return Markup("<g><title>{}</title>{}{}</g>").format(
        mark.text,
        line.format(x, frame.top - _MARK_HEIGHT, frame.bottom),
        label.format(x - 6 if is_late else x + 6, frame.top - 6, " end" * is_late, words),
    )


def _bands(frame: _Frame) -> list[Markup]:
    """Invisible bands, one a step, that show the numbers of their step when they are pointed at."""
    lookup = [(series.name, dict(series.points)) for series in frame.chart.series]
    steps = sorted(set().union(*(values for _, values in lookup)))
    steps = steps[:: max(math.ceil(len(steps) / _MOST_BANDS), 1)]
    half = (frame.right - _LEFT) / max(len(steps) - 1, 1) / 2
    height = frame.bottom - frame.top
    band = Markup(
        '<g class="hit"><title>{}</title>'
        '<rect x="{:.2f}" y="{:g}" width="{:.2f}" height="{:g}"></rect>'
        '<path d="M{:.1f} {:g}v{:g}"></path></g>'
    )
    parts = []
    for step in steps:
        x = frame.x(step)
        place = (x - half, frame.top, 2 * half, height)
        words = _step_words(frame.chart, lookup, step)
        parts.append(band.format(words, *place, x, frame.top, height))
    return parts


def _step_words(chart: Chart, lookup: Sequence[tuple[str, dict[float, float]]], step: float) -> str:
    """A line for the step, and one for each series that has a value there."""
    lines = [f"step {int(step):,}"]
    for name, values in lookup:
        if step in values:
            lines.append(f"{name} {chart.words(values[step])}")
    return "\n".join(lines)
