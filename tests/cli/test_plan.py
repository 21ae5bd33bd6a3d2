"""`dougong plan`: the plan as a table, and the workers' environment."""

from __future__ import annotations

import dataclasses

import pytest
from dougong.cli.plan import (
    audit_lines,
    environment_lines,
    memory_lines,
    path_lines,
    plan_table,
    remark_lines,
    shared_host_lines,
    snapshot_lines,
)
from dougong.models.inventory import inspect_model
from dougong.parallel.island_paths import IslandPath
from dougong.parallel.plan import Inventory, Role, Seat, make_plan
from dougong.planner.needs.audit_bytes import AuditBytes
from dougong.planner.needs.snapshot_bytes import SnapshotBytes
from dougong.planner.placement import seats_of_job
from dougong.planner.plan_job import plan_job
from dougong.remarks import Remarks
from tests.jobs import VOCAB, make_job, plan_for

ISLANDS = [{"name": "east", "accelerator": "cpu", "workers": 2, "threads": 3}]


def test_a_row_for_each_worker() -> None:
    job = make_job(islands=ISLANDS, batch={"lanes": 4, "microbatches": 1, "microbatch_size": 1})
    model = inspect_model(job.model, VOCAB)
    plan = plan_job(job, model, seats_of_job(job.islands))
    table = plan_table(plan, [1 << 20, 1 << 30])
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["worker"] == ["east/0", "east/1"]
    assert columns["lanes"] == ["0-1", "2-3"]
    assert columns["experts"][0].startswith("0")
    assert sum(map(int, columns["dense tensors owned"])) == len(plan.owners)
    assert columns["state"] == ["1.0 MiB", "1.0 GiB"]


def test_many_workers_with_uneven_shares_are_a_row_for_each_island(monkeypatch: pytest.MonkeyPatch) -> None:
    """A remainder of experts goes to other workers from layer to layer, so that hardly two neighbours are alike."""
    roles: list[Role] = ["attention", *["experts"] * 100]
    seats = [Seat(f"{role}/{n}", role, role, "-", f"cpu:{n}") for n, role in enumerate(roles)]
    plan = make_plan(1, Inventory("toy", (), tuple("abcde"), 130, ()), seats)
    monkeypatch.setattr("dougong.cli.plan.MOST_ROWS", 4)
    columns = {str(c.header): list(c.cells) for c in plan_table(plan, [1 << 30] * 101).columns}
    assert columns["worker"] == ["attention/0", "experts/1-100"]
    assert columns["lanes"] == ["0", "-"] and columns["experts"] == ["-", "1 to 2 each"]


def test_many_workers_alike_share_a_row() -> None:
    islands = [
        {"name": "east", "accelerator": "cuda", "workers": 8, "role": "attention"},
        {"name": "west", "accelerator": "npu", "workers": 2, "role": "experts"},
    ]
    job = make_job(islands=islands, batch={"lanes": 8, "microbatches": 1, "microbatch_size": 1})
    model = inspect_model(job.model, VOCAB)
    plan = plan_job(job, model, seats_of_job(job.islands))
    table = plan_table(plan, [1 << 30] * 7 + [3 << 29] + [1 << 20] * 2)
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["worker"] == ["east/0-7", "west/0", "west/1"]
    assert columns["device"] == ["cuda", "npu:0", "npu:1"]
    assert (columns["lanes"], columns["experts"][0]) == (["1 each", "-", "-"], "-")
    assert columns["state"] == ["1.0 GiB to 1.5 GiB", "1.0 MiB", "1.0 MiB"]


def test_workers_that_share_a_device_are_said_to() -> None:
    job = make_job(islands=[{"name": "east", "accelerator": "npu", "workers": 2, "devices": "shared"}])
    plan = plan_job(job, inspect_model(job.model, VOCAB), seats_of_job(job.islands))
    assert [worker.device for worker in plan.workers] == ["npu:0", "npu:0"]
    lines = list(environment_lines(job, 100))
    assert lines[0].startswith("east: 2 npu workers on one device (devices: shared): messages go through host memory")
    assert lines[1].startswith("    memory: each worker of east takes what it needs, and all of them together no more")


def test_workers_of_several_islands_that_share_a_device_are_counted_together() -> None:
    shared = {"accelerator": "npu", "devices": "shared"}
    islands = [
        {"name": "own", "accelerator": "npu", "workers": 1, "role": "experts"},
        {"name": "east", "workers": 2, "role": "attention", **shared},
        {"name": "west", "workers": 3, "role": "experts", "memory_gb": 6, **shared},
        {"name": "far", "workers": 1, "role": "experts", "node": "b", **shared},
    ]
    job = make_job(islands=islands, batch={"lanes": 2, "microbatches": 1, "microbatch_size": 1})
    told = [line for line in environment_lines(job, 100) if "devices: shared" in line or "memory:" in line]
    assert told == [
        "east, west: 5 npu workers (2 of east + 3 of west) on one device (devices: shared): messages go through host "
        "memory, and it computes for one after another",
        "    memory: 2 GB for each of west's workers (memory_gb 6 / 3)",
        "    memory: each worker of east takes what it needs, and all of them together no more than the device has",
        "far: 1 npu worker on one device (devices: shared): messages go through host memory, and it computes for one "
        "after another",
        "    memory: each worker of far takes what it needs, and all of them together no more than the device has",
    ]


