"""The verdict on bits: what was computed twice, and what is not known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dougong.ui.history import read_history
from dougong.ui.report.bits import bits_verdict
from tests.ui.recorded import Recorder, finished_run

AGAIN = {"first": 2, "last": 3, "earlier": [1]}
PARTED = {"first": 2, "last": 3, "earlier": [1], "differs_from": 1, "then": "a" * 32, "now": "b" * 32}


def run_of(path: Path, ledger: bool, *told: dict[str, Any], lost: int = 1) -> Recorder:
    """Steps 1 to 3, of which `lost` were computed again, and what was said of them."""
    recorder = Recorder(path)
    recorder.start()
    steps = [(1, 1), (1, 2), (1, 3), *[(2, 4 - number) for number in range(lost, 0, -1)]]
    for generation, step in steps:
        row = recorder.row(generation, step)
        recorder.run.append_metrics({**row, "ledger": "ab"} if ledger else row)
    for fields in told:
        recorder.event("steps_recomputed", 2, **fields)
    return recorder


@pytest.mark.parametrize(
    ("ledger", "told", "lost", "level", "text"),
    [
        (True, (), 0, "info", "no step was computed twice, so there was nothing to compare"),
        (True, (AGAIN,), 2, "good", "2 steps computed again, all with the same bits: steps 2-3"),
        (True, (AGAIN,), 3, "good", "2 steps computed again (3 were lost), all with the same bits: steps 2-3"),
        (True, (AGAIN, PARTED), 2, "error",
         "step 3 computed again gave other bits than in generation 1 (ledger aaaaaaaaaaaa then, bbbbbbbbbbbb now); "
         "3 other steps: the same bits"),
        (True, (), 2, "info", "steps were lost, and none of them has been compared so far"),
        (False, (), 2, "info", "steps were computed twice, and not compared: its rows hold no ledger "
         "(determinism: off, or an earlier release)"),
    ],
)  # fmt: skip
def test_the_verdict(ledger: bool, told: Any, lost: int, level: str, text: str, tmp_path: Path) -> None:
    found = bits_verdict(read_history(run_of(tmp_path / "run", ledger, *told, lost=lost).run))
    assert (found.level, found.text) == (level, text)


def test_many_stretches_are_not_all_named(tmp_path: Path) -> None:
    told = [{"first": number, "last": number, "earlier": [1]} for number in range(1, 12)]
    found = bits_verdict(read_history(run_of(tmp_path / "run", True, *told, lost=3).run))
    assert found.text.endswith("step 7, step 8, 3 more times")


def test_a_run_of_rows_without_a_ledger(tmp_path: Path) -> None:
    assert "not compared" in bits_verdict(read_history(finished_run(tmp_path / "run"))).text
