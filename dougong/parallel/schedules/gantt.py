"""A simulated step as text: one line per worker and channel, time from left to right.

Plain characters, so that it reads the same in a terminal, a log and a file. A column of a worker
shows what fills most of it, idleness included; a column of a channel shows the message that fills
most of it, if there is any.
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dougong.parallel.schedules.operation import Direction, Kind, Operation
from dougong.parallel.schedules.simulate import TeamSpan, Timeline

_IDLE = "·"
_FORWARD = {Kind.FORWARD, Kind.EXPERTS_FORWARD, Kind.SEND_ROWS, Kind.SEND_OUTPUTS}
_LEAST_COLUMNS = 10


@dataclass(frozen=True)
class ChartRow:
    """A label and what happens on its line, by start; each of it as often as `times` says (once,
    where it says nothing)."""

    label: str
    moments: Sequence[TeamSpan]
    times: Sequence[int] = ()

    def counted(self) -> Iterable[tuple[TeamSpan, int]]:
        return zip(self.moments, self.times or itertools.repeat(1))


def draw(trace: Timeline, width: int = 100, in_seconds: bool = True) -> str:
    """The chart, its lines at most `width` columns wide (but never narrower than shows anything).

    Without `in_seconds` the trace's times are only relative to each other, and the axis tells parts
    of the step. Workers in the order of the programs; neighbours that look the same share a line.
    At the right, the part of the step that a worker computes, or that a channel carries something.
    """
    workers, channels = _workers(trace), _channels(trace)
    layout = _line_layout([*workers, *channels], trace.makespan_s, width)
    end = _seconds(trace.makespan_s) if in_seconds else " the whole step"
    lines = [layout.heading(end)]
    lines += [layout.line(row, idle=True) for row in workers]
    lines += [layout.line(row, idle=False) for row in channels]
    return "\n".join([*lines, *_wrapped(_legend(trace), width)])


@dataclass(frozen=True)
class _LineLayout:
    """How a chart's lines are laid out: a label of `margin` characters, then the step's
    `makespan_s` seconds in `columns` columns."""

    margin: int
    columns: int
    makespan_s: float

    def heading(self, end: str) -> str:
        """The line above the rows. `end`: how long the step is."""
        return f"{'':{self.margin}} 0{'─' * (self.columns - 1 - len(end))}{end}"

    def line(self, row: ChartRow, idle: bool) -> str:
        """A row of the chart. `idle`: it shows where nothing happens."""
        step_s = self.makespan_s or 1.0
        cells = "".join(_cells(row, self.columns / step_s, self.columns, idle))
        return f"{row.label:{self.margin}} {cells} {_covered(row.moments) / step_s:4.0%}"


def _line_layout(rows: Sequence[ChartRow], makespan_s: float, width: int) -> _LineLayout:
    """As many columns as `width` leaves beside the labels and the percentages."""
    margin = max((len(row.label) for row in rows), default=0)
    columns = max(_LEAST_COLUMNS, width - margin - len(" ") - len(" 100%"))
    return _LineLayout(margin, columns, makespan_s)


def glyph(operation: Operation) -> str:
    """The character of an operation: micro-batch 0 is 0 forward, a backward, A its experts'
    weights; 10 begins anew."""
    kind, number = operation.kind, operation.microbatch % 10
    if kind in _FORWARD:
        return string.digits[number]
    letters = string.ascii_uppercase if kind is Kind.WEIGHT_GRADIENTS else string.ascii_lowercase
    return letters[number]


def _legend(trace: Timeline) -> list[str]:
    apart = any(
        moment.operation.kind is Kind.WEIGHT_GRADIENTS and moment.end_s > moment.start_s
        for moment in itertools.chain.from_iterable(trace.moments)
    )
    weights = ["A B C .. its experts' weights"] if apart else []
    return [
        "0 1 2 .. forward of that micro-batch",
        "a b c .. its backward",
        *weights,
        f"{_IDLE} idle",
    ]


def _workers(trace: Timeline) -> list[ChartRow]:
    """Neighbours that do the same at the same time are one row, `first .. last`."""
    done = [_computations(moments) for moments in trace.moments]
    groups: list[tuple[Sequence[TeamSpan], list[str]]] = []
    for program, team in trace.in_order():
        if groups and _same(groups[-1][0], done[team.number]):
            groups[-1][1].append(program.worker)
        else:
            groups.append((done[team.number], [program.worker]))
    rows = []
    for moments, workers in groups:
        first, last = workers[0], workers[-1]
        rows.append(ChartRow(first if len(workers) == 1 else f"{first} .. {last}", moments))
    return rows


def _computations(moments: Sequence[TeamSpan]) -> list[TeamSpan]:
    return [moment for moment in moments if moment.operation.kind.computes]


def _same(left: Sequence[TeamSpan], right: Sequence[TeamSpan]) -> bool:
    if left is right:
        return True
    return [(m.operation, m.start_s, m.end_s) for m in left] == [
        (m.operation, m.start_s, m.end_s) for m in right
    ]


def _channels(trace: Timeline) -> list[ChartRow]:
    """All channels of one direction together."""
    directions: tuple[Direction, ...] = ("dispatch", "combine")
    rows = [_channel(trace, direction) for direction in directions]
    return [row for row in rows if row.moments]


def _channel(trace: Timeline, direction: Direction) -> ChartRow:
    sent: list[tuple[TeamSpan, int]] = []
    for sender, moments in zip(trace.teams, trace.moments, strict=True):
        for moment in moments:
            message = moment.operation.kind.sends
            if message is not None and message.direction == direction:
                receivers = [team for team in trace.teams if team.first.receives(message)]
                sent.append((moment, sum(sender.num_channels(team) for team in receivers)))
    sent.sort(key=lambda entry: (entry[0].start_s, entry[0].turn))
    return ChartRow(direction, [moment for moment, _ in sent], [times for _, times in sent])


def _cells(row: ChartRow, columns_per_s: float, columns: int, idle: bool) -> Iterable[str]:
    """The character of every column. `idle`: where nothing is for most of it, that is what it
    shows."""
    for share_of in _shares_of_columns(row, columns_per_s, columns):
        share_of[_IDLE] = 1.0 - sum(share_of.values()) if idle else 0.0
        yield max(share_of, key=share_of.__getitem__)


def _shares_of_columns(row: ChartRow, columns_per_s: float, columns: int) -> list[dict[str, float]]:
    """For every column, the part of its time that each character fills."""
    shares: list[dict[str, float]] = [{} for _ in range(columns)]
    for moment, times in row.counted():
        start, end = moment.start_s * columns_per_s, moment.end_s * columns_per_s
        for column in range(int(start), min(columns, math.ceil(end))):
            share_of, character = shares[column], glyph(moment.operation)
            share = min(end, column + 1) - max(start, column)
            share_of[character] = share_of.get(character, 0.0) + times * share
    return shares


def _covered(moments: Iterable[TeamSpan]) -> float:
    """Seconds in which at least one of them, sorted by start, goes on."""
    covered = until = 0.0
    for moment in moments:
        covered += max(0.0, moment.end_s - max(moment.start_s, until))
        until = max(until, moment.end_s)
    return covered


def _seconds(seconds: float) -> str:
    """Three digits and a unit: 0 s, 850 µs, 12.5 ms, 3 s."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        rounded = float(f"{seconds * factor:.3g}")
        if rounded >= 1.0:
            return f" {rounded:g} {unit}"
    return f" {seconds:.3g} s"


def _wrapped(parts: Iterable[str], width: int) -> list[str]:
    """Parts side by side, on a new line where `width` ends."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 4 + len(part) <= width:
            lines[-1] += f"    {part}"
        else:
            lines.append(part)
    return lines
