"""The faults of a run, one row each, in the order in which they came: what, who, how soon it was
suspected, acted on and over. Pure.

Times are seconds after the fault. When that was is known where it was a drill, or where something
had been suspected for so long; else they count from the first sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dougong.ui.history import History
from dougong.ui.report import disturbances
from dougong.ui.report.failures import failures
from dougong.ui.report.fault_row import FaultRow, Story

_ONE_STILLNESS = 1.0
"""Suspicions that begin within so many seconds are of one."""
_TOLD_WITHIN = 20
"""Events: what belongs together is written together."""


def fault_rows(history: History) -> list[FaultRow]:
    """All of them. What was suspected before a failure, and the drill that it was, are told in its
    row."""
    story = Story(history)
    failed = list(failures(story))
    suspected = list(disturbances.suspicions(story))
    rows = [
        *_with_others(failed, suspected),
        *disturbances.troubles(story),
        *disturbances.unsaved(story),
        *disturbances.ray(story),
        *disturbances.fewer_workers(story),
        *disturbances.spares(story),
        *disturbances.others(story),
    ]
    rows += disturbances.unseen_drills(story)
    return sorted(rows, key=lambda row: row.index)


def _with_others(failed: Sequence[FaultRow], suspected: Sequence[FaultRow]) -> list[FaultRow]:
    """Who was suspected at the same time is named in one row: that of the failure, where there was
    one, or of the first who was suspected."""
    rows = list(failed)
    for row in suspected:
        # Both lists are in order, so that what belongs together is near the end.
        same = (i for i, other in enumerate(rows) if _is_one_trouble(other, row))
        known = next(same, None)
        if known is None:
            rows.append(row)
        else:
            rows[known] = replace(rows[known], others=(*rows[known].others, row.who))
    return rows


def _is_one_trouble(row: FaultRow, suspicion: FaultRow) -> bool:
    if row.what == disturbances.SUSPICION:
        is_near = abs(suspicion.run_s - row.run_s) < _ONE_STILLNESS
        return is_near and row.outcome == suspicion.outcome
    if suspicion.outcome != disturbances.GENERATION_ENDED or row.recovered_s is None:
        return False
    return 0 <= row.index - suspicion.index <= _TOLD_WITHIN
