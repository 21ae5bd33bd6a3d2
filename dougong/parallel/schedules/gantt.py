"""A simulated step as text: one line per worker and channel, time from left to right.

Plain characters, so that it reads the same in a terminal, a log and a file. A column of a worker
shows what fills most of it, idleness included; a column of a channel shows the message that fills
most of it, if there is any.
"""

from __future__ import annotations

import math
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dougong.parallel.schedules.operation import Kind, MessageKind
from dougong.parallel.schedules.simulate import Span, Timeline

_IDLE = "·"
_FORWARD = {Kind.FORWARD, Kind.EXPERTS_FORWARD, Kind.SEND_ROWS, Kind.SEND_OUTPUTS}
_LEAST_COLUMNS = 10

ChartRow = tuple[str, list[Span]]
"""A label and what happens on its line, by start."""


def draw(trace: Timeline, width: int = 100, in_seconds: bool = True) -> str:
    """The chart, its lines at most `width` columns wide (but never narrower than shows anything).

    Without `in_seconds` the trace's times are only relative to each other, and the axis tells parts
    of the step. Workers in the order of the programs; neighbours that look the same share a line.
    At the right, the part of the step that a worker computes, or that a channel carries something.
    """
    workers, channels = _merged(_workers(trace)), _channels(trace)
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
        label, spans = row
        step_s = self.makespan_s or 1.0
        cells = "".join(_cells(spans, self.columns / step_s, self.columns, idle))
        return f"{label:{self.margin}} {cells} {_covered(spans) / step_s:4.0%}"


def _line_layout(rows: Sequence[ChartRow], makespan_s: float, width: int) -> _LineLayout:
    """As many columns as `width` leaves beside the labels and the percentages."""
    margin = max((len(label) for label, _ in rows), default=0)
    columns = max(_LEAST_COLUMNS, width - margin - len(" ") - len(" 100%"))
    return _LineLayout(margin, columns, makespan_s)


def glyph(span: Span) -> str:
    """The character of an operation: micro-batch 0 is 0 forward, a backward, A its experts'
    weights; 10 begins anew."""
    kind, number = span.operation.kind, span.operation.microbatch % 10
    if kind in _FORWARD:
        return string.digits[number]
    letters = string.ascii_uppercase if kind is Kind.WEIGHT_GRADIENTS else string.ascii_lowercase
    return letters[number]


def _legend(trace: Timeline) -> list[str]:
    apart = any(
        s.operation.kind is Kind.WEIGHT_GRADIENTS and s.end_s > s.start_s for s in trace.computation
    )
    weights = ["A B C .. its experts' weights"] if apart else []
    return [
        "0 1 2 .. forward of that micro-batch",
        "a b c .. its backward",
        *weights,
        f"{_IDLE} idle",
    ]


def _workers(trace: Timeline) -> list[ChartRow]:
    rows: list[ChartRow] = []
    for program in trace.programs:
        spans = [span for span in trace.computation if span.worker == program.worker]
        rows.append((program.worker, spans))
    return rows


def _channels(trace: Timeline) -> list[ChartRow]:
    """All channels of one direction together."""
    rows: list[ChartRow] = []
    for channel in ("dispatch", "combine"):
        spans = [span for span in trace.messages if _channel(span) == channel]
        rows += [(channel, sorted(spans, key=lambda span: span.start_s))] if spans else []
    return rows


def _channel(span: Span) -> str:
    message = span.operation.kind.sends
    assert isinstance(message, MessageKind)
    return message.direction


def _merged(rows: Sequence[ChartRow]) -> list[ChartRow]:
    """Neighbours that do the same at the same time become one row, `first .. last`."""
    groups: list[list[ChartRow]] = []
    for row in rows:
        if groups and _same(groups[-1][-1][1], row[1]):
            groups[-1].append(row)
        else:
            groups.append([row])
    return [_one_row(group) for group in groups]


def _one_row(group: Sequence[ChartRow]) -> ChartRow:
    (first, spans), (last, _) = group[0], group[-1]
    return (first if len(group) == 1 else f"{first} .. {last}"), spans


def _same(left: Sequence[Span], right: Sequence[Span]) -> bool:
    return [(s.operation, s.start_s, s.end_s) for s in left] == [
        (s.operation, s.start_s, s.end_s) for s in right
    ]


def _cells(spans: Sequence[Span], columns_per_s: float, columns: int, idle: bool) -> Iterable[str]:
    """The character of every column. `idle`: where nothing is for most of it, that is what it
    shows."""
    for share_of in _shares_of_columns(spans, columns_per_s, columns):
        share_of[_IDLE] = 1.0 - sum(share_of.values()) if idle else 0.0
        yield max(share_of, key=share_of.__getitem__)


def _shares_of_columns(
    spans: Sequence[Span], columns_per_s: float, columns: int
) -> list[dict[str, float]]:
    """For every column, the part of its time that each character's spans fill."""
    shares: list[dict[str, float]] = [{} for _ in range(columns)]
    for span in spans:
        start, end = span.start_s * columns_per_s, span.end_s * columns_per_s
        for column in range(int(start), min(columns, math.ceil(end))):
            share_of, character = shares[column], glyph(span)
            share = min(end, column + 1) - max(start, column)
            share_of[character] = share_of.get(character, 0.0) + share
    return shares


def _covered(spans: Iterable[Span]) -> float:
    """Seconds in which at least one of the spans, sorted by start, goes on."""
    covered = until = 0.0
    for span in spans:
        covered += max(0.0, span.end_s - max(span.start_s, until))
        until = max(until, span.end_s)
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
