"""Who is still alive, judged by timestamps. Pure; all times are seconds of one monotonic clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from dougong.deadlines import Deadlines
from dougong.parallel.comm.arrival import Arrival

_NAMED = 6
"""So many workers are named in one warning; of the others, how many there are."""


def silence_reason(deadlines: Deadlines, answers: bool | None) -> str:
    """Why a silent agent is lost. `answers`: whether its machine takes connections; None: not
    known."""
    text = f"no heartbeat for {deadlines.words('agent_silence_s')}"
    match answers:
        case True:
            return f"{text}, while its machine takes connections: stopped, or it does not answer"
        case False:
            return f"{text}, and its machine takes no connection: node down, or cut off"
        case None:
            return f"{text}: stopped, or its node is down or cut off"


def stalled(moved_at: Mapping[str, float], now: float, deadlines: Deadlines) -> tuple[str, ...]:
    """Workers whose progress has not moved for longer than `stall_warning_s`.

    `moved_at`: by worker, when its progress vector last changed. A stall is a warning only: a step
    may take as long as it takes.
    """
    return tuple(worker for worker, at in moved_at.items() if now - at > deadlines.stall_warning_s)


def stall_reason(phase: str, step: int, deadlines: Deadlines, waits: str = "") -> str:
    """What the warning about a stalled worker says. `waits`: for whom, where that is known."""
    text = f"no progress for {deadlines.stall_warning_s:g} s, in {phase} of step {step}"
    return f"{text}: {waits}" if waits else text


def arrival_words(arrival: int, behind: Sequence[str]) -> str:
    """What a worker waits for that has not begun a step. `behind`: those who have come less far,
    such as `west/0 on node2`."""
    others = ", ".join(behind[:_NAMED]) or "the other workers"
    if len(behind) > _NAMED:
        others = f"{others} and {len(behind) - _NAMED} more"
    match arrival:
        case Arrival.BEGINS:
            return "it has not come to the controller's store"
        case Arrival.AT_STORE:
            return f"it waits at the controller's store for {others}"
        case Arrival.CONNECTS:
            return f"it connects to {others}"
        case _:
            return "it builds its part of the model"


def limit_of_stop(phases: Collection[str], is_committing: bool) -> str:
    """The field of `Deadlines` that says how long the workers of a run that is to stop may stand
    still. `phases`: of those that live.

    A step moves all the time; a checkpoint on slow storage may take long without a movement.
    """
    writes = is_committing or "checkpoint" in phases
    return "commit_checkpoint_s" if writes else "stop_step_s"


def is_last_worker_late(first_done_at: float | None, now: float, deadlines: Deadlines) -> bool:
    """Whether a worker still at work has hung: all workers end their last step together, so the
    first one's end (None: nobody's yet) sets a time for the others."""
    return first_done_at is not None and now - first_done_at > deadlines.last_worker_s


def late_reason(deadlines: Deadlines) -> str:
    """Why a worker that is still at work is given up."""
    return f"still at work {deadlines.words('last_worker_s')} after the first worker was done"
