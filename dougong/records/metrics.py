"""The rows of metrics.jsonl, and which of them are the run's present history.

A step that was rewound by a recovery is trained again, so the file may hold several rows of it;
each says by `attempt` which generation computed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

MetricsRow = dict[str, Any]
"""One step: `attempt`, `step`, `loss`, `tokens`, `tokens_per_s`, `step_s`, `lr`, `grad_norm`;
where they were computed `val_loss`, `balance_loss`, `load` and, by island, `islands`."""

REPORTED = ("attempt", "loss", "tokens", "tokens_per_s", "step_s")
"""What a report needs of every row, besides its step."""


class LoadShape(BaseModel):
    """How a row says what experts had to do. `max_over_mean`: site by site; `counts`: [sites][E+1],
    in some rows."""

    model_config = ConfigDict(strict=True, extra="ignore")

    max_over_mean: list[float] = Field(min_length=1)
    worst: float = 0.0
    counts: list[list[int]] | None = None


class RowShape(BaseModel):
    """What a row of metrics.jsonl must look like, where it has these keys. Other keys are free."""

    model_config = ConfigDict(strict=True, extra="ignore")

    step: int
    attempt: int = 1
    loss: float | None = None
    tokens: int = 0
    tokens_per_s: float = 0.0
    step_s: float = 0.0
    lr: float | None = None
    grad_norm: float | None = None
    val_loss: float | None = None
    balance_loss: float | None = None
    load: LoadShape | None = None
    islands: dict[str, dict[str, float]] = {}
    ledger: str | None = None
    checksums: dict[str, str] = {}


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
    """The present history and, for each attempt that was rewound, its rows that no longer count, in
    order."""
    live = live_rows(rows)
    kept = {id(row) for row in live}
    stretches: dict[int, list[MetricsRow]] = {}
    for row in rows:
        if id(row) not in kept:
            stretches.setdefault(row["attempt"], []).append(row)
    return live, list(stretches.values())
