"""What is done about a failure: a pure function of the diagnosis, the job's policy and what
happened before.

The table says of each class of failure whether the run goes on, and whether that counts:

    class                                                       decision    counts
    crash, out_of_memory, exception, hang, device, corruption,
    slow, node_lost, partition, storage                         restart     yes
    preemption                                                  restart     no: nobody failed
    data, model, numerics, irreproducible                       fail

`fault.stop_on` ends the run at classes of the first row, and `fault.per_hour` counts one of them by
itself. Whatever the class, what comes again at the same place of the program and the same step, or
with no step in between, is taken for a program error, which comes each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dougong.deadlines import DEADLINES
from dougong.fault.diagnosis import Diagnosis, FailureKind, Origin
from dougong.job.schema import Fault

DETERMINISTIC: tuple[FailureKind, ...] = ("data", "model", "numerics", "irreproducible")
"""A generation that begins anew computes the same from the same."""
FREE: tuple[FailureKind, ...] = ("preemption",)
"""Somebody wants the machine back: that says nothing against the run."""


@dataclass(frozen=True)
class PastFailure:
    """A failure that the run has had. `has_stepped`: whether its generation had completed a step
    before; `step`: the run's last one done by then; `at_s`: when, monotonic seconds."""

    generation: int
    diagnosis: Diagnosis
    has_stepped: bool = False
    step: int = 0
    at_s: float = 0.0


@dataclass(frozen=True)
class Decision:
    """`restart`: form the next generation, from memory or from the newest valid checkpoint. `fail`:
    end the run."""

    action: Literal["restart", "fail"]
    reason: str


@dataclass(frozen=True)
class Budget:
    """Which failures count. `now`: monotonic seconds; `progressed_at`: when the run last came to a
    new checkpoint (None: never): what was before that, it has got over."""

    now: float
    progressed_at: float | None = None

    def spent(self, history: Sequence[PastFailure], kind: FailureKind | None = None) -> int:
        """How many failures count, of this class where one is named."""
        since = self.now - DEADLINES.budget_s
        if self.progressed_at is not None:
            since = max(since, self.progressed_at)
        recent = [past.diagnosis.kind for past in history if past.at_s >= since]
        if kind is not None:
            return recent.count(kind)
        return sum(one not in FREE for one in recent)


def decide(
    failure: PastFailure, policy: Fault, history: Sequence[PastFailure], budget: Budget
) -> Decision:
    """`failure`: the one to decide on; `history`: those of this run before it, oldest first."""
    kind = failure.diagnosis.kind
    if kind in DETERMINISTIC:
        return Decision("fail", f"a {kind} error would come again")
    if kind in policy.stop_on:
        return Decision("fail", f"fault.stop_on names {kind}")
    again = _comes_again(failure, history)
    if again is not None:
        return Decision("fail", again)
    if kind in FREE:
        return Decision("restart", f"a {kind} is not counted")
    own = next((most for name, most in policy.per_hour.items() if name == kind), None)
    spent = budget.spent(history, None if own is None else kind)
    most = policy.max_restarts if own is None else own
    key = "fault.max_restarts" if own is None else f"fault.per_hour.{kind}"
    if spent >= most:
        return Decision("fail", f"{key} is {most} and they are used up")
    return Decision("restart", f"recovery {spent + 1} of {most}")


def _comes_again(failure: PastFailure, history: Sequence[PastFailure]) -> str | None:
    """In which way the failure is one that would come again, in words; None: it is not."""
    origin = failure.diagnosis.origin
    if origin is None:
        return None
    tail = "so it is taken for one that would come again"
    last = history[-1] if history else None
    # A step in between says that the run got past it: what failed then was something else, or
    # chance.
    if last is not None and last.diagnosis.origin == origin and not failure.has_stepped:
        return f"{_words(origin)} came twice with no step in between, {tail}"
    # ... unless the steps in between were those computed again on the way to the same one.
    for past in history:
        if past.diagnosis.origin == origin and past.step == failure.step:
            return f"{_words(origin)} came twice in step {failure.step + 1}, {tail}"
    return None


def _words(origin: Origin) -> str:
    return f"{origin.type} at {origin.place}" if origin.place else origin.type
