"""What is known of a run's checkpoints, and of storage that refuses them."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.control.worker_messages import PartDurable, SaveFailed
from dougong.errors import CheckpointError, LaunchError
from dougong.launcher.controller.inbound.items import Committed, FoundCheckpoint
from dougong.launcher.controller.inbound.saves import CheckpointFacts


def durable(step: int) -> PartDurable:
    return PartDurable(step, f"step-{step:06d}", {})


def committed(step: int) -> Committed:
    return Committed(step, Path(f"/run/checkpoints/step-{step:06d}"), 1, 0.1)


def refused(text: str = "full") -> CheckpointError:
    error = CheckpointError(text)
    error.__cause__ = OSError(28, "No space left on device")
    return error


def test_a_checkpoint_is_whole_with_every_workers_part() -> None:
    known, message = CheckpointFacts(), durable(5)
    assert known.note_part("east/0", message) and not known.note_part("east/1", message)
    assert known.whole(3) == {}
    assert known.whole(2) == {5: {"east/0": message, "east/1": message}}
    known.begin_commit(5, known.parts[5])
    assert (known.parts, known.num_open) == ({}, 1)
    known.note_failed(5, LaunchError("full"), 1, 0.0)
    assert known.num_open == 0 and str(known.error) == "no checkpoint yet: full"
    known.note_part("east/0", message)
    known.forget_parts()
    assert known.parts == {}


def test_the_last_commit_decides() -> None:
    known = CheckpointFacts(num_open=2)
    known.note_failed(5, LaunchError("full"), 1, 0.0)
    told = known.note_committed(committed(10), 1, 0.0)
    assert (told.step, told.after_failures) == (10, 1)
    assert (known.error, known.failed, known.num_failed, known.num_open) == (None, None, 0, 0)
    assert (known.parent, known.newest_step) == ("step-000010", 10)
    known.note_found(FoundCheckpoint(Path("/run/checkpoints/step-000005")), 0.0)
    assert known.parent == "step-000005"
    known.begin_search()
    assert known.found is None


def test_a_part_that_storage_refuses_costs_its_checkpoint_and_is_told_once() -> None:
    known = CheckpointFacts()
    known.note_part("east/0", durable(10))
    told = known.note_unsaved(SaveFailed(10, "disk full"), "east/1", 1)
    assert told is not None and (told.step, told.reason, told.in_a_row) == (10, "east/1: disk full", 1)
    assert known.note_unsaved(SaveFailed(10, "disk full"), "east/2", 1) is None
    assert known.awaited == []
    known.note_part("east/0", durable(20))
    known.note_part("east/1", durable(20))
    known.begin_commit(20, known.whole(2)[20])
    assert known.parts == {}, "what is left of step 10 will not be whole"
    known.note_committed(committed(20), 1, 0.0)
    assert known.error is None
    assert known.note_unsaved(SaveFailed(15, "late"), "east/1", 1) is None, "a later one is there"


def test_a_save_that_failed_while_an_earlier_one_was_committed_is_not_forgotten() -> None:
    known = CheckpointFacts()
    known.begin_commit(10, {"east/0": durable(10)})
    known.note_unsaved(SaveFailed(20, "disk full"), "east/0", 1)
    known.note_committed(committed(10), 1, 0.0)
    assert "disk full" in str(known.error)


def test_a_part_of_the_last_step_may_come_after_all() -> None:
    known = CheckpointFacts()
    known.note_unsaved(SaveFailed(20, "disk full"), "east/1", 1)
    for worker in ("east/0", "east/1"):
        known.note_part(worker, durable(20))
    known.begin_commit(20, known.whole(2)[20])
    known.note_committed(committed(20), 1, 0.0)
    assert known.error is None and not known.is_in_vain


@pytest.mark.parametrize(("error", "is_kept"), [(refused(), True), (CheckpointError("parts overlap"), False)])
def test_a_commit_that_storage_refuses_can_be_tried_again(error: CheckpointError, is_kept: bool) -> None:
    known = CheckpointFacts()
    known.begin_commit(20, {"east/0": durable(20)})
    assert known.note_failed(20, error, 1, 7.0) is not None
    assert (known.refused is not None) == is_kept
    if known.refused is not None:
        assert (known.refused.step, known.refused.at) == (20, 7.0)
        known.begin_commit(20, known.refused.parts)
        assert known.note_failed(20, refused(), 1, 8.0) is None, "the same again is no news"


def test_a_run_without_any_checkpoint_that_is_refused_again_and_again_is_in_vain() -> None:
    known = CheckpointFacts()
    for step in (10, 20):
        assert not known.is_in_vain
        known.note_unsaved(SaveFailed(step, "disk full"), "east/0", 1)
    assert known.is_in_vain


def test_what_is_saved_is_what_the_directory_held_until_a_search_has_answered() -> None:
    known = CheckpointFacts()
    assert known.saved_step(1500) == 1500 and known.saved_step(0) == 0
    known.begin_search()
    known.note_found(FoundCheckpoint(None, refusal=refused("unmounted"), is_away=True), 0.0)
    assert known.saved_step(1500) == 1500  # it has not been found that there is none
    known.note_found(FoundCheckpoint(Path("/run/checkpoints/step-001400")), 0.0)
    assert known.saved_step(1500) == 1400
    known.note_found(FoundCheckpoint(None, refusal=refused("unmounted"), is_away=True), 0.0)
    assert known.saved_step(1500) == 1400
    known.note_committed(committed(1600), 1, 0.0)
    assert known.saved_step(1500) == 1600
