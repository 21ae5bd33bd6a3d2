"""What happens to a run: each event is one line of `events.jsonl`, here in the order of a run's
life.

The classes are the file's format; nothing else reads or writes it. A line holds the fields of its
class by their names, but for `failure`, which is `class` there, and `num_bytes`, which is `bytes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from dougong.fault.culprit import Culprit
from dougong.records.event.agents import StartedAgent as StartedAgent
from dougong.records.event.base import RunEvent as RunEvent
from dougong.records.event.base import read_wall as read_wall
from dougong.records.event.faults import DeviceQuarantined as DeviceQuarantined
from dougong.records.event.faults import DrillFired as DrillFired
from dougong.records.event.faults import FailureDiagnosed as FailureDiagnosed
from dougong.records.event.faults import Recovered as Recovered
from dougong.records.event.faults import RecoveryDecided as RecoveryDecided
from dougong.records.event.faults import SurvivorLost as SurvivorLost
from dougong.records.event.faults import Suspected as Suspected
from dougong.records.event.faults import SuspicionEnded as SuspicionEnded
from dougong.records.event.faults import WorkerDied as WorkerDied
from dougong.records.event.links import LinksMeasured as LinksMeasured
from dougong.records.event.reserve import ReserveEvent as ReserveEvent
from dougong.records.event.reserve import RunGrown as RunGrown
from dougong.records.event.reserve import RunShrunk as RunShrunk
from dougong.records.event.reserve import SpareLost as SpareLost
from dougong.records.event.reserve import SpareShort as SpareShort
from dougong.records.event.reserve import SpareStands as SpareStands
from dougong.records.event.reserve import SpareTook as SpareTook
from dougong.records.event.steps import FirstStep as FirstStep
from dougong.records.event.steps import StepSkipped as StepSkipped
from dougong.records.event.steps import StepsRecomputed as StepsRecomputed
from dougong.records.event.storage import CheckpointsLeft as CheckpointsLeft
from dougong.records.event.storage import StorageAnswered as StorageAnswered
from dougong.records.event.storage import StorageTroubled as StorageTroubled
from dougong.records.machine import Machine
from dougong.records.status import StillWorker


class RunCreated(RunEvent):
    """A command has begun the run or gone on with it. `command`: its words; `machine`: where the
    controller runs; `changed`: keys that a resume gave other values and that may change bits;
    `address`: HOST:PORT of the Ray cluster that it joins, empty where it joins none."""

    kind: Literal["created"] = "created"
    job: str
    command: tuple[str, ...] = ()
    machine: Machine = Machine()
    changed: tuple[str, ...] = ()
    address: str = ""


class StateChanged(RunEvent):
    """The run's state machine is in another state."""

    kind: Literal["state"] = "state"
    state: str


Phase = Literal["Ray", "agents", "paths", "imports", "data", "probes", "checkpoint", "model"]
"""What a start or a recovery is at: nodes and agents (by Ray or without), the paths between their
machines, what workers import, the look at model and data, the probes of the devices, the search for
a valid checkpoint, and the building of every worker's part of the model."""


class PhaseStarted(RunEvent):
    """A phase of a start or a recovery has begun."""

    kind: Literal["phase_started"] = "phase_started"
    phase: Phase


class PhaseEnded(RunEvent):
    """It is over. `seconds`: how long it took."""

    kind: Literal["phase_ended"] = "phase_ended"
    phase: Phase
    seconds: float


class Waiting(RunEvent):
    """What a start or a recovery waits for and cannot bring about itself, such as devices that
    another job holds."""

    kind: Literal["waiting"] = "waiting"
    text: str


class RayChanged(RunEvent):
    """A part of Ray, which a run needs at its start and to find a node alone, is gone (`is_lost`)
    or there again: the cluster's head, a node's raylet, our process that speaks with them."""

    kind: Literal["ray"] = "ray"
    part: Literal["head", "raylet", "driver"]
    is_lost: bool
    text: str


class AgentsStarted(RunEvent):
    """Agents have joined: all of them at the start, those that were started again later."""

    kind: Literal["agents_started"] = "agents_started"
    agents: tuple[StartedAgent, ...]


class ModelInspected(RunEvent):
    """What was found of the model and the data, and the recipe that follows from them.
    `active_parameters`: those that a token meets."""

    kind: Literal["inspected"] = "inspected"
    family: str
    parameters: int
    active_parameters: int = 0
    precision: str = ""
    tensors: int = 0
    sites: int = 0
    experts: int
    data: dict[str, Any] = {}
    recipe: dict[str, Any] = {}


class FingerprintsTaken(RunEvent):
    """Every device's arithmetic is known. `classes`: worker -> its class; `seconds`: how long that
    took."""

    kind: Literal["fingerprints"] = "fingerprints"
    classes: dict[str, str]
    seconds: float = 0.0


class MovedWorker(BaseModel):
    """A worker that a recovery has laid on another node: the nodes' names."""

    model_config = ConfigDict(frozen=True)

    worker: str
    before: str
    now: str


class PlanLaid(RunEvent):
    """Numbers of workers, lanes and experts; the variables that each island's workers are given;
    which workers are on other nodes than in the generation before."""

    kind: Literal["planned"] = "planned"
    workers: int
    lanes: int
    experts: int
    environment: dict[str, dict[str, str]] = {}
    moved: tuple[MovedWorker, ...] = ()


class GenerationStarted(RunEvent):
    """Workers are being forked, and those that live are handed the task. `resume`: the checkpoint's
    name; `step`: the last one done; `in_memory`: a worker holds that step in memory (they have yet
    to agree on one, which `StateRestored` tells), and `resume` is for what no memory holds."""

    kind: Literal["generation_started"] = "generation_started"
    workers: tuple[str, ...]
    resume: str | None = None
    step: int = 0
    in_memory: bool = False


