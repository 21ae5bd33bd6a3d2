"""What is known of one worker of a generation, and whether all of them are as far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from dougong.control.progress import WorkerSigns
from dougong.control.worker_messages import StateFetched
from dougong.deadlines import DEADLINES
from dougong.fault.suspicion import Roster, WaitedFor, WorkerView
from dougong.parallel.plan import Worker
from dougong.records.status import StillWorker, WorkerState


@dataclass
class WorkerStatus:
    """One worker of the generation. `step`, `phase`, `operation`: what its progress vector said
    last, `moved_at` when that changed; `awaited`: the ranks that it waits for, as bits; `signs`: of
    life, `seen_at` when its agent told them.

    `is_there`: its process is known to be in this generation; `is_kept`: it was in the one before.
    `rests`: it has done its last step of a generation that ends by order.
    When the generation is broken: `is_leaving`: it is asked to leave, and `held_step` is what it
    holds in memory once it has; `killed_at`: it was killed for that (monotonic seconds).
    """

    worker: Worker
    moved_at: float
    pid: int | None = None
    has_exited: bool = False
    is_done: bool = False
    in_drill: bool = False
    has_failed: bool = False
    is_stalled: bool = False
    is_there: bool = False
    is_kept: bool = False
    stays: bool = False
    rests: bool = False
    is_leaving: bool = False
    held_step: int | None = None
    killed_at: float | None = None
    fetched: StateFetched | None = None
    drill_at: float | None = None
    sequence: int = 0
    step: int = 0
    phase: str = "start"
    operation: int = 0
    awaited: int = 0
    signs: WorkerSigns = field(default_factory=WorkerSigns)
    seen_at: float = -math.inf

    @property
    def has_left(self) -> bool:
        """Whether its process lives, outside of its generation."""
        return self.held_step is not None and not self.has_exited

    @property
    def is_gone(self) -> bool:
        """Whether it is in its generation no more."""
        return self.has_exited or self.held_step is not None

    @property
    def may_survive(self) -> bool:
        """Whether its process can go on although its generation is broken."""
        return not self.has_exited and (self.stays or not self.has_failed)

    def still(self) -> StillWorker:
        """What it was at last, for the record."""
        worker = self.worker
        return StillWorker(name=worker.name, host=worker.node, step=self.step, phase=self.phase)

    def view(self, roster: Roster, now: float) -> WorkerView:
        """How it is now. `roster`: of all workers."""
        return WorkerView(
            self.worker.name,
            self.step,
            self.phase,
            self.operation,
            WaitedFor(roster, self.awaited),
            self.signs,
            is_seen=now - self.seen_at <= DEADLINES.worker_seen_s,
        )

    def describe(self, health: str = "") -> WorkerState:
        """As in status.json. `health`: how it is, in a few words."""
        worker = self.worker
        # All of it is ours: to look at every value again takes twice the time.
        return WorkerState.model_construct(
            name=worker.name,
            host=worker.node,
            pid=self.pid,
            device=worker.device,
            role=worker.role,
            lanes=worker.lanes,
            experts=worker.experts,
            alive=self.pid is not None and not self.has_exited,
            step=self.step,
            phase=self.phase,
            health=health,
            ordered=self.signs.ordered,
        )


class Everybody:
    """Whether all of some workers are so. What they are once they stay, so that each is looked at
    until it is, and never again: to ask after every message costs a look, not one at everybody."""

    def __init__(
        self, workers: Iterable[WorkerStatus], is_so: Callable[[WorkerStatus], bool]
    ) -> None:
        self._left = list(workers)
        self._is_so = is_so

    def __bool__(self) -> bool:
        while self._left and self._is_so(self._left[-1]):
            self._left.pop()
        return not self._left
