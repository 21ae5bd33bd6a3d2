"""The run's time as one strip: what it went to, stretch by stretch, and every fault as a numbered
mark. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dougong.records.status import Goodput
from dougong.ui.formatting import duration
from dougong.ui.goodput.course import Course, Part, Stretch
from dougong.ui.goodput.meter import PARTS, WORDS
from dougong.ui.health import percent
from dougong.ui.report.fault_row import FaultRow
from dougong.ui.report.line_chart import svg

_WIDTH, _SIDE = 1080.0, 14.0
_MARKS_TOP, _STRIP_TOP, _STRIP_BOTTOM, _HEIGHT = 16.0, 30.0, 58.0, 80.0
_LEAST_WIDTH = 1.5
_LABEL_WIDTH = 16.0
_MOST_TICKS = 10
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800)
_LONG_STEPS_S = (3600, 7200, 10800, 21600, 43200, 86400)


@dataclass(frozen=True)
class TimePart:
    """One part of the run's time. `width`: per cent of it."""

    part: Part
    name: str
    seconds: float
    width: float
    share: str


def time_parts(goodput: Goodput) -> list[TimePart]:
    """Those that took any time, in their order; nothing before any time went by."""
    whole = goodput.wall_s
    found = []
    for part in PARTS:
        seconds = goodput.parts.get(part, 0.0)
        if whole > 0 and seconds > 0:
            share = seconds / whole
            found.append(TimePart(part, WORDS[part], seconds, 100 * share, percent(share)))
    return found


def draw_timeline(course: Course, faults: Sequence[FaultRow]) -> Markup | None:
    """The strip; None before any time went by."""
    if course.end_s <= 0:
        return None
    parts = [*_ticks(course.end_s), *_stretches(course), *_marks(course.end_s, faults)]
    return svg(_WIDTH, _HEIGHT, "The run's time", parts)


def _x(seconds: float, end_s: float) -> float:
    share = min(max(seconds / end_s, 0.0), 1.0)
    return _SIDE + share * (_WIDTH - 2 * _SIDE)


def _stretches(course: Course) -> list[Markup]:
    """Training first, and what is no training over it, wide enough to be seen. What would hide
    behind its like is left out, so that the number of drawn ones has a limit."""
    drawn: set[tuple[int, Part]] = set()
    below: list[Markup] = []
    above: list[Markup] = []
    for one in course.stretches:
        left, right = _x(one.start_s, course.end_s), _x(one.end_s, course.end_s)
        place = (round(left), one.part)
        if right - left < 1 and place in drawn:
            continue
        drawn.add(place)
        (below if one.part == "training" else above).append(_stretch(one, left, right))
    return below + above


def _stretch(one: Stretch, left: float, right: float) -> Markup:
    element = Markup(
        '<g><title>{}: {}, from {} on</title><rect x="{:.1f}" y="{:g}" width="{:.1f}" height="{:g}"'
        ' class="part {}"></rect></g>'
    )
    words = (WORDS[one.part], duration(one.end_s - one.start_s), duration(one.start_s))
    width = max(right - left, _LEAST_WIDTH)
    return element.format(*words, left, _STRIP_TOP, width, _STRIP_BOTTOM - _STRIP_TOP, one.part)


def _marks(end_s: float, faults: Sequence[FaultRow]) -> list[Markup]:
    """A line for each fault; neighbours share one label, `3-5`."""
    line = Markup(
        '<g><title>{}: {} {}</title><path d="M{:.1f} {:g}V{:g}" class="fault {}"></path></g>'
    )
    parts = []
    for number, fault in enumerate(faults, 1):
        x, place = _x(fault.run_s, end_s), (number, fault.who, fault.what)
        parts.append(line.format(*place, x, _MARKS_TOP + 2, _STRIP_BOTTOM + 4, fault.look))
    label = Markup('<text x="{:.1f}" y="{:g}" class="fault middle">{}</text>')
    for group in _neighbours([_x(fault.run_s, end_s) for fault in faults]):
        middle = (group[0][1] + group[-1][1]) / 2
        parts.append(label.format(middle, _MARKS_TOP - 3, _label(group)))
    return parts


def _neighbours(places: Sequence[float]) -> list[list[tuple[int, float]]]:
    """Numbers and places, those together whose labels would touch."""
    groups: list[list[tuple[int, float]]] = []
    for number, x in enumerate(places, 1):
        if groups and x - groups[-1][0][1] < _LABEL_WIDTH * len(_label(groups[-1])) / 2:
            groups[-1].append((number, x))
        else:
            groups.append([(number, x)])
    return groups


def _label(group: Sequence[tuple[int, float]]) -> str:
    first, last = group[0][0], group[-1][0]
    return str(first) if first == last else f"{first}–{last}"


def _ticks(end_s: float) -> list[Markup]:
    mark = Markup('<path d="M{:.1f} {:g}v5" class="axis"></path>')
    label = Markup('<text x="{:.1f}" y="{:g}" class="tick{}">{}</text>')
    step = _tick_step(end_s)
    parts = []
    number = 0
    while number * step <= end_s * 1.0001:
        x = _x(number * step, end_s)
        words = duration(number * step) if number else "0"
        parts.append(mark.format(x, _STRIP_BOTTOM))
        parts.append(label.format(x, _HEIGHT - 4, _align(x), words))
        number += 1
    return parts


def _align(x: float) -> str:
    """Labels stay on the drawing."""
    if x <= _SIDE:
        return ""
    return " end" if x > _WIDTH - 40 else " middle"


def _tick_step(end_s: float) -> float:
    """Round by the clock, at most ten."""
    for step in (*_STEPS_S, *_LONG_STEPS_S):
        if end_s / step <= _MOST_TICKS:
            return step
    return 86400.0 * (1 + end_s // (86400 * _MOST_TICKS))
