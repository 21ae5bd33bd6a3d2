"""Three checkpoints are damaged in every way that we know: none that is changed is ever accepted, the newest whole one
is always found, and nothing hangs. `benchmarks/corruption.py` does the same ten thousand times."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.checkpoint.attack import Attack, Outcome, Repository, attack, make_repository, room, watched
from tests.checkpoint.corruption import KINDS, TOLERATED

NUMBER = 300


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return make_repository(tmp_path_factory.mktemp("run") / "checkpoints")


@pytest.fixture
def place() -> Iterator[Path]:
    with room() as path:
        yield path


def test_no_corruption_is_accepted_and_the_newest_whole_one_is_found(repository: Repository, place: Path) -> None:
    outcomes = list(attack(Attack(repository, KINDS, place), range(NUMBER)))
    assert [outcome for outcome in outcomes if outcome.silent or outcome.wrong] == []
    assert len(outcomes) == NUMBER
    # Some change nothing: a page that was zeros is zeroed. But each kind does, here and there, and most do.
    effective = [outcome for outcome in outcomes if outcome.changed]
    assert {outcome.kind for outcome in effective} == set(KINDS)
    assert len(effective) > 0.9 * NUMBER


def test_what_changes_nothing_is_no_damage(repository: Repository, place: Path) -> None:
    outcomes = list(attack(Attack(repository, TOLERATED, place), range(3 * len(TOLERATED))))
    assert [outcome for outcome in outcomes if outcome.changed or outcome.silent or outcome.wrong] == []


def test_one_that_hangs_or_dies_is_told_and_the_others_go_on() -> None:
    """The watch itself."""

    def run(number: int) -> Outcome:
        if number == 1:
            time.sleep(60)
        if number == 3:
            os._exit(1)
        if number == 4:
            raise RuntimeError("no")
        return Outcome("fine", number)

    outcomes = list(watched(run, range(6), deadline_s=1.0))
    assert [outcome.number for outcome in outcomes] == list(range(6))
    assert [outcome.wrong for outcome in outcomes if outcome.kind != "fine"] == [
        ("number 1 hangs: no answer within 1 s",),
        ("number 3 ended its process",),
        ("number 4: RuntimeError: no",),
    ]


def test_a_reader_that_trusts_what_it_reads_would_be_seen(repository: Repository, place: Path) -> None:
    """The proof can fail: a verification that always agrees is told of."""
    from tests.checkpoint import attack as module

    class Trusting:
        ok = True

    patch = pytest.MonkeyPatch()
    patch.setattr(module, "verify", lambda path, threads: Trusting())
    try:
        outcomes = list(attack(Attack(repository, KINDS, place), range(len(KINDS))))
    finally:
        patch.undo()
    assert {outcome.kind for outcome in outcomes if outcome.silent} == {o.kind for o in outcomes if o.changed}