class StateRestored(RunEvent):
    """Every worker of the generation holds its part of the state after `step`. `tiers`: bytes by
    where they came from: the worker's own memory, a peer's, a local disk, a checkpoint;
    `seconds`: of the slowest worker."""

    kind: Literal["state_restored"] = "state_restored"
    step: int
    tiers: dict[str, int] = {}
    seconds: float = 0.0


class CheckpointStarted(RunEvent):
    """The first worker's part of a checkpoint has come."""

    kind: Literal["checkpoint_started"] = "checkpoint_started"
    step: int


class CheckpointCommitted(RunEvent):
    """A checkpoint exists. `directory`: its name; `after_failures`: so many in a row before it were
    not committed."""

    kind: Literal["checkpoint_committed"] = "checkpoint_committed"
    step: int
    directory: str
    num_bytes: int = Field(validation_alias="bytes", serialization_alias="bytes")
    seconds: float
    after_failures: int = 0


class CheckpointFailed(RunEvent):
    """A checkpoint could not be committed, and training goes on for the moment. `newest`: the step
    of the newest one that there is, 0 for none; `in_a_row`: so many have failed since."""

    kind: Literal["checkpoint_failed"] = "checkpoint_failed"
    step: int
    reason: str
    newest: int = 0
    in_a_row: int = 1


class CheckpointRejected(RunEvent):
    """A checkpoint that does not hold what was written. `aside`: where it lies since."""

    kind: Literal["checkpoint_rejected"] = "checkpoint_rejected"
    directory: str
    reason: str
    aside: str = ""


class CheckpointsSetAside(RunEvent):
    """Somebody had the run go on from an earlier `step` (0: its beginning): the checkpoints
    `names` lie in `folder` now, and count no more."""

    kind: Literal["checkpoints_set_aside"] = "checkpoints_set_aside"
    step: int
    names: tuple[str, ...]
    folder: str


class NoteTaken(RunEvent):
    """Something that a person should be told once, and that is as it should be."""

    kind: Literal["note"] = "note"
    text: str


class WarningRaised(RunEvent):
    """Something that a person should know; nothing has stopped."""

    kind: Literal["warning"] = "warning"
    text: str
    workers: tuple[str, ...] = ()


class StopRequested(RunEvent):
    """Somebody asked the run to end after its step; `now`: without waiting for it."""

    kind: Literal["stop_requested"] = "stop_requested"
    by: str
    now: bool = False


class StepGivenUp(RunEvent):
    """A run that was to stop has been ended within its step, since its workers had stood still for
    `limit`, in words. `checkpoint`: the name of the newest, None where there is none."""

    kind: Literal["step_given_up"] = "step_given_up"
    limit: str
    workers: tuple[StillWorker, ...] = ()
    checkpoint: str | None = None


class RunEnded(RunEvent):
    """The controller's last event but for its state. `cause`, `culprit`, `failure`: of a failed
    run, the last two where something failed in it; `worker`: the culprit, where that is one.
    `saved`: the step of the newest checkpoint, 0 for none; None in what an earlier release wrote.
    `gives_up_memory`: workers that have outlived their controller are to end with what they hold.
    `refused`: a resume that came to no generation of its own, since it may not go on.
    """

    kind: Literal["finished", "stopped", "failed"]
    step: int
    refused: bool = False
    saved: int | None = None
    cause: str | None = None
    worker: str | None = None
    node: str = ""
    gives_up_memory: bool = False
    culprit: Culprit | None = None
    failure: str | None = Field(None, validation_alias="class", serialization_alias="class")

    @property
    def num_unsaved(self) -> int:
        """How many steps a resume computes again."""
        return 0 if self.saved is None else max(self.step - self.saved, 0)

    @property
    def who(self) -> Culprit | None:
        """The culprit, also where an earlier release has named a worker alone."""
        if self.culprit is not None or not self.worker:
            return self.culprit
        return Culprit("worker", self.worker, self.node)


Event = Annotated[
    RunCreated
    | StateChanged
    | PhaseStarted
    | PhaseEnded
    | Waiting
    | RayChanged
    | AgentsStarted
    | ModelInspected
    | FingerprintsTaken
    | PlanLaid
    | GenerationStarted
    | LinksMeasured
    | StateRestored
    | FirstStep
    | StepsRecomputed
    | StepSkipped
    | DrillFired
    | Suspected
    | SuspicionEnded
    | WorkerDied
    | FailureDiagnosed
    | RecoveryDecided
    | DeviceQuarantined
    | SurvivorLost
    | Recovered
    | SpareStands
    | SpareLost
    | SpareShort
    | SpareTook
    | RunShrunk
    | RunGrown
    | CheckpointStarted
    | CheckpointCommitted
    | CheckpointFailed
    | CheckpointRejected
    | CheckpointsSetAside
    | CheckpointsLeft
    | StorageTroubled
    | StorageAnswered
    | NoteTaken
    | WarningRaised
    | StopRequested
    | StepGivenUp
    | RunEnded,
    Field(discriminator="kind"),
]
"""Any of them; `kind` says which."""

EVENTS: TypeAdapter[Event] = TypeAdapter(Event)


def to_json(event: Event) -> dict[str, Any]:
    """The event as its line holds it."""
    return event.model_dump(mode="json", by_alias=True)


def from_json(fields: Mapping[str, Any]) -> Event:
    """The event of one line. pydantic.ValidationError when this release has no such event."""
    return EVENTS.validate_python(fields)
