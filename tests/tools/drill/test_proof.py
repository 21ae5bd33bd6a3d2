"""Rehearsals on the small job: the same bits, everything named, nothing left; and they go on where they ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dougong.tools.drill.proof import LINES, Proof


def line(number: int, **changes: Any) -> str:
    faults = [{"is_right": True}]
    return json.dumps(
        {"key": f"7/{number}", "is_equal": True, "is_hung": False, "left": [], "faults": faults} | changes
    )


def test_what_is_done_is_not_done_again_and_counts(tmp_path: Path) -> None:
    (tmp_path / LINES).write_text(f"{line(1)}\n{line(2, left=['process 7'])}\n{line(9)}\n")
    told = Proof(tmp_path, 7).summary(2)
    assert (told.asked, told.done, told.equal, told.dirty, told.faults, told.right) == (2, 2, 2, 1, 2, 2)
    assert not told.is_good and told.words.startswith("2 of 2 schedules done: 2 with the bits and samples of the")
    assert not Proof(tmp_path, 8).summary(2).is_good, "another seed has done nothing"
    assert Proof(tmp_path, 7).summary(1).is_good


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_six_schedules_end_with_the_bits_of_the_undisturbed_run(tmp_path: Path) -> None:
    """A cursory look in a benchmark's place: `benchmarks/recovery.py` rehearses twenty."""
    proof = Proof(tmp_path, 5)
    for rehearsal in proof.rehearse(6):
        assert rehearsal.is_good, json.dumps(rehearsal.to_json())
    assert proof.summary(6).is_good
    assert [*proof.rehearse(6)] == []
