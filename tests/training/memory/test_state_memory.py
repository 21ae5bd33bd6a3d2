"""What workers keep of the run's state: wherever one of them is lost, a step is whole among the others, at most one
step before the furthest; and it is that step to the bit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest
from dougong.job.fault.snapshots import Snapshots
from dougong.parallel.comm.world import World
from dougong.training.memory.state_memory import StateMemory
from tests.parallel.workers import plan_of
from tests.processes import CONTEXT, run_workers
from tests.training.memory.cutting import NAMES, SENDING, STEPPING, Cut, Found, Place, Stage, live, value
from torch.distributed import TCPStore  # type: ignore[attr-defined]

BEFORE_REPORT = ("computes", "waits", "says")
AFTER_REPORT = ("decided", "updates", "updated")


def test_a_new_process_holds_nothing() -> None:
    memory = StateMemory(Snapshots())
    assert memory.step == 0
    assert memory.open_state(World.alone(), [[("model", "t")]], 0) is None


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
