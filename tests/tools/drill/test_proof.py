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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all schedules here: they are held against one undisturbed run."""
    return tmp_path_factory.mktemp("drills")


def assert_good(proof: Proof, count: int) -> None:
    """Final weights, optimizer and samples of the undisturbed run; all faults have come and are named right; nothing
    hangs, and no process, socket, shared memory or namespace is left."""
    for rehearsal in proof.rehearse(count):
        assert rehearsal.is_good, json.dumps(rehearsal.to_json())
    told = proof.summary(count)
    assert told.is_good and (told.done, told.equal, told.hung, told.dirty) == (count, count, 0, 0)


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_a_schedule_ends_with_the_bits_of_the_undisturbed_run(folder: Path) -> None:
    assert_good(Proof(folder, 5), 1)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_six_schedules_do_and_are_not_done_again(folder: Path) -> None:
    """Deaths, hangs, pairs of them; `benchmarks/recovery.py` rehearses twenty."""
    proof = Proof(folder, 5)
    assert_good(proof, 6)
    assert [*Proof(folder, 5).rehearse(6)] == []


@pytest.mark.slow
@pytest.mark.lab
@pytest.mark.timeout(3000)
def test_a_schedule_on_hosts_of_a_lab_does(folder: Path) -> None:
    """What Ray has on a host dies; a host is gone at once."""
    assert_good(Proof(folder, 3, has_lab=True), 2)
