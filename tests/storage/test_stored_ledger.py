"""The ledger's files beside training: storage that refuses, or does not answer, costs no step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dougong.checkpoint.ledger_file import LedgerWriter, read_step
from dougong.deadlines import Deadlines
from dougong.storage.stored_ledger import StoredLedger
from dougong.storage.trouble import Healed, News, Trouble
from tests.launcher.toyrun import wait_for

QUICK = Deadlines(storage_retry_s=0.01, storage_told_s=0.2)
NAMES = ("a", "b")


def column(value: int) -> list[np.ndarray]:  # type: ignore[type-arg]
    return [np.full(2, value, np.uint64), np.full(2, value + 1, np.uint64)]


def test_records_are_copied_and_written(tmp_path: Path) -> None:
    ledger = StoredLedger(LedgerWriter(tmp_path, 1, "east/0", NAMES))
    values = column(7)
    ledger.append(1, values)
    for array in values:
        array[:] = 0  # as the next step does
    ledger.finish()
    assert read_step(tmp_path, 1, 1)["gradient", "a"] == 7


def test_a_disk_that_refuses_is_told_and_holds_up_no_step(tmp_path: Path) -> None:
    """It ended the generation, and after three restarts the run."""
    told: list[News] = []
    (tmp_path / "ledger").write_text("in the way")
    ledger = StoredLedger(LedgerWriter(tmp_path / "ledger", 1, "east/0", NAMES), told.append, QUICK)
    step = 0

    def steps_until(kind: type) -> bool:
        nonlocal step
        step += 1
        ledger.append(step, column(step))
        return bool(told) and isinstance(told[-1], kind)

    wait_for(lambda: steps_until(Trouble), "it is told", 10)
    assert told[-1].what == "the ledger's files"
    (tmp_path / "ledger").unlink()
    wait_for(lambda: steps_until(Healed), "it is over", 10)
    ledger.finish()
    assert all(read_step(tmp_path / "ledger", 1, number) for number in range(1, step + 1))