def test_the_way_between_each_two_islands_is_said() -> None:
    islands = [
        {"name": "a", "accelerator": "cuda", "workers": 1, "role": "attention"},
        {"name": "b", "accelerator": "npu", "workers": 2, "role": "experts"},
        {"name": "c", "accelerator": "cpu", "workers": 1, "role": "experts"},
        {"name": "d", "accelerator": "cpu", "workers": 1, "role": "experts"},
    ]
    job = make_job(islands=islands, batch={"lanes": 2, "microbatches": 1, "microbatch_size": 1})
    plan = plan_job(job, inspect_model(job.model, VOCAB), seats_of_job(job.islands))
    assert list(path_lines(plan)) == [
        "between islands: a - b, a - c, a - d, b - c, b - d: host-staged",
        "between islands: c - d: host",
    ]
    alone = make_job(islands=ISLANDS, batch={"lanes": 2, "microbatches": 1, "microbatch_size": 1})
    assert not list(path_lines(plan_job(alone, inspect_model(alone.model, VOCAB), seats_of_job(alone.islands))))


def test_a_bridge_of_a_package_is_said_by_its_name() -> None:
    paths = (IslandPath("a", "a", "native"), IslandPath("a", "b", "bridge", "direct"))
    plan = plan_for(make_job(), "BB")
    assert list(path_lines(dataclasses.replace(plan, paths=paths))) == ["between islands: a - b: direct"]


def test_the_memory_of_a_device_is_held_against_all_that_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dougong.cli.plan.memory_of", lambda accelerator: 100)
    islands = [
        {"name": "east", "accelerator": "npu", "workers": 2, "role": "attention", "devices": "shared"},
        {"name": "west", "accelerator": "npu", "workers": 1, "role": "experts", "devices": "shared"},
        {"name": "own", "accelerator": "npu", "workers": 1, "role": "experts"},
    ]
    job = make_job(islands=islands, batch={"lanes": 2, "microbatches": 1, "microbatch_size": 1})
    plan = plan_job(job, inspect_model(job.model, VOCAB), seats_of_job(job.islands))
    assert list(memory_lines(job, plan, [40, 40, 20, 100], [0, 0, 0, 0])) == []
    (line,) = memory_lines(job, plan, [40, 40, 21, 100], [0, 0, 0, 0])
    assert line.startswith("warning: east: all workers on its device together need 101 B, a machine")


def test_what_is_known_of_the_memory_is_said() -> None:
    islands = [
        {"name": "east", "accelerator": "cpu", "workers": 2},
        {"name": "west", "accelerator": "npu", "workers": 1, "role": "both"},
        {"name": "north", "accelerator": "npu", "workers": 1, "role": "both", "memory_gb": 64},
    ]
    job = make_job(islands=islands, batch={"lanes": 4, "microbatches": 1, "microbatch_size": 1})
    plan = plan_job(job, inspect_model(job.model, VOCAB), seats_of_job(job.islands))
    (not_checked,) = memory_lines(job, plan, [1, 1, 1, 1], [1, 1, 1, 1])
    assert not_checked.startswith("memory of west is not checked: this machine knows no npu device's size")
    too_large, _ = memory_lines(job, plan, [1 << 50, 1 << 50, 1, 1], [0, 0, 0, 0])
    assert too_large.startswith("warning: east: its workers together need 2048.0 TiB, a machine like this")
    with_snapshots, _ = memory_lines(job, plan, [1, 1, 1, 1], [1 << 50, 0, 0, 0])
    assert "its workers together need 1024.0 TiB, a machine" in with_snapshots


def test_what_snapshots_take_is_a_line_of_its_own() -> None:
    (line,) = snapshot_lines([SnapshotBytes(1 << 20, 2 << 20), SnapshotBytes(2 << 20, 1 << 20)])
    assert line.startswith(
        "snapshots (fault.snapshots): 6.0 MiB of host memory, 3.0 MiB of workers' own state and 3.0 MiB"
    )
    assert line.endswith("a worker needs up to 3.0 MiB")
    assert not list(snapshot_lines([SnapshotBytes(0, 0)]))


def test_what_audits_take_is_a_line_of_its_own() -> None:
    job = make_job(fault={"audit": 4})
    (line,) = audit_lines(job, [AuditBytes(1 << 20, 0), AuditBytes(3 << 20, 2 << 20)])
    assert line.startswith("audits (fault.audit): one step in 4 takes up to 3.0 MiB more of a worker's memory")
    assert line.endswith("up to 2.0 MiB of weights and state a worker")
    assert not list(audit_lines(make_job(), [AuditBytes(0, 0)]))
    (audit,) = audit_lines(make_job(fault={"audit": "all"}), [AuditBytes(1, 1)])
    assert "each step takes" in audit


def test_the_environment_of_each_island_s_workers() -> None:
    head, *lines = environment_lines(make_job(islands=ISLANDS), 60)
    assert head == "east: workers run with"
    assert "OMP_NUM_THREADS=3" in " ".join(lines).split() and len(lines) > 1
    assert all(line.startswith("    ") and len(line) <= 60 for line in lines)


def test_what_a_run_would_tell_once() -> None:
    told = Remarks(("the separator is </s>",), ("nothing separates documents",))
    assert list(remark_lines(told)) == ["note: the separator is </s>", "warning: nothing separates documents"]


def test_where_the_host_s_memory_is_the_workers_own_is_said() -> None:
    islands = [*ISLANDS, {"name": "west", "accelerator": "npu", "workers": 1, "role": "experts"}]
    (line,) = shared_host_lines(make_job(islands=islands, optimizer={"device": "host"}))
    assert line.startswith("optimizer.device: host: workers of east compute in the machine's own memory; ")
    assert not list(shared_host_lines(make_job(islands=ISLANDS)))
    assert not list(
        shared_host_lines(make_job(islands=[{**ISLANDS[0], "accelerator": "npu"}], optimizer={"device": "host"}))
    )
