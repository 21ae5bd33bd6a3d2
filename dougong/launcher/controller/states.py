"""The states of a run, each with what belongs to it. Their names are those of `status.json`.

    STARTING -> RUNNING -> (RECOVERING -> RUNNING)* -> FINISHED | FAILED
                   \\-> STOPPING -> STOPPED | FINISHED | (RECOVERING ->) FAILED

A stop while there is no step in progress leads from STARTING and RECOVERING to STOPPED at once; one
that comes when all workers are done waits for their last checkpoint. A failure while a run stops is
recovered from no more: RECOVERING ends its workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Literal

from dougong.errors import DougongError
from dougong.fault.diagnosis import Diagnosis
from dougong.fault.policy import Decision

FinalState = Literal["FINISHED", "STOPPED", "FAILED"]


class Stage(Enum):
    """What a start or a recovery waits for at present."""

    WORKERS_END = "workers_end"  # of the failed generation
    BACKEND = "backend"  # opened
    NODES = "nodes"  # listed
    PLACES = "places"  # agents started on their nodes
    JOIN = "join"  # agents' first messages
    READY = "ready"  # agents have imported what workers need
    MODEL = "model"  # model and data looked at
    FINGERPRINTS = "fingerprints"  # of every device
    CHECKPOINT = "checkpoint"  # the newest valid one found


@dataclass(frozen=True)
class Stop:
    """A request to stop, and the exit status that it earns. `now`: do not wait for the step."""

    by: str
    status: int
    now: bool = False


@dataclass(frozen=True)
class Outcome:
    """How the run ended: the final state, the process's exit status, and what went wrong if
    something did. `generation`: that of the diagnosed failure."""

    state: FinalState
    status: int
    error: DougongError | None = None
    diagnosis: Diagnosis | None = None
    generation: int = 0


@dataclass(frozen=True)
class Starting:
    """Before the first generation. `since`: when the stage began (monotonic seconds)."""

    stage: Stage
    since: float
    name: ClassVar[str] = "STARTING"


@dataclass(frozen=True)
class Running:
    """A generation trains."""

    generation: int
    name: ClassVar[str] = "RUNNING"


@dataclass(frozen=True)
class Stopping:
    """A generation ends its step, because of `stop`."""

    generation: int
    stop: Stop
    name: ClassVar[str] = "STOPPING"


@dataclass(frozen=True)
class Recovering:
    """A generation has failed: its workers are ended, lost agents are started again.

    `was_stopping`: it failed while the run was being stopped. `restarted`: agents that had been
    lost, by name.
    """

    diagnosis: Diagnosis
    decision: Decision
    stage: Stage
    since: float
    was_stopping: bool = False
    restarted: tuple[str, ...] = ()
    name: ClassVar[str] = "RECOVERING"


@dataclass(frozen=True)
class Ended:
    """The run is over: FINISHED, STOPPED or FAILED."""

    outcome: Outcome

    @property
    def name(self) -> str:
        return self.outcome.state


State = Starting | Running | Stopping | Recovering | Ended
