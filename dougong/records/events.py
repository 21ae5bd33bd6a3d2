"""What happens to a run, as its record says it: one line of `events.jsonl` each, in this order of
a run's life. Written and read here and nowhere else.

Every event has `kind`, `generation`, `monotonic_s` (seconds since the boot of the controller's
machine) and `wall` (ISO 8601, UTC); the last two are set when it is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class RunEvent(BaseModel):
    """What all events have. A field that this release does not know is kept as it stands."""

    model_config = ConfigDict(
        frozen=True, extra="allow", populate_by_name=True, ser_json_inf_nan="constants"
    )

    kind: str
    generation: int
    monotonic_s: float = 0.0
    wall: str = ""


class RunCreated(RunEvent):
    """`dougong run` or `resume` has begun. `machine`: `machine.describe_machine()`."""

    kind: Literal["created"] = "created"
    job: str
    command: tuple[str, ...] = ()
    machine: dict[str, Any] = {}


class StateChanged(RunEvent):
    """The run's state machine is in another state."""

    kind: Literal["state"] = "state"
    state: str


class AgentsStarted(RunEvent):
    """Agents that have joined: node, island, address, versions, accelerator, devices,
    environment."""

    kind: Literal["agents_started"] = "agents_started"
    agents: tuple[dict[str, Any], ...] = ()


class ModelInspected(RunEvent):
    """What was found of the model and the data, and the recipe that follows from them."""

    kind: Literal["inspected"] = "inspected"
    family: str = ""
    parameters: int = 0
    tensors: int = 0
    sites: int = 0
    experts: int = 0
    data: dict[str, Any] = {}
    recipe: dict[str, Any] = {}


class FingerprintsTaken(RunEvent):
    """Worker -> class of its device's arithmetic; how long that took."""

    kind: Literal["fingerprints"] = "fingerprints"
    classes: dict[str, str] = {}
    seconds: float = 0.0


class PlanLaid(RunEvent):
    """Numbers of workers, lanes and experts; the variables that each island's workers are given."""

    kind: Literal["planned"] = "planned"
    workers: int = 0
    lanes: int = 0
    experts: int = 0
    environment: dict[str, dict[str, str]] = {}


class GenerationStarted(RunEvent):
    """Workers are being forked. `resume`: the checkpoint's name; `step`: the last one done."""

    kind: Literal["generation_started"] = "generation_started"
    workers: tuple[str, ...] = ()
    resume: str | None = None
    step: int = 0


class FirstStep(RunEvent):
    """The generation's first step is done."""

    kind: Literal["first_step"] = "first_step"
    step: int


class DrillFired(RunEvent):
    """A rehearsed fault is about to happen."""

    kind: Literal["drill"] = "drill"
    worker: str
    step: int
    action: str = "kill"


class WorkerDied(RunEvent):
    """The first failure of a generation. `failure`: its class, `class` in the file."""

    kind: Literal["worker_died"] = "worker_died"
    worker: str
    failure: str = Field("", validation_alias="class", serialization_alias="class")
    cause: str = ""


class FailureDiagnosed(RunEvent):
    """Who failed first and why; `followed_by`: workers whose failures are its consequence."""

    kind: Literal["diagnosis"] = "diagnosis"
    worker: str
    failure: str = Field("", validation_alias="class", serialization_alias="class")
    cause: str = ""
    detail: str = ""
    followed_by: tuple[str, ...] = ()


class RecoveryDecided(RunEvent):
    """What is done about a failure."""

    kind: Literal["decision"] = "decision"
    action: str
    reason: str = ""


class CheckpointStarted(RunEvent):
    """The first worker's part of a checkpoint has come."""

    kind: Literal["checkpoint_started"] = "checkpoint_started"
    step: int


class CheckpointCommitted(RunEvent):
    """A checkpoint exists. `directory`: its name."""

    kind: Literal["checkpoint_committed"] = "checkpoint_committed"
    step: int
    directory: str = ""
    num_bytes: int | None = Field(None, validation_alias="bytes", serialization_alias="bytes")
    seconds: float | None = None


class CheckpointRejected(RunEvent):
    """A checkpoint that does not hold what was written."""

    kind: Literal["checkpoint_rejected"] = "checkpoint_rejected"
    directory: str
    reason: str = ""


class WarningRaised(RunEvent):
    """Something that a person should know; nothing has stopped."""

    kind: Literal["warning"] = "warning"
    text: str
    workers: tuple[str, ...] = ()


class StopRequested(RunEvent):
    """Somebody asked the run to end after its step."""

    kind: Literal["stop_requested"] = "stop_requested"
    by: str


class RunEnded(RunEvent):
    """The run's last event. `cause`, `worker`, `failure`: of a failed run."""

    kind: Literal["finished", "stopped", "failed"]
    step: int = 0
    cause: str | None = None
    worker: str | None = None
    failure: str | None = Field(None, validation_alias="class", serialization_alias="class")


Event = Annotated[
    RunCreated
    | StateChanged
    | AgentsStarted
    | ModelInspected
    | FingerprintsTaken
    | PlanLaid
    | GenerationStarted
    | FirstStep
    | DrillFired
    | WorkerDied
    | FailureDiagnosed
    | RecoveryDecided
    | CheckpointStarted
    | CheckpointCommitted
    | CheckpointRejected
    | WarningRaised
    | StopRequested
    | RunEnded,
    Field(discriminator="kind"),
]
"""Any of them, told apart by `kind`."""

EVENTS: TypeAdapter[Event] = TypeAdapter(Event)


def to_json(event: Event) -> dict[str, Any]:
    """The event as its line of the file holds it: `class` and `bytes` are names there."""
    return event.model_dump(mode="json", by_alias=True)


def from_json(fields: Mapping[str, Any]) -> Event:
    """The event of one line. pydantic.ValidationError when it is none of this release."""
    return EVENTS.validate_python(fields)
