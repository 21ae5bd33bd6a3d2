"""Where a run stands (status.json, for `dougong status` and for programs) and how its controller is
reached. Written by the controller alone."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dougong.parallel.plan import read_experts

FINAL_STATES = ("FINISHED", "STOPPED", "FAILED")
"""With these a run has ended by the word of its controller."""

STATES = ("STARTING", "RUNNING", "STOPPING", "RECOVERING", "GROWING", *FINAL_STATES, "LOST")
"""All of them. LOST is what a reader says of a run whose controller is gone."""


class WorkerState(BaseModel):
    """One worker of the present generation. `lanes`: numbers. `experts`: site by site, the numbers
    of its experts. `health`: how it is, in a few words: running, for whom it waits, or what is
    suspected of it. `ordered`: the fault of a drill that it is to do to itself as its next step
    begins; empty: none."""

    model_config = ConfigDict(frozen=True)

    name: str
    host: str = ""
    pid: int | None = None
    device: str = ""
    role: str = ""
    lanes: tuple[int, ...] = ()
    experts: tuple[tuple[int, ...], ...] = ()
    alive: bool = False
    step: int = 0
    phase: str = ""
    health: str = ""
    ordered: str = ""

    @field_validator("experts", mode="before")
    @classmethod
    def _read_text(cls, value: Any) -> Any:
        """Runs of earlier releases wrote `0-3 x2 | none`."""
        return read_experts(value) if isinstance(value, str) else value


class StillWorker(BaseModel):
    """What a worker was at that has not moved since."""

    model_config = ConfigDict(frozen=True)

    name: str
    host: str = ""
    step: int = 0
    phase: str = ""


class Goodput(BaseModel):
    """Where a run's time went. `parts`: seconds by part, as `ui.goodput.meter` names them, which
    are all of the time since the run began, up to `until` (ISO 8601, UTC); `under_way_s`: what of
    it is taken for training, of a step that is not done; `steps_lost`: how many steps that were
    done had to be given up, `steps_again`: how many of them have been computed again."""

    model_config = ConfigDict(frozen=True)

    parts: dict[str, float] = {}
    under_way_s: float = 0.0
    steps_lost: int = 0
    steps_again: int = 0
    until: str = ""

    @property
    def wall_s(self) -> float:
        """All of the time."""
        return sum(self.parts.values())

    @property
    def share(self) -> float | None:
        """The part of it in which steps were computed that count; None before any time went by."""
        return self.parts.get("training", 0.0) / self.wall_s if self.wall_s > 0 else None

    def to_json(self) -> dict[str, Any]:
        """With what follows from the parts."""
        return {"share": self.share, "wall_s": self.wall_s, **self.model_dump(mode="json")}


class ControllerProcess(BaseModel):
    """The process that wrote the status."""

    model_config = ConfigDict(frozen=True)

    host: str
    pid: int


class ControllerAddress(BaseModel):
    """How a client of this user reaches the controller. `token`: proves to it that
    the client may; `machine`: its name, for a `host` that is a loopback; `beside`: the process of
    the command that follows it, None where none does."""

    model_config = ConfigDict(frozen=True)

    host: str
    port: int
    pid: int
    token: str = Field(repr=False)
    machine: str
    beside: int | None = None


class RunStatus(BaseModel):
    """The run. `step`: the last one that is done; `recoveries`: failures so far, of all its
    controllers; `phase`: what a start or a recovery is at, since `phase_s` seconds, empty while
    it trains; `waiting`: what it waits for there, where that is not of its own making; `unsaved`:
    since when there is no checkpoint and why, empty where the newest one was committed; `fence`:
    the number of the controller that wrote it; `ray`: what of Ray is gone, which is needed to
    find a node alone; `storage`: what cannot be written now, since when, and what is kept in
    memory; `suspects`: what seems to hold up the run, one line each; `reserve`: the same of
    agents that stand by, and of workers that the run does without; `quarantine`: devices that are
    used no more; `goodput`: None in what an earlier release wrote, and until an earlier record is
    read."""

    model_config = ConfigDict(frozen=True)

    job: str = ""
    state: str = "STARTING"
    fence: int = 0
    generation: int = 0
    step: int = 0
    steps: int = 0
    recoveries: int = 0
    phase: str = ""
    phase_s: float = 0.0
    unsaved: str = ""
    waiting: str = ""
    ray: str = ""
    storage: str = ""
    suspects: tuple[str, ...] = ()
    reserve: tuple[str, ...] = ()
    quarantine: tuple[str, ...] = ()
    goodput: Goodput | None = None
    workers: tuple[WorkerState, ...] = ()
    controller: ControllerProcess | None = None

    @field_validator("state")
    @classmethod
    def _is_known(cls, state: str) -> str:
        if state not in STATES:
            raise ValueError(f"must be one of {', '.join(STATES)}")
        return state

    def left_by_all(self, state: str) -> RunStatus:
        """The same in this state, none of whose workers lives any more."""
        dead = tuple(worker.model_copy(update={"alive": False}) for worker in self.workers)
        return self.model_copy(update={"state": state, "workers": dead})

    @property
    def has_ended(self) -> bool:
        """Whether the controller has left a final state."""
        return self.state in FINAL_STATES

    def to_json(self) -> dict[str, Any]:
        """As in the file, and as `dougong status --json` prints it."""
        return self.model_dump(mode="json")
