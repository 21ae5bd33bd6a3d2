"""What a run's steps sent between islands, beside what was planned, as rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dougong.records.metrics import LinkShape, TrafficShape
from dougong.ui.history import History

_IN_ALL = "in all"


@dataclass(frozen=True)
class TrafficRow:
    """One kind on one link: mean bytes of a step."""

    link: str
    kind: str
    planned: float
    sent: float


@dataclass(frozen=True)
class TrafficTable:
    """Of the `num_steps` steps up to the newest one that says it."""

    num_steps: int
    rows: tuple[TrafficRow, ...]


def traffic_table(history: History) -> TrafficTable | None:
    """None where no step says it: before the first checkpoint, and of a worker alone."""
    for row in reversed(history.rows):
        if "traffic" in row:
            traffic = TrafficShape.model_validate(row["traffic"])
            rows = tuple(_rows_of(traffic.links))
            return TrafficTable(traffic.steps, rows)
    return None


def _rows_of(links: Mapping[str, LinkShape]) -> Iterator[TrafficRow]:
    for name, link in links.items():
        for kind in dict.fromkeys([*link.planned, *link.sent]):
            yield TrafficRow(name, kind, link.planned.get(kind, 0.0), link.sent.get(kind, 0.0))
        yield TrafficRow(name, _IN_ALL, sum(link.planned.values()), sum(link.sent.values()))
