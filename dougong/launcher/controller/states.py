"""The states of a run, each with what belongs to it. Their names are those of `status.json`.

    STARTING -> RUNNING -> (RECOVERING | GROWING -> RUNNING)* -> FINISHED | FAILED
                   \\-> STOPPING -> STOPPED | FINISHED | (RECOVERING ->) FAILED

A stop while there is no step in progress leads from STARTING and RECOVERING to STOPPED at once; one
that comes when all workers are done waits for their last checkpoint. A failure while a run stops is
recovered from no more: RECOVERING ends its workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, Literal

from dougong.errors import DougongError, LaunchError
from dougong.fault.diagnosis import Diagnosis
from dougong.fault.policy import Decision
from dougong.records.events import Phase, PhaseEnded, PhaseStarted

FinalState = Literal["FINISHED", "STOPPED", "FAILED"]


class Stage(Enum):
    """What a start or a recovery waits for at present."""

    WORKERS_END = "workers_end"  # of the failed generation
    BACKEND = "backend"  # opened
    NODES = "nodes"  # listed
    ROOM = "room"  # nothing fits the lost agents now: a node that is back, or another
    PLACES = "places"  # agents started on their nodes
    JOIN = "join"  # agents' first messages
    PATHS = "paths"  # between their machines, tried
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
    something did. `generation`: that of the diagnosed failure. `refused`: a resume that came to no
    generation of its own, since it may not go on."""

    state: FinalState
    status: int
    error: DougongError | None = None
    diagnosis: Diagnosis | None = None
    generation: int = 0
    refused: bool = False

    @staticmethod
    def failed(error: DougongError, has_begun: bool, generation: int = 0) -> Outcome:
        """The end by an error, with its own status; what would be bad input at a start is a failure
        like others of a run that has begun."""
        return Outcome("FAILED", error.status_of(has_begun), error, generation=generation)

    def told(self, text: str) -> DougongError:
        """The error with which a command ends by this outcome: of the same class and status."""
        error = type(self.error)(text) if self.error is not None else LaunchError(text)
        error.exit_status = self.status
        return error


@dataclass(frozen=True)
class Starting:
    """Before the first generation. `since`: when the stage began; `sought_since`: when room for the
    agents was first looked for, None before (both monotonic seconds)."""

    stage: Stage
    since: float
    sought_since: float | None = None
    name: ClassVar[str] = "STARTING"


@dataclass(frozen=True)
class Running:
    """A generation trains."""

    generation: int
    name: ClassVar[str] = "RUNNING"


@dataclass(frozen=True)
class Stopping:
    """A generation ends its step, because of `stop`, `since` that was asked for (monotonic
    seconds)."""

    generation: int
    stop: Stop
    since: float
    name: ClassVar[str] = "STOPPING"


@dataclass(frozen=True)
class Growing:
    """A generation ends its step, so that the next one has more workers; `since` that was asked for
    (monotonic seconds)."""

    generation: int
    since: float
    name: ClassVar[str] = "GROWING"


@dataclass(frozen=True)
class Unfit:
    """A node on which an agent could not be started. `until`: when it may be tried again (monotonic
    seconds), `pause_s` after it failed."""

    why: str
    until: float
    pause_s: float


@dataclass(frozen=True)
class Search:
    """The search for nodes for lost agents, which lasts until a generation begins.

    `since`: when the first of them was missed (monotonic seconds). `unfit`: by the node's id.
    """

    since: float
    unfit: Mapping[str, Unfit] = field(default_factory=dict)


@dataclass(frozen=True)
class Recovering:
    """A generation has failed: its workers are ended, lost agents are laid out and started anew. Or
    it rests, and nothing has failed (`diagnosis` None): agents that stood by are given workers.

    `was_stopping`: it failed while the run was being stopped. `restarted`: names of the agents that
    were started anew. `search`: None where no agent was lost.
    """

    diagnosis: Diagnosis | None
    decision: Decision
    stage: Stage
    since: float
    was_stopping: bool = False
    restarted: tuple[str, ...] = ()
    search: Search | None = None

    @property
    def name(self) -> str:
        return "RECOVERING" if self.diagnosis is not None else "GROWING"


@dataclass(frozen=True)
class Ended:
    """The run is over: FINISHED, STOPPED or FAILED."""

    outcome: Outcome

    @property
    def name(self) -> str:
        return self.outcome.state


State = Starting | Running | Growing | Stopping | Recovering | Ended


_PHASES: dict[Stage, Phase] = {
    Stage.PATHS: "paths",
    Stage.READY: "imports",
    Stage.MODEL: "data",
    Stage.FINGERPRINTS: "probes",
    Stage.CHECKPOINT: "checkpoint",
}
"""The phase of each stage beyond those of the backend, which has its own name."""
_OF_BACKEND = (Stage.BACKEND, Stage.NODES, Stage.ROOM, Stage.PLACES, Stage.JOIN)


class StartPhases:
    """The phase that a run is in, as far as it has come.

    `backend`: what reaching nodes and starting agents is called; `probes`: whether devices are
    probed.
    """

    def __init__(self, backend: Phase, probes: bool) -> None:
        self._backend = backend
        self._probes = probes
        self._phase: Phase | None = None
        self._since = 0.0

    def seconds(self, now: float) -> float:
        """How long the phase has lasted."""
        return now - self._since

    @property
    def current(self) -> Phase | None:
        """None where nothing is prepared: training, or after the end."""
        return self._phase

    def note(
        self, state: State, generation: int, is_built: bool, now: float
    ) -> tuple[PhaseStarted | PhaseEnded, ...]:
        """Where the run is now; the end of the phase before and the beginning of this one, where
        that is news. `generation`: the newest one's number; `is_built`: its workers have built
        their parts of the model."""
        phase = self._phase_of(state, generation, is_built)
        if phase == self._phase:
            return ()
        told: list[PhaseStarted | PhaseEnded] = []
        if self._phase is not None and self._is_done(state):
            seconds = round(self.seconds(now), 3)
            told.append(PhaseEnded(generation=generation, phase=self._phase, seconds=seconds))
        if phase is not None:
            told.append(PhaseStarted(generation=generation, phase=phase))
        self._phase, self._since = phase, now
        return tuple(told)

    def _is_done(self, state: State) -> bool:
        """Whether the phase has ended well, now that the run is in this state: what a failure or a
        stop has cut short is not told as done."""
        if self._phase == "model":
            return isinstance(state, Running)
        return isinstance(state, Starting | Recovering | Running)

    def _phase_of(self, state: State, generation: int, is_built: bool) -> Phase | None:
        match state:
            case Starting(stage) | Recovering(stage=stage):
                return self._phase_of_stage(stage, generation)
            case Running() if not is_built:
                return "model"
            case _:
                return None

    def _phase_of_stage(self, stage: Stage, generation: int) -> Phase | None:
        if stage in _OF_BACKEND:
            return self._backend
        # A run's very first start has no checkpoint to look for.
        if stage is Stage.CHECKPOINT and generation == 0:
            return None
        if stage is Stage.FINGERPRINTS and not self._probes:
            return None
        return _PHASES.get(stage)
