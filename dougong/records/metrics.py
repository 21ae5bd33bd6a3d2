"""The rows of metrics.jsonl, and which of them are the run's present history.

A step that was rewound by a recovery is trained again, so the file may hold several rows of it;
each says by `generation` which one computed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dougong.records.event.base import read_wall

MetricsRow = dict[str, Any]
"""One step: `generation`, `fence` (the number of the controller that wrote it), `wall` (ISO 8601,
UTC, when it was written) and `monotonic_s` (as of events), `step`, `loss`, `tokens`,
`tokens_per_s`, `step_s`, `lr`, `grad_norm`; where they were computed `val_loss` (and
`val_by_source`, of each source of a mixture by its place, `mixture.0`), `balance_loss`, `load` and
`traffic`, and by island `islands`. `validate_s`: what the validation after the step
took; `save_s`: for how long a checkpoint has held up the worker since the row before; `write_s`:
for how long of the step one was being written beside it."""

REPORTED = ("generation", "loss", "tokens", "tokens_per_s", "step_s")
"""What a report needs of every row, besides its step."""


class LoadShape(BaseModel):
    """How a row says what experts had to do. `max_over_mean`: site by site; `busiest_share`: the
    part of each site's tokens that as many experts took as a token chooses; `counts`:
    [sites][E+1], in some rows."""

    model_config = ConfigDict(strict=True, extra="ignore")

    max_over_mean: list[float] = Field(min_length=1)
    worst: float = 0.0
    busiest_share: list[float] = []
    counts: list[list[int]] | None = None


class LinkShape(BaseModel):
    """Of one link and a mean step: bytes by kind, as planned and as sent, and messages."""

    model_config = ConfigDict(strict=True, extra="ignore")

    planned: dict[str, float]
    sent: dict[str, float]
    messages: float


class TrafficShape(BaseModel):
    """How a row says what was sent in the `steps` steps up to it: links by name, `east > west`."""

    model_config = ConfigDict(strict=True, extra="ignore")

    steps: int
    links: dict[str, LinkShape]


class RowShape(BaseModel):
    """What a row of metrics.jsonl must look like, where it has these keys. Other keys are free."""

    model_config = ConfigDict(strict=True, extra="ignore")

    step: int
    generation: int = 1
    fence: int = 0
    wall: str = ""
    monotonic_s: float = 0.0
    validate_s: float = 0.0
    save_s: float = 0.0
    write_s: float = 0.0
    loss: float | None = None
    tokens: int = 0
    tokens_per_s: float = 0.0
    step_s: float = 0.0
    lr: float | None = None
    grad_norm: float | None = None
    val_loss: float | None = None
    val_by_source: dict[str, float] = {}
    balance_loss: float | None = None
    load: LoadShape | None = None
    traffic: TrafficShape | None = None
    islands: dict[str, dict[str, float]] = {}
    ledger: str | None = None
    checksums: dict[str, str] = {}

    @field_validator("wall")
    @classmethod
    def _is_a_time(cls, wall: str) -> str:
        """Empty in rows of earlier releases."""
        if wall:
            read_wall(wall)
        return wall


def in_present_words(row: MetricsRow) -> MetricsRow:
    """A row as this release names its keys: earlier ones wrote `attempt` for `generation`."""
    if "attempt" not in row or "generation" in row:
        return row
    return {"generation" if key == "attempt" else key: value for key, value in row.items()}


def live_rows(rows: Iterable[MetricsRow]) -> list[MetricsRow]:
    """The present history, one row a step: a row of step s makes all earlier-written rows of steps
    >= s past history."""
    live: list[MetricsRow] = []
    # Steps of `live` ascend strictly, so what a row makes past history stands at the end.
    for row in rows:
        while live and live[-1]["step"] >= row["step"]:
            live.pop()
        live.append(row)
    return live


def split_rows(rows: Sequence[MetricsRow]) -> tuple[list[MetricsRow], list[list[MetricsRow]]]:
    """The present history and, for each generation that was rewound, its rows that no longer count,
    in order."""
    live = live_rows(rows)
    kept = {id(row) for row in live}
    stretches: dict[int, list[MetricsRow]] = {}
    for row in rows:
        if id(row) not in kept:
            stretches.setdefault(row["generation"], []).append(row)
    return live, list(stretches.values())
