"""The ledger's files: what was written is read, also behind a fault, and old files make room."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from dougong.checkpoint.ledger_file import LedgerWriter, read_step, record_type
from dougong.errors import CheckpointError

NAMES = ("x", "y", "z")
RECORD = record_type(len(NAMES)).itemsize


def values(step: int, worker: int = 0) -> list[np.ndarray]:
    first = 1000 * worker + 10 * step
    return [np.arange(first, first + 3, dtype=np.uint64), np.array([0, 2**64 - 1, first], np.uint64)]


def write(
    root: Path, steps: range, worker: str = "east/0", generation: int = 1, limits: tuple[int, int] | None = None
) -> None:
    writer = LedgerWriter(root, generation, worker, [f"{worker} {n}" for n in NAMES], limits)
    for step in steps:
        writer.append(step, values(step))


def test_all_workers_records_of_a_step_come_together(tmp_path: Path) -> None:
    for worker in ("east/0", "west-1/3"):
        write(tmp_path, range(5, 9), worker)
    found = read_step(tmp_path, 1, 7)
    assert found["gradient", "east/0 x"] == 70 and found["weight", "west-1/3 y"] == 2**64 - 1
    assert len(found) == 2 * 5  # a checksum of 0: no gradient
    assert not read_step(tmp_path, 1, 4) and not read_step(tmp_path, 1, 9) and not read_step(tmp_path, 2, 7)


def test_generations_do_not_mix(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    writer = LedgerWriter(tmp_path, 2, "east/0", ["other"])
    writer.append(3, [np.array([5], np.uint64)] * 2)
    assert read_step(tmp_path, 2, 3) == {("gradient", "other"): 5, ("weight", "other"): 5}
    assert ("gradient", "east/0 x") in read_step(tmp_path, 1, 3)


def test_a_torn_record_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    (file,) = tmp_path.rglob("*.bin")
    file.write_bytes(file.read_bytes()[:-5])
    assert read_step(tmp_path, 1, 2) and not read_step(tmp_path, 1, 3)


def test_the_oldest_files_go_in_all_generations(tmp_path: Path) -> None:
    limits = (2 * RECORD, 6 * RECORD)
    write(tmp_path, range(1, 6), limits=limits)
    write(tmp_path, range(1, 30), worker="east/1")
    write(tmp_path, range(6, 10), generation=2, limits=limits)
    files = {str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*.bin") if f.parent.name == "0"}
    assert files == {"1/east/0/00000005.bin", "2/east/0/00000006.bin", "2/east/0/00000008.bin"}
    write(tmp_path, range(10, 16), generation=12, limits=limits)
    assert {f.parent.parent.parent.name for f in tmp_path.rglob("*.bin") if f.parent.name == "0"} == {"12"}
    assert not (tmp_path / "2/east/0").exists() and (tmp_path / "1/east/1").exists()
    assert sum(f.stat().st_size for f in (tmp_path / "12").rglob("*.bin")) <= limits[1]


def test_numpy_reads_a_file_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    (file,) = tmp_path.rglob("*.bin")
    names = json.loads((file.parent / "names.json").read_text())
    records = np.fromfile(file, record_type(len(names)))
    assert records["step"].tolist() == [1, 2, 3] and records["gradient"][1].tolist() == [20, 21, 22]


def test_storage_that_takes_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "1").write_text("in the way")
    with pytest.raises(CheckpointError):
        write(tmp_path, range(1, 2))
