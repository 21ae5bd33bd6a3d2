"""What workers keep of the run's state: wherever one of them is lost, a step is whole among the others, at most one
step before the furthest; and it is that step to the bit."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from dougong.checkpoint.snapshot import StateTensor
from dougong.job.fault.snapshots import Snapshots
from dougong.parallel.comm.world import World
from dougong.training.memory.local_disk import LocalDisk
from dougong.training.memory.state_memory import StateMemory
from tests.parallel.workers import plan_of
from tests.processes import CONTEXT, run_workers
from tests.training.memory.cutting import NAMES, SENDING, STEPPING, Cut, Found, Place, Stage, groups_at, live, value
from torch.distributed import TCPStore  # type: ignore[attr-defined]

BEFORE_REPORT = ("computes", "waits", "says")
AFTER_REPORT = ("decided", "updates", "updated")


def test_a_new_process_holds_nothing() -> None:
    memory = StateMemory(Snapshots())
    assert memory.step == 0
    assert memory.open_state(World.alone(), lambda: [[("model", "t")]], 0) is None


def meetings() -> Iterator[tuple[tuple[int, str], tuple[int, str]]]:
    """((cycle, moment) where a victim can be, (cycle, moment) where another stands still meanwhile)."""
    for slow in (*BEFORE_REPORT, *SENDING):
        # Whoever stands before a message keeps the others from getting past it.
        reached = SENDING[: SENDING.index(slow) + 1] if slow in SENDING else SENDING
        passed = ("says",) if slow not in SENDING else ()
        for victim in ("computes", "waits", *passed, *reached):
            yield (1, victim), (1, slow)
    for slow, victim in itertools.product(AFTER_REPORT, AFTER_REPORT):
        yield (1, victim), (1, slow)
    for behind, ahead in itertools.product(AFTER_REPORT, ("computes", "waits", "heads")):
        yield (1, behind), (2, ahead)
        yield (2, ahead), (1, behind)


def cuts_of(victim: int, slow: int, of: Sequence[tuple[tuple[int, str], tuple[int, str]]]) -> list[Cut]:
    return [Cut(Place(victim, *where), Place(slow, *still)) for where, still in of]


def run_cuts(cuts: Sequence[Cut]) -> list[list[Found]]:
    """By worker, what every generation went on from."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shapes = {name: tuple(value("model", name, 0).shape) for name in NAMES}
    plan = plan_of("BBB", shapes=shapes)
    return run_workers(live, plan, Stage(CONTEXT), store.port, list(cuts))


def check(cuts: Sequence[Cut], lives: Sequence[Sequence[Found]]) -> None:
    for number, cut in enumerate(cuts):
        founds = [of_worker[number + 1] for of_worker in lives]
        assert len({found.step for found in founds}) == 1, cut
        for found in founds:
            assert not found.wrong, cut
            assert found.furthest - 1 <= found.step <= found.furthest, cut
        assert "own" not in founds[cut.victim.rank].tiers and "own" in founds[cut.slow.rank].tiers, cut


# A moment of each kind: before and in a copy, before and in an update, a step ahead and a step behind.
TELLING = [
    ((1, "tensors"), (1, "says")),
    ((1, "says"), (1, "computes")),
    ((1, "updates"), (1, "updates")),
    ((2, "heads"), (1, "updates")),
    ((1, "updates"), (2, "heads")),
]


def test_a_worker_that_is_lost_at_a_telling_moment_costs_a_step_at_most() -> None:
    cuts = cuts_of(1, 0, TELLING) + cuts_of(2, 1, TELLING[2:4])
    check(cuts, run_cuts(cuts))


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "slow"), [(0, 1), (0, 2)])
def test_a_worker_that_is_lost_at_any_moment_costs_a_step_at_most(victim: int, slow: int) -> None:
    """Its replica is kept by worker 1, and it keeps that of worker 2."""
    cuts = cuts_of(victim, slow, list(meetings()))
    assert {cut.victim.moment for cut in cuts} == {*STEPPING, *SENDING}
    check(cuts, run_cuts(cuts))


def state_at(step: int) -> list[StateTensor]:
    return [StateTensor(group, name, value(group, name, step)) for group in groups_at(step) for name in NAMES]


def test_a_worker_that_is_started_anew_reads_what_its_node_s_disk_has(tmp_path: Path) -> None:
    """Alone, so that nobody else keeps its state."""
    world, plan = World.alone(), plan_of("B")
    lost = StateMemory(Snapshots(), LocalDisk(tmp_path, tmp_path / "run", "life", "east/0"))
    lost.follow(world, plan, lambda: state_at(3), 3, "ab" * 16)
    lost.before_update()
    disk = LocalDisk(tmp_path, tmp_path / "run", "life", "east/0")
    deadline = time.monotonic() + 60
    while not disk.holdings():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    anew = StateMemory(Snapshots(), disk)
    wants = [[(group, name) for group in groups_at(3) for name in NAMES]]
    source = anew.open_state(world, lambda: wants, 3)
    assert source is not None and (source.step, source.ledger, list(source.tiers)) == (3, "ab" * 16, ["disk"])
    for group, name in wants[0]:
        assert torch.equal(source.read(group, name), value(group, name, 3))
    assert anew.open_state(world, lambda: wants, 4) is None, "a checkpoint is newer"
    lost.end()
    assert not disk.holdings()


def test_a_state_that_was_not_copied_is_copied_when_its_worker_leaves() -> None:
    """A worker that is alone keeps nothing meanwhile; in `every: 5`, the steps between."""
    world, plan = World.alone(), plan_of("B")
    memory = StateMemory(Snapshots(every=5))
    memory.follow(world, plan, lambda: state_at(7), 6)
    memory.before_update()
    memory.step_done(7, None)
    assert memory.step == 0
    memory.leave()
    assert memory.step == 7


def test_what_is_forgotten_is_found_by_nobody(tmp_path: Path) -> None:
    """Neither in memory nor on the node's disk: the run goes back to a checkpoint."""
    world, plan = World.alone(), plan_of("B")
    disk = LocalDisk(tmp_path, tmp_path / "run", "life", "east/0")
    memory = StateMemory(Snapshots(), disk)
    memory.follow(world, plan, lambda: state_at(3), 3, "ab" * 16)
    memory.before_update()
    memory.leave()
    assert memory.step == 3
    memory.forget()
    assert memory.step == 0 and not disk.holdings()
    wants = [[(group, name) for group in groups_at(3) for name in NAMES]]
    assert memory.open_state(world, lambda: wants, 0) is None
