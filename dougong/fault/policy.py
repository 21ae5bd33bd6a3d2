"""What is done about a failure: a pure function of the diagnosis, the job's policy and what
happened before.

The table says of each class of failure whether the run goes on, and whether that counts:

    class                                      decision              counts
    crash, out_of_memory, exception, hang,
    slow, node_lost, partition, corruption     restart               yes
    device                                     restart; quarantine   yes
                                               where it is given up
    storage                                    wait_for_storage      once, until a step is done
    preemption                                 restart               no: nobody failed
    data, model, numerics, irreproducible      fail

A device that a corruption points at counts as one that has failed: it is given up when that
comes again.

`fault.actions` overrides the rows that go on, one by one; `fault.per_hour` counts one of them by
itself. Whatever the class, what comes again at the same place of the program and the same step, or
with no step in between, is taken for a program error, which comes each time.

Three more decisions fall elsewhere. `ignore`: a fork server is lost, and no worker with it. Of a
step that is not finite, all workers alike decide before anything is lost (`step_decision`):
`retry_step`, then `skip_batch`. Where those go that are begun anew (a spare, another node, fewer
workers) follows from the nodes that there are (`fault.replacement`), and is told with this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dougong.deadlines import DEADLINES, Deadlines
from dougong.fault.diagnosis import Diagnosis, FailureKind, Origin
from dougong.job.fault.actions import Action
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
    """What is done, as `job.fault.actions` has it; all but `fail` form the next generation.
    `pause_s`: not before so many seconds have passed."""

    action: Action
    reason: str
    pause_s: float = 0.0


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
        recent = [past for past in history if past.at_s >= since]
        if kind is not None:
            return sum(past.diagnosis.kind == kind for past in recent)
        return sum(not _is_free(past) for past in recent)


def _is_free(past: PastFailure) -> bool:
    # Storage that is away fails every try until it is back: that is one failure.
    goes_on = past.diagnosis.kind == "storage" and not past.has_stepped
    return goes_on or past.diagnosis.kind in FREE


def decide(
    failure: PastFailure, policy: Fault, history: Sequence[PastFailure], budget: Budget
) -> Decision:
    """`failure`: the one to decide on; `history`: those of this run before it, oldest first."""
    kind = failure.diagnosis.kind
    action = policy.actions.of(kind)
    if action is None:
        return Decision("fail", f"a {kind} error would come again")
    if action == "fail":
        return Decision("fail", f"fault.actions.{kind} is fail")
    again = _comes_again(failure, history)
    if again is not None:
        return Decision("fail", again)
    if action == "wait_for_storage":
        waits = _wait_for_storage(failure, policy, history)
        if waits is not None:
            return waits
    if action == "quarantine" and not is_given_up(failure, policy, history):
        action = "restart"
    if action == "restart" and is_given_up(failure, policy, history):
        action = "quarantine"
    if kind in FREE:
        return Decision(action, f"a {kind} is not counted")
    return _within_budget(failure, action, policy, history, budget)


def _within_budget(
    failure: PastFailure,
    action: Action,
    policy: Fault,
    history: Sequence[PastFailure],
    budget: Budget,
) -> Decision:
    kind = failure.diagnosis.kind
    own = next((most for name, most in policy.per_hour.items() if name == kind), None)
    spent = budget.spent(history, None if own is None else kind)
    most = policy.max_restarts if own is None else own
    key = "fault.max_restarts" if own is None else f"fault.per_hour.{kind}"
    if spent >= most:
        return Decision("fail", f"{key} is {most} and they are used up")
    return Decision(action, f"recovery {spent + 1} of {most}")


def is_given_up(failure: PastFailure, policy: Fault, history: Sequence[PastFailure]) -> bool:
    """Whether a device has failed that is not used again in this run, also where the run ends."""
    diagnosis = failure.diagnosis
    if diagnosis.culprit.kind != "device" or policy.actions.device != "quarantine":
        return False
    before = sum(past.diagnosis.culprit == diagnosis.culprit for past in history)
    return diagnosis.is_final or before + 1 >= policy.quarantine.after


def _wait_for_storage(
    failure: PastFailure, policy: Fault, history: Sequence[PastFailure]
) -> Decision | None:
    """A further try where storage has failed the ones before, too; None for the first failure,
    which counts as any."""
    tries, first_at, latest = 0, failure.at_s, failure
    for past in reversed(history):
        if latest.has_stepped or past.diagnosis.kind != "storage":
            break
        tries, first_at, latest = tries + 1, past.at_s, past
    if not tries:
        return None
    limits = policy.limits()
    waited = limits.words("storage_wait_s")
    if failure.at_s - first_at > limits.storage_wait_s:
        return Decision("fail", f"storage has failed {tries + 1} tries: the run waited {waited}")
    pause_s = storage_pause_s(limits, tries)
    reason = f"try {tries + 1} in {pause_s:g} s; waits {waited} at most"
    return Decision("wait_for_storage", reason, pause_s)


def storage_pause_s(limits: Deadlines, tries: int) -> float:
    """Seconds until storage that has failed so many tries before is tried again. Twice as long each
    time: who mends it needs minutes, and a try may cost a start."""
    return min(limits.storage_retry_s * 2.0**tries, limits.storage_wait_s / 10)


def step_decision(policy: Fault, times: int) -> Literal["fail", "retry_step", "skip_batch"]:
    """What is done about a step that is not finite, which has been computed so often by now. What
    a device has computed wrongly is right the next time; what the batch brings about is not."""
    if policy.non_finite == "stop":
        return "fail"
    return "retry_step" if times == 1 else "skip_batch"


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
