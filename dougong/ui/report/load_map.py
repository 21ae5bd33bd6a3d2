"""The experts' load in the report: how uneven it was over the steps, and a map of the last counts.
Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from dougong.records.metrics import MetricsRow
from dougong.ui.report.line_chart import Chart, Mark, Series, card, ticks
from dougong.ui.report.markup import Markup, join, tag

_MOST_CELLS = 4096
_WIDTH, _LEFT, _RIGHT, _BOTTOM = 1080.0, 54.0, 14.0, 24.0


def load_section(rows: Sequence[MetricsRow], marks: Sequence[Mark]) -> Markup | None:
    """A chart and a map; nothing when no row tells of the load."""
    told = [row for row in rows if row.get("load")]
    if not told:
        return None
    ratios = [(float(row["step"]), row["load"]["max_over_mean"]) for row in told]
    series = [Series("worst layer", [(step, max(sites)) for step, sites in ratios], "train")]
    if len(ratios[0][1]) > 1:
        series.append(
            Series("median layer", [(step, median(sites)) for step, sites in ratios], "second")
        )
    even = Chart(
        "Load of the experts", series, lambda value: f"{value:.2f}", marks, _WIDTH, 200, floor=1.0
    )
    counted = [row for row in told if row["load"].get("counts")]
    drawn = load_map(counted[-1]["load"]["counts"], counted[-1]["step"]) if counted else None
    return join(
        tag("h2", "Load"), card(even, "busiest expert over the mean, by step; 1 is even"), drawn
    )


def load_map(counts: Sequence[Sequence[int]], step: int) -> Markup:
    """A card with a row for each MoE layer and a column for each expert: the darker, the more
    tokens. `counts` hold tokens by layer and expert, and at the end those for experts that compute
    nothing. Where there are too many cells, neighbours share one, which shows the busiest of
    them."""
    own = [row[:-1] for row in counts]
    share = -(-len(own) * len(own[0]) // _MOST_CELLS)
    means = [max(sum(row) / len(row), 1e-9) for row in own]
    top = max(max(max(row) / mean for row, mean in zip(own, means, strict=True)), 1e-9)
    height = min(max(180.0 / len(own), 3.0), 18.0)
    cells = [
        _cell((layer, first), row[first : first + share], (mean, top, height, len(row)))
        for layer, (row, mean) in enumerate(zip(own, means, strict=True))
        for first in range(0, len(row), share)
    ]
    bottom = height * len(own)
    shape = f"0 0 {_WIDTH:g} {bottom + _BOTTOM:g}"
    svg = tag(
        "svg",
        *cells,
        *_labels(len(own), len(own[0]), height),
        viewBox=shape,
        role="img",
        aria_label="Load map",
    )
    unit = tag(
        "span",
        f"tokens by layer (down) and expert (across); darkest: {top:.2f} times the mean",
        class_="unit",
    )
    head = tag("div", tag("h3", f"Load at step {step:,} ", unit), class_="charthead")
    return tag("div", head, svg, class_="card chart", style="margin-top:12px")


def _cell(
    at: tuple[int, int], counts: Sequence[int], scale: tuple[float, float, float, int]
) -> Markup:
    (layer, first), (mean, top, height, num_experts) = at, scale
    width = (_WIDTH - _LEFT - _RIGHT) / num_experts
    busiest = max(counts)
    expert = first + list(counts).index(busiest)
    words = f"MoE layer {layer}, expert {expert}: {busiest:,} tokens, {busiest / mean:.2f} times the mean"
    gap = 0.5 if height > 6 and width * len(counts) > 4 else 0.0
    return tag(
        "rect", tag("title", words), x=f"{_LEFT + first * width:.2f}", y=f"{layer * height:.2f}", class_="heat",
        width=f"{width * len(counts) - gap:.2f}", height=f"{height - gap:.2f}",
        fill_opacity=f"{0.04 + 0.96 * busiest / mean / top:.3f}",
    )  # fmt: skip


def _labels(num_layers: int, num_experts: int, height: float) -> list[Markup]:
    width, bottom = (_WIDTH - _LEFT - _RIGHT) / num_experts, height * num_layers
    rows = [round(v) for v in ticks(0, num_layers - 1, max(min(num_layers, int(bottom / 14)), 2))]
    columns = [round(v) for v in ticks(0, num_experts - 1, 17)]
    left = [
        tag("text", r, x=_LEFT - 8, y=f"{(r + 0.5) * height + 4:.1f}", class_="tick end")
        for r in sorted({*rows})
    ]
    below = [
        tag(
            "text",
            c,
            x=f"{_LEFT + (c + 0.5) * width:.1f}",
            y=f"{bottom + 16:.1f}",
            class_="tick middle",
        )
        for c in sorted({*columns})
    ]
    return [*left, *below]
