"""The experts' load in the report: how uneven it was over the steps, and a map of the last counts.
Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from dougong.records.metrics import MetricsRow
from dougong.ui.report.line_chart import Chart, ChartCard, Mark, Series, card, svg, ticks

_MOST_CELLS = 4096
_WIDTH, _LEFT, _RIGHT, _BOTTOM = 1080.0, 54.0, 14.0, 24.0


def load_cards(rows: Sequence[MetricsRow], marks: Sequence[Mark]) -> list[ChartCard]:
    """A chart of the imbalance over the steps and, where counts were kept, a map of the last ones;
    nothing when no row has the load."""
    loaded = [row for row in rows if row.get("load")]
    if not loaded:
        return []
    cards = [card(_imbalance(loaded, marks), "busiest expert over the mean, by step; 1 is even")]
    counted = [row for row in loaded if row["load"].get("counts")]
    if counted:
        newest = counted[-1]
        cards.append(load_map(newest["load"]["counts"], newest["step"]))
    return cards


def load_map(counts: Sequence[Sequence[int]], step: int) -> ChartCard:
    """A row for each MoE layer and a column for each expert: the darker, the more tokens.

    `counts` hold tokens by layer and expert, and at the end those for experts that compute nothing.
    Where there are too many cells, neighbours share one, which shows the busiest of them.
    """
    grid = _Grid.of([row[:-1] for row in counts])
    parts = [*_row_labels(grid), *_column_labels(grid)]
    for layer in range(grid.num_layers):
        parts += _cells(grid, layer)
    drawing = svg(_WIDTH, grid.height + _BOTTOM, "Load map", parts)
    unit = (
        "tokens by layer (down) and expert (across);"
        f" darkest: {grid.highest_ratio:.2f} times the mean"
    )
    return ChartCard(f"Load at step {step:,}", unit, Markup(""), drawing)


def _imbalance(loaded: Sequence[MetricsRow], marks: Sequence[Mark]) -> Chart:
    """Of each step the worst layer and, where there are several, the one in the middle."""
    worst, middle = [], []
    for row in loaded:
        layers = row["load"]["max_over_mean"]
        worst.append((float(row["step"]), max(layers)))
        middle.append((float(row["step"]), median(layers)))
    series = [Series("worst layer", worst, "train")]
    if len(loaded[0]["load"]["max_over_mean"]) > 1:
        series.append(Series("median layer", middle, "second"))
    return Chart("Load of the experts", series, "{:.2f}".format, marks, _WIDTH, 200, floor=1.0)


@dataclass(frozen=True)
class _Grid:
    """`counts`: layers of experts. `means`: of each layer, never zero. `highest_ratio`: the highest
    count over its layer's mean. `row_height`, in the drawing's units. `share`: experts a cell."""

    counts: Sequence[Sequence[int]]
    means: Sequence[float]
    highest_ratio: float
    row_height: float
    share: int

    @classmethod
    def of(cls, counts: Sequence[Sequence[int]]) -> _Grid:
        means = [max(sum(row) / len(row), 1e-9) for row in counts]
        ratios = [max(row) / mean for row, mean in zip(counts, means, strict=True)]
        num_cells = len(counts) * len(counts[0])
        return cls(
            counts,
            means,
            highest_ratio=max(*ratios, 1e-9),
            row_height=min(max(180.0 / len(counts), 3.0), 18.0),
            share=-(-num_cells // _MOST_CELLS),
        )

    @property
    def num_layers(self) -> int:
        return len(self.counts)

    @property
    def num_experts(self) -> int:
        return len(self.counts[0])

    @property
    def height(self) -> float:
        return self.row_height * self.num_layers

    @property
    def expert_width(self) -> float:
        return (_WIDTH - _LEFT - _RIGHT) / self.num_experts


def _cells(grid: _Grid, layer: int) -> list[Markup]:
    """The cells of one row."""
    element = Markup(
        '<rect x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" class="heat"'
        ' fill-opacity="{:.3f}"><title>{}</title></rect>'
    )
    cells = []
    for first in range(0, grid.num_experts, grid.share):
        counts = grid.counts[layer][first : first + grid.share]
        busiest = max(counts)
        ratio = busiest / grid.means[layer]
        expert = first + list(counts).index(busiest)
        words = (
            f"MoE layer {layer}, expert {expert}: {busiest:,} tokens, {ratio:.2f} times the mean"
        )
        width = grid.expert_width * len(counts)
        gap = 0.5 if grid.row_height > 6 and width > 4 else 0.0
        place = (_LEFT + first * grid.expert_width, layer * grid.row_height)
        size = (width - gap, grid.row_height - gap)
        darkness = 0.04 + 0.96 * ratio / grid.highest_ratio
        cells.append(element.format(*place, *size, darkness, words))
    return cells


def _row_labels(grid: _Grid) -> list[Markup]:
    most = max(min(grid.num_layers, int(grid.height / 14)), 2)
    label = Markup('<text x="{:g}" y="{:.1f}" class="tick end">{}</text>')
    labels = []
    for layer in _whole(ticks(0, grid.num_layers - 1, most)):
        labels.append(label.format(_LEFT - 8, (layer + 0.5) * grid.row_height + 4, layer))
    return labels


def _column_labels(grid: _Grid) -> list[Markup]:
    label = Markup('<text x="{:.1f}" y="{:.1f}" class="tick middle">{}</text>')
    labels = []
    for expert in _whole(ticks(0, grid.num_experts - 1, 17)):
        x = _LEFT + (expert + 0.5) * grid.expert_width
        labels.append(label.format(x, grid.height + 16, expert))
    return labels


def _whole(values: Sequence[float]) -> list[int]:
    return sorted({round(value) for value in values})
