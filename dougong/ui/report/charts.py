"""Which curves a run has: loss, speed, time, gradient norm, learning rate, load. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dougong.records.metrics import MetricsRow
from dougong.ui.formatting import count
from dougong.ui.history import History
from dougong.ui.recoveries import Recovery
from dougong.ui.report.line_chart import Chart, ChartCard, Mark, Point, Series, card
from dougong.ui.report.load_map import load_cards

_TIME_LOOKS = ("train", "validation", "second", "third")
_SHOWN_ISLANDS = 2  # more would be a tangle of lines
_MOST_DOTS = 60


@dataclass(frozen=True)
class TrainingCharts:
    """`loss` over the page's width, `small` in two columns, `load` empty where no row has it. What
    has no number yet is left out, the loss as None."""

    loss: ChartCard | None
    small: Sequence[ChartCard]
    load: Sequence[ChartCard]


def training_charts(history: History) -> TrainingCharts:
    """The charts of the section Training. Failures are marked in all of them, and named in the
    first."""
    rows = history.rows
    marks = _marks(history.recoveries)
    bare = [replace(mark, label="") for mark in marks]

    def small(title: str, series: Sequence[Series], words: Callable[[float], str]) -> Chart:
        return Chart(title, series, words, bare, floor=0.0)

    speed = Series("all", _points(rows, "tokens_per_s"), "train")
    norm = Series("norm", _points(rows, "grad_norm"), "second")
    rate = Series("lr", _points(rows, "lr"), "third")
    loss = Chart("Loss", _loss_series(history), two_digits, marks, 1080, 300)
    drawn = [
        (small("Throughput", [speed], count), "tokens/s"),
        (small("Time in a step", _time_series(rows), two_digits), "seconds"),
        (small("Gradient norm", [norm], two_digits), "before clipping"),
        (small("Learning rate", [rate], short), ""),
    ]
    return TrainingCharts(
        card(loss, "cross-entropy per token, by step") if _has_numbers(loss) else None,
        [card(chart, unit) for chart, unit in drawn if _has_numbers(chart)],
        load_cards(rows, bare),
    )


def _has_numbers(chart: Chart) -> bool:
    """A number that is not finite is one, too: it is shown as such."""
    return any(series.points for series in chart.series)


def two_digits(value: float) -> str:
    """A value with two decimals; one that is too small for them, with two digits."""
    return f"{value:.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"


def short(value: float) -> str:
    """Two digits, with a power of ten where the number would be long."""
    if value == 0:
        return "0"
    return f"{value:.2g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"


def _marks(recoveries: Sequence[Recovery]) -> list[Mark]:
    """One for each; of several at one step the first has the label."""
    marks = [_mark(recovery) for recovery in recoveries]
    for number, mark in enumerate(marks):
        same = sum(other.x == mark.x for other in marks)
        is_first = all(other.x != mark.x for other in marks[:number])
        if same > 1:
            label = f"{mark.label} and {same - 1} more" if is_first else ""
            marks[number] = replace(mark, label=label)
    return marks


def _mark(recovery: Recovery) -> Mark:
    """Between the last step that the failed generation had done and the next one."""
    why = recovery.cause or recovery.failure
    text = f"{recovery.place}: {why}, after step {recovery.step}"
    return Mark(recovery.step + 0.5, recovery.place, text)


def _loss_series(history: History) -> list[Series]:
    """Rewound stretches below, then training, then validation on top."""
    series = [Series("training", _points(history.rows, "loss"), "train")]
    if history.rewound:
        series.insert(0, _rewound_series(history.rewound))
    validation = _points(history.rows, "val_loss")
    if validation:
        dots = len(validation) <= _MOST_DOTS
        series.append(Series("validation", validation, "validation", dots))
    return series


def _rewound_series(stretches: Sequence[Sequence[MetricsRow]]) -> Series:
    return Series("rewound", _rewound_points(stretches), "rewound", has_gaps=True)


def _rewound_points(stretches: Sequence[Sequence[MetricsRow]]) -> list[Point]:
    """All stretches as one line, with a gap after each."""
    points: list[Point] = []
    for stretch in stretches:
        points += _points(stretch, "loss")
        points.append((stretch[-1]["step"], math.nan))
    return points


def _time_series(rows: Sequence[MetricsRow]) -> list[Series]:
    """The whole step, and what the first islands spent in computing and in exchanging."""
    islands = _islands(rows)
    series = [Series("whole", _points(rows, "step_s"), "whole")]
    for island in islands[:_SHOWN_ISLANDS]:
        for part in ("compute", "exchange"):
            name = part if len(islands) == 1 else f"{island} {part}"
            look = _TIME_LOOKS[len(series) - 1]
            series.append(Series(name, _island_points(rows, island, f"{part}_s"), look))
    return series


def _islands(rows: Sequence[MetricsRow]) -> list[str]:
    names: set[str] = set()
    for row in rows:
        names.update(row.get("islands", {}))
    return sorted(names)


def _points(rows: Sequence[MetricsRow], key: str) -> list[Point]:
    return [(float(row["step"]), float(row[key])) for row in rows if row.get(key) is not None]


def _island_points(rows: Sequence[MetricsRow], island: str, key: str) -> list[Point]:
    points = []
    for row in rows:
        seconds = row.get("islands", {}).get(island, {}).get(key)
        if seconds is not None:
            points.append((float(row["step"]), float(seconds)))
    return points
