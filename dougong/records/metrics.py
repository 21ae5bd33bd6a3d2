"""The rows of metrics.jsonl, and which of them are the run's present history.

A step that was rewound by a recovery is trained again, so the file may hold several rows of it;
each says by `attempt` which generation computed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

MetricsRow = dict[str, Any]
"""One step: `attempt`, `step`, `loss`, `tokens`, `tokens_per_s`, `step_s`, `lr`, `grad_norm`;
where they were computed `val_loss`, `balance_loss`, `load` and, by island, `islands`."""


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
