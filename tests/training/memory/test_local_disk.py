"""Snapshots on a node's own disk: whole or not there, of this life alone, and nobody else's files are touched."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from dougong.checkpoint.snapshot import StateTensor
from dougong.errors import CheckpointError
from dougong.training.memory.holdings import Moment
from dougong.training.memory.local_disk import LocalDisk
from dougong.training.memory.part import StatePart, layout_of, num_bytes_of, why_damaged

KEYS = [("model", "t0"), ("exp_avg", "t0"), ("model", "t1")]


def part_at(step: int) -> StatePart:
    state = [StateTensor(group, name, torch.rand(3, 5) + step) for group, name in KEYS]
    layout = layout_of(state)
    part = StatePart(Moment(step, 2), "cd" * 16, layout, torch.empty(num_bytes_of(layout), dtype=torch.uint8))
    part.fill(state)
    return part


def disk(root: Path, life: str = "one", worker: str = "east/0") -> LocalDisk:
    return LocalDisk(root, Path("/runs/mine"), life, worker)


def write(local: LocalDisk, part: StatePart) -> None:
    local.write(part)
    while local.is_busy():
        time.sleep(0.001)


def test_another_process_of_the_node_reads_what_was_written(tmp_path: Path) -> None:
    part = part_at(7)
    write(disk(tmp_path), part)
    reader = disk(tmp_path, worker="east/1")
    (holding,) = reader.holdings()
    assert (holding.moment, holding.place, holding.ledger) == (Moment(7, 2), "disk", "cd" * 16)
    assert holding.tensors == part.holding("disk").tensors
    for held in holding.tensors:
        tensor = reader.read(Moment(7, 2), held.key)
        assert torch.equal(tensor, part.tensor(held.key)) and not why_damaged(tensor, held)
    with pytest.raises(CheckpointError, match="no file holds"):
        reader.read(Moment(8, 2), KEYS[0])


def test_the_newest_two_of_each_worker_are_kept(tmp_path: Path) -> None:
    for worker in ("east/0", "east/1"):
        local = disk(tmp_path, worker=worker)
        for step in (1, 2, 3, 10):
            write(local, part_at(step))
    found = disk(tmp_path).holdings()
    assert sorted(holding.moment.step for holding in found) == [3, 3, 10, 10]


def test_another_life_s_files_are_not_read_and_go_and_a_stranger_s_stay(tmp_path: Path) -> None:
    write(disk(tmp_path, "one"), part_at(9))
    stranger = tmp_path / "photos"
    stranger.mkdir()
    other_run = LocalDisk(tmp_path, Path("/runs/other"), "x", "east/0")
    write(other_run, part_at(4))
    later = disk(tmp_path, "two")
    assert not later.holdings()
    write(later, part_at(1))
    assert [holding.moment.step for holding in later.holdings()] == [1]
    assert not disk(tmp_path, "one").holdings() and stranger.is_dir() and len(other_run.holdings()) == 1
    later.clear()
    assert not later.holdings()


def test_a_worker_that_outlives_its_controller_writes_beside_those_of_the_next_one(tmp_path: Path) -> None:
    survivor, new = disk(tmp_path, "one"), disk(tmp_path, "two", "east/1")
    write(survivor, part_at(3))
    survivor.go_over("two")
    write(new, part_at(4))
    write(survivor, part_at(4))
    assert [holding.moment.step for holding in new.holdings()] == [4, 4]


@pytest.mark.parametrize("harm", ["head", "cut", "empty", "tensor"])
def test_a_damaged_file_is_not_there_or_its_tensor_is_found_out(tmp_path: Path, harm: str) -> None:
    local, part = disk(tmp_path), part_at(7)
    write(local, part)
    (file,) = tmp_path.rglob("*.part")
    data = bytearray(file.read_bytes())
    if harm == "head":
        data[40] ^= 1
    elif harm == "tensor":
        data[-20] ^= 1
    file.write_bytes({"cut": data[:-9], "empty": b""}.get(harm, bytes(data)))
    holdings = local.holdings()
    if harm != "tensor":
        assert not holdings
        return
    damaged = [held.key for held in holdings[0].tensors if why_damaged(local.read(Moment(7, 2), held.key), held)]
    assert damaged == [KEYS[-1]]


def test_a_disk_that_cannot_be_written_costs_a_snapshot_and_is_told_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dougong-snapshots").write_text("a file is in the way")
    local = disk(tmp_path)
    for step in (1, 2):
        write(local, part_at(step))
    said = capfd.readouterr().err
    assert said.count("warning: ") == 1 and "(fault.snapshots.local) are left out" in said
