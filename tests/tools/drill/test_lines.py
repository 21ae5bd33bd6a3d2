"""Lines of schedules: what is done, by which software, and their sum."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dougong.errors import RecordError
from dougong.tools.drill.lines import Rehearsal, digest_of_software
from dougong.tools.drill.proof import LINES, Proof
from dougong.tools.drill.score import ScoredFault


def line(number: int, **changes: Any) -> str:
    row = {"key": f"7/{number}", "is_equal": True, "is_hung": False, "left": [], "faults": [{"is_right": True}]}
    return json.dumps(row | {"is_good": True, "code": digest_of_software()} | changes)


def test_what_is_done_is_not_done_again_and_counts(tmp_path: Path) -> None:
    bad = line(2, left=["process 7"], is_good=False)
    (tmp_path / LINES).write_text(f"{line(1)}\n{bad}\n{line(9)}\n")
    told = Proof(tmp_path, 7).summary(2)
    assert (told.asked, told.done, told.equal, told.dirty, told.faults, told.right) == (2, 2, 2, 1, 2, 2)
    assert not told.is_good and told.words.startswith("2 of 2 schedules done: 2 with the bits and samples of the")
    assert told.words.endswith("; 1 failed: 7/2")
    assert not Proof(tmp_path, 8).summary(2).is_good, "another seed has done nothing"
    assert Proof(tmp_path, 7).summary(1).is_good
    assert Proof(tmp_path, 7).summary(5).words.endswith("; 3 left: the same command goes on")


def test_a_torn_line_is_told_and_its_schedule_is_not_done(tmp_path: Path) -> None:
    """As a proof leaves it that is killed while it writes."""
    told: list[str] = []
    (tmp_path / LINES).write_text(f"{line(1)}\n{line(2)[:40]}")
    proof = Proof(tmp_path, 7, tell=told.append)
    assert list(proof.lines.done) == ["7/1"]
    assert told == [f"{tmp_path / LINES}: the last line is torn: its schedule is done again"]
    proof.lines.add(good("7/2"))
    again = Proof(tmp_path, 7, tell=told.append)
    assert list(again.lines.done) == ["7/1", "7/2"] and len(told) == 1, "it was cut off before the next one"


def test_a_line_in_the_middle_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / LINES).write_text(f"{line(1)[:40]}\n{line(2)}\n")
    with pytest.raises(RecordError, match=r"drills\.jsonl:1: not JSON"):
        Proof(tmp_path, 7)


def test_what_other_software_has_done_is_told_and_does_not_count(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / LINES).write_text(f"{line(1, code='another')}\n{line(2)}\n")
    assert Proof(tmp_path, 7, tell=told.append).summary(2).done == 1
    assert told == [f"{tmp_path / LINES}: 1 lines are of other software, and do not count"]


def test_a_schedule_done_again_counts_as_it_was_the_last_time(tmp_path: Path) -> None:
    (tmp_path / LINES).write_text(f"{line(1, is_good=False)}\n{line(1)}\n")
    assert Proof(tmp_path, 7).summary(1).is_good


def good(key: str) -> Rehearsal:
    verdict = ScoredFault("kill", "both/0", "crash", ("worker",), "crash", "worker both/0", True)
    return Rehearsal(
        key, ("kill both/0 as step 4 begins",), (verdict,), "the same bits", True, False, (), 20.0, 1.0,
        code=digest_of_software(),
    )  # fmt: skip


def test_a_schedule_whose_fault_has_not_come_is_not_good() -> None:
    assert good("7/1").is_good and not replace(good("7/1"), verdicts=()).is_good
    assert not replace(good("7/1"), is_equal=False).is_good and not replace(good("7/1"), left=("x",)).is_good


def test_the_digest_is_that_of_the_software() -> None:
    assert digest_of_software() == digest_of_software() and len(digest_of_software()) == 16
