"""`dougong drill RUN`: faults that are ordered from a run's controller while it trains."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dougong.control.messages import OrderDrill, Ping
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import LaunchError, NotNowError
from dougong.job.drills.vocabulary import (
    MOST_APART_S,
    NamedFault,
    continuing,
    known_fault,
    orderable,
)
from dougong.launcher.client import ask_controller
from dougong.records.directory import RunDir
from dougong.records.events import (
    DrillFired,
    Event,
    FirstStep,
    RecoveryDecided,
    RunEnded,
    SuspicionEnded,
)
from dougong.tools.drill.schedule import PlannedFault, draw_fault
from dougong.tools.drill.score import ScoredFault, Struck, judge


@dataclass(frozen=True)
class RunDrills:
    """Drills of one run. `sleep`: waits; seconds. `tell`: hears what a drill waits for."""

    run_dir: RunDir
    deadlines: Deadlines = DEADLINES
    sleep: Callable[[float], None] = time.sleep
    tell: Callable[[str], None] = lambda text: None

    def refuse_if_over(self) -> None:
        """LaunchError where no controller is there that could have anything done, with what to type
        instead: before anything is announced."""
        ask_controller(self.run_dir, Ping(), self.deadlines)

    def workers(self) -> tuple[str, ...]:
        """Those of the present generation. LaunchError where there are none."""
        status = self.run_dir.read_status()
        names = tuple(worker.name for worker in status.workers) if status is not None else ()
        if not names:
            raise LaunchError(f"{self.run_dir.path}: has no workers now; `dougong status` says why")
        return names

    def draw(self, seed: int, count: int) -> Iterator[PlannedFault]:
        """`count` faults that the run survives, of those that anybody may order. `after_s`: the
        time to let it train before."""
        rows = [fault for fault in continuing() if fault in orderable()]
        workers = self.workers()
        for number in range(1, count + 1):
            chance = random.Random(f"{seed}/{number}")
            (drawn,) = draw_fault(chance, chance.choice(rows), workers, at_step=1)
            after_s = round(chance.uniform(1, MOST_APART_S), 1)
            yield PlannedFault(drawn.fault, drawn.worker, after_s=after_s, for_s=drawn.for_s)

    def rehearse(self, planned: PlannedFault) -> ScoredFault:
        """Have it done, and wait until the run trains again. LaunchError when the controller
        refuses, with what to do instead, or does not answer, or when the worker that was to do it
        to itself has not come to that."""
        self.sleep(planned.after_s or 0.0)
        num_before = self._order(OrderDrill(planned.fault, planned.worker, planned.for_s))
        until = time.monotonic() + self.deadlines.drill_s
        waits = ""
        while True:
            events = self.run_dir.read_events()[num_before:]
            fired = [event for event in events if isinstance(event, DrillFired)]
            if fired:
                waits = self._not_begun(planned, fired[0].generation, waits)
            is_late = time.monotonic() > until
            if fired and (is_late or self._is_over(planned, fired[0], events)):
                struck = Struck(planned.fault, planned.worker, fired[0].monotonic_s)
                verdict = judge([struck], events)[0]
                if waits and not verdict.is_right:
                    raise LaunchError(
                        f"{self.run_dir.path}: {planned.fault} was ordered and not done: {waits}"
                    )
                return verdict
            if is_late:
                limit = self.deadlines.words("drill_s")
                raise LaunchError(f"{self.run_dir.path}: nothing has come of it within {limit}")
            self.sleep(self.deadlines.poll_every_s)

    def _order(self, order: OrderDrill) -> int:
        """Order it, when the run trains: something else may have befallen it meanwhile. How many
        events there were before."""
        until, is_told = time.monotonic() + self.deadlines.drill_s, False
        while True:
            num_before = len(self.run_dir.read_events())
            try:
                ask_controller(self.run_dir, order, self.deadlines)
                return num_before
            except NotNowError as error:
                limit = self.deadlines.words("drill_s")
                if time.monotonic() > until:
                    raise LaunchError(f"{error}; waited {limit}") from error
                if not is_told:
                    self.tell(f"waits until the run trains again, {limit} at most")
                is_told = True
            self.sleep(self.deadlines.poll_every_s)

    def _not_begun(self, planned: PlannedFault, generation: int, before: str) -> str:
        """What is in the way of a fault that a worker of this generation is to do to itself, and
        has not begun; empty where nothing is. `before`: the same, a moment ago."""
        status = self.run_dir.read_status()
        if status is None or status.generation != generation:
            return before  # it went with its worker
        for worker in status.workers:
            if worker.name == planned.worker and worker.ordered == planned.fault:
                at, health = f"{worker.phase} of step {worker.step}", worker.health or "running"
                waits = f"{worker.name} does it as its next step begins, and is in {at} ({health})"
                if not before:
                    self.tell(f"ordered: {waits}")
                return waits
        return ""

    def _is_over(self, planned: PlannedFault, fired: DrillFired, events: list[Event]) -> bool:
        """Whether the run trains again, or has ended; of what need not be named, whether its time
        is over and a further step is done."""
        fault = known_fault(planned.fault)
        if any(_settles(event, fault) for event in events):
            return True
        if fault is not None and fault.must_be_named:
            steps = [event for event in events if isinstance(event, FirstStep)]
            return any(event.generation > fired.generation for event in steps)
        status = self.run_dir.read_status()
        lasts_s = planned.for_s or 0.0
        has_stepped = status is not None and status.step > fired.step
        return has_stepped and time.monotonic() > fired.monotonic_s + lasts_s


def _settles(event: Event, fault: NamedFault | None) -> bool:
    """Whether nothing follows: the run is over, or nothing is done about the fault, which may have
    been over before that."""
    match event:
        case RunEnded() | RecoveryDecided(action="ignore"):
            return True
        case SuspicionEnded(culprit=culprit):
            return fault is not None and fault.must_be_named and culprit.kind in fault.culprits
        case _:
            return False
