"""What a run has recorded of one step, as far as its bits are concerned. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dougong.records.directory import RunDir
from dougong.records.metrics import MetricsRow


@dataclass(frozen=True)
class StepRecord:
    """One row of a run's metrics, of the step's last generation.

    `digest`: the ledger's, None where the run kept none; `totals`: the combined checksums of the
    step's gradients and weights, by `gradients` and `weights`.
    """

    step: int
    generation: int
    loss: float | None
    val_loss: float | None
    grad_norm: float | None
    digest: str | None
    totals: Mapping[str, str]

    @staticmethod
    def from_row(row: MetricsRow) -> StepRecord:
        return StepRecord(
            step=int(row["step"]),
            generation=int(row.get("generation", 1)),
            loss=row.get("loss"),
            val_loss=row.get("val_loss"),
            grad_norm=row.get("grad_norm"),
            digest=row.get("ledger"),
            totals=row.get("checksums", {}),
        )


StepRecords = Mapping[int, StepRecord]
"""By step, in ascending order."""


def read_records(run: RunDir) -> dict[int, StepRecord]:
    """Every step of a run."""
    records = [StepRecord.from_row(row) for row in run.latest_metrics()]
    return {record.step: record for record in records}


def same_number(x: float | None, y: float | None) -> bool:
    """Whether two recorded numbers are the same; not-a-number is itself."""
    both_nan = x != x and y != y
    return x == y or both_nan
