"""The proof that two machines share a run directory, each side in this process: what goes through, and how what does
not is told apart."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from dougong.control.handshake import FolderTrouble
from dougong.deadlines import DEADLINES
from dougong.errors import StorageError
from dougong.records.directory import RunDir
from dougong.records.shared_folder import (
    FolderProof,
    FolderProver,
    answer_proof,
    mount_of,
    withdraw_answers,
)

QUICK = replace(DEADLINES, shared_file_s=0.1, last_word_s=0.2)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run = RunDir.create(tmp_path / "run")
    run.ledger.mkdir()
    return run


def as_seen_in(proof: FolderProof, other: Path, run: RunDir) -> FolderProof:
    """The proof as a machine sees it where `other` is mounted under the run directory's name."""
    folders = [str(other / Path(folder).relative_to(run.path)) for folder in proof.folders]
    return FolderProof(proof.name, tuple(folders))


def proofs_in(run: RunDir) -> list[Path]:
    return list(run.path.rglob(".proof.*"))


def fault(trouble: FolderTrouble | None) -> tuple[str, str] | None:
    return None if trouble is None else (trouble.fault, Path(trouble.folder).name)


def test_what_each_writes_the_other_reads_and_nothing_is_left(run_dir: RunDir) -> None:
    prover = FolderProver.of_run(run_dir, ["east", "west"], QUICK)
    assert [Path(folder).name for folder in prover.proof.folders] == ["run", "logs", "checkpoints", "ledger"]
    assert len(proofs_in(run_dir)) == 4
    for agent in ("east", "west"):
        assert answer_proof(prover.proof, agent, QUICK) is None
        assert prover.look(agent, None) is None
    assert proofs_in(run_dir) == []


def test_every_start_has_a_name_of_its_own_and_clears_what_an_earlier_one_left(run_dir: RunDir) -> None:
    first = FolderProver.of_run(run_dir, ["east"], QUICK)
    second = FolderProver.of_run(run_dir, ["east"], QUICK)
    assert first.proof.name != second.proof.name
    assert {path.name for path in proofs_in(run_dir)} == {f".proof.{second.proof.name}"}
    assert all(run_dir.owns(path.name) for path in proofs_in(run_dir))
    second.close()
    assert proofs_in(run_dir) == []


def test_the_late_end_of_an_earlier_start_leaves_the_next_one_its_proof(run_dir: RunDir) -> None:
    first = FolderProver.of_run(run_dir, ["east"], QUICK)
    second = FolderProver.of_run(run_dir, ["east"], QUICK)
    first.close()
    assert answer_proof(second.proof, "east", QUICK) is None
    assert second.look("east", None) is None


def test_a_directory_that_is_not_there_is_absent(run_dir: RunDir, tmp_path: Path) -> None:
    prover = FolderProver.of_run(run_dir, ["west"], QUICK)
    there = as_seen_in(prover.proof, tmp_path / "nowhere", run_dir)
    assert fault(answer_proof(there, "west", QUICK)) == ("absent", "nowhere")


@pytest.mark.parametrize("copied", [("job.yaml",), ("checkpoints", "ledger", "events.jsonl")])
def test_a_copy_is_another_directory(run_dir: RunDir, tmp_path: Path, copied: tuple[str, ...]) -> None:
    run_dir.write_job("job: toy\n")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in copied:
        place = run_dir.path / name
        shutil.copytree(place, copy / name) if place.is_dir() else shutil.copy(place, copy)
    prover = FolderProver.of_run(run_dir, ["west"], QUICK)
    told = answer_proof(as_seen_in(prover.proof, copy, run_dir), "west", QUICK)
    assert fault(told) == ("other", "copy")
    assert fault(prover.look("west", told)) == ("other", "copy")
    assert proofs_in(run_dir) == []


def test_one_folder_on_another_disk_is_seen(run_dir: RunDir, tmp_path: Path) -> None:
    """`checkpoints` is a link that leads elsewhere on each machine."""
    prover = FolderProver.of_run(run_dir, ["west"], QUICK)
    (tmp_path / "disk").mkdir()
    folders = [folder.replace(str(run_dir.checkpoints), str(tmp_path / "disk")) for folder in prover.proof.folders]
    there = FolderProof(prover.proof.name, tuple(folders))
    assert fault(answer_proof(there, "west", QUICK)) == ("other", "disk")


def test_what_cannot_be_written_is_told_with_the_system_s_word(run_dir: RunDir) -> None:
    prover = FolderProver.of_run(run_dir, ["west"], QUICK)
    # As on a read-only mount: root may write anywhere else, but not over a directory.
    prover.proof.answer(str(run_dir.checkpoints), "west").mkdir()
    told = answer_proof(prover.proof, "west", QUICK)
    assert told is not None and fault(told) == ("unwritable", "checkpoints")
    assert (told.number, told.reason, told.user) == (errno.EISDIR, "Is a directory", os.geteuid())


def test_what_cannot_be_read_is_told_with_the_system_s_word(run_dir: RunDir) -> None:
    prover = FolderProver.of_run(run_dir, ["west"], QUICK)
    question = prover.proof.question(str(run_dir.path))
    question.unlink()
    question.mkdir()
    told = answer_proof(prover.proof, "west", QUICK)
    assert told is not None and (fault(told), told.number) == (("unreadable", "run"), errno.EISDIR)


def test_a_file_system_that_does_not_answer_holds_nobody_up(run_dir: RunDir) -> None:
    prover = FolderProver.of_run(run_dir, ["west"], QUICK)
    question = prover.proof.question(str(run_dir.path))
    question.unlink()
    os.mkfifo(question)  # to open it waits for a writer
    told = answer_proof(prover.proof, "west", QUICK)
    assert told is not None and fault(told) == ("unreadable", "run")
    assert told.reason == "the file system has not answered within 0.1 s (fault.deadlines.shared_file_s)"
    os.close(os.open(question, os.O_RDWR))  # let the thread go


def test_an_answer_that_goes_elsewhere_is_seen(run_dir: RunDir, tmp_path: Path) -> None:
    """A machine that reads the shared directory and writes into a layer of its own."""
    prover = FolderProver.of_run(run_dir, ["west"], QUICK)
    layer = tmp_path / "layer"
    shutil.copytree(run_dir.path, layer)
    there = as_seen_in(prover.proof, layer, run_dir)
    assert answer_proof(there, "west", QUICK) is None
    found = prover.look("west", None)
    assert fault(found) == ("unanswered", "run")
    assert list(layer.rglob(".proof.*.west"))
    withdraw_answers(there, "west")
    assert not list(layer.rglob(".proof.*.west"))


def test_a_run_directory_that_the_controller_cannot_write_is_a_storage_error(run_dir: RunDir) -> None:
    shutil.rmtree(run_dir.logs, ignore_errors=True)
    run_dir.logs.write_text("a file in the way\n")
    with pytest.raises(StorageError, match="logs: cannot be written: File exists; make room or mend it"):
        FolderProver.of_run(run_dir, ["west"], QUICK)


def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "23 22 0:22 / /shared rw - nfs4 nas:/export rw,addr=10.0.0.1\n"
        "24 22 0:23 / /shared/my\\040disk rw shared:2 master:1 - xfs /dev/sdb rw\n"
    )
    assert mount_of("/shared/runs/a", mounts) == "nfs4 nas:/export"
    assert mount_of("/shared/my disk/a", mounts) == "xfs /dev/sdb"
    assert mount_of("/sharedness", mounts) == "ext4 /dev/sda1"
    assert mount_of("/anything", tmp_path / "none") == ""
