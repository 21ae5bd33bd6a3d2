"""Events of faults: rehearsed, seen, named, answered."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dougong.fault.culprit import Culprit
from dougong.fault.diagnosis import Diagnosis
from dougong.fault.quarantine import QuarantinedDevice
from dougong.fault.replacement import Remedy
from dougong.fault.suspicion import Suspicion
from dougong.records.event.base import RunEvent


class DrillFired(RunEvent):
    """A rehearsed fault is about to happen. `action`: its name in the vocabulary. `after_s`: the
    job file ordered it for so long after the first step, not for `step`. `by_command`: `dougong
    drill` ordered it. `for_s`: how long it lasts, where that was said."""

    kind: Literal["drill"] = "drill"
    worker: str
    step: int
    action: str
    after_s: float | None = None
    by_command: bool = False
    for_s: float | None = None


class Suspected(RunEvent):
    """Something seems to hold up the run; nothing is done about it yet. `since_s`: for so long by
    now; `limit`: how long it may last, in words; `evidence`: what was seen."""

    kind: Literal["suspect"] = "suspect"
    culprit: Culprit
    why: str
    since_s: float
    limit: str
    evidence: tuple[str, ...] = ()

    @staticmethod
    def of(generation: int, suspicion: Suspicion) -> Suspected:
        """The event of a suspicion."""
        return Suspected(
            generation=generation,
            culprit=suspicion.culprit,
            why=suspicion.why,
            since_s=round(suspicion.since_s, 3),
            limit=suspicion.limit,
            evidence=suspicion.evidence,
        )


class SuspicionEnded(RunEvent):
    """It was nothing: the culprit goes on after so many seconds."""

    kind: Literal["suspect_cleared"] = "suspect_cleared"
    culprit: Culprit
    seconds: float


class WorkerDied(RunEvent):
    """The first failure of a generation, where that is a worker's. `failure`: its class, such as
    out_of_memory; `node`: the worker's, empty where all of the run is on one machine; so below."""

    kind: Literal["worker_died"] = "worker_died"
    worker: str
    node: str = ""
    failure: str = Field(validation_alias="class", serialization_alias="class")
    cause: str

    @staticmethod
    def of(generation: int, diagnosis: Diagnosis) -> WorkerDied:
        """The event of a diagnosis whose culprit is a worker."""
        return WorkerDied(
            generation=generation,
            worker=diagnosis.worker,
            node=diagnosis.culprit.node,
            failure=diagnosis.kind,
            cause=diagnosis.cause,
        )

    @property
    def who(self) -> Culprit:
        """The worker as what failed."""
        return Culprit("worker", self.worker, self.node)


class FailureDiagnosed(RunEvent):
    """What failed first and why; `followed_by`: workers whose failures are its consequence.

    `culprit`: what it began with, None in what an earlier release wrote, which knew workers alone;
    `worker`: its name where it is a worker, else empty. `evidence`: what was seen, each one fact;
    `latency_s`: from the first sign to this name, None where nothing was seen before.
    """

    kind: Literal["diagnosis"] = "diagnosis"
    worker: str = ""
    node: str = ""
    culprit: Culprit | None = None
    failure: str = Field(validation_alias="class", serialization_alias="class")
    cause: str
    detail: str = ""
    followed_by: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    latency_s: float | None = None

    @staticmethod
    def of(generation: int, diagnosis: Diagnosis, followed_by: tuple[str, ...]) -> FailureDiagnosed:
        """The event of a diagnosis."""
        culprit = diagnosis.culprit
        return FailureDiagnosed(
            generation=generation,
            worker=culprit.worker,
            node=culprit.node,
            culprit=culprit,
            failure=diagnosis.kind,
            cause=diagnosis.cause,
            detail=diagnosis.detail,
            followed_by=followed_by,
            evidence=diagnosis.evidence,
            latency_s=diagnosis.latency_s,
        )

    @property
    def who(self) -> Culprit:
        """The culprit, also of an earlier release's diagnosis."""
        return self.culprit or Culprit("worker", self.worker, self.node)


_OF_STEPS = ("retry_step", "skip_batch", "grow_back")
"""These follow no diagnosis."""


class RecoveryDecided(RunEvent):
    """What is done about a failure. `action`: as in `fault.replacement.Measure`; `again`: in place
    of what was decided before in the same recovery, since other agents or nodes are there."""

    kind: Literal["decision"] = "decision"
    action: str
    reason: str
    again: bool = False

    @staticmethod
    def of(generation: int, decided: Remedy, again: bool = False) -> RecoveryDecided:
        """The event of a decision."""
        return RecoveryDecided(
            generation=generation, action=decided.measure, reason=decided.reason, again=again
        )

    @property
    def breaks(self) -> bool:
        """Whether a generation is broken as this is decided."""
        return self.is_of_fault and not self.again and self.action != "ignore"

    @property
    def is_of_fault(self) -> bool:
        """Whether it follows a diagnosis: the newest one."""
        return self.action not in _OF_STEPS


class DeviceQuarantined(RunEvent):
    """A device is not used again in this run. `worker`: that which computed on it, or the agent
    that stood by with it; the others: as in `QuarantinedDevice`."""

    kind: Literal["device_quarantined"] = "device_quarantined"
    worker: str
    accelerator: str
    key: str
    node: str
    why: str

    @property
    def device(self) -> QuarantinedDevice:
        """What it was."""
        return QuarantinedDevice(self.accelerator, self.key, self.node, self.why)


class SurvivorLost(RunEvent):
    """A worker, or an agent, that was to go on in the next generation has ended before that began:
    it is replaced like the first one. `agent`: its name where it is one, `worker` is empty then;
    `failure`: its class."""

    kind: Literal["survivor_lost"] = "survivor_lost"
    worker: str = ""
    agent: str = ""
    node: str = ""
    failure: str = Field(validation_alias="class", serialization_alias="class")
    cause: str

    @property
    def who(self) -> Culprit:
        """The worker, or the agent, as what failed."""
        if self.agent:
            return Culprit("agent", self.agent, self.node)
        return Culprit("worker", self.worker, self.node)


class Recovered(RunEvent):
    """The first step after a failure is done. `failed`: the generation that it ended.

    The times are seconds since the fault, which a drill tells; of any other, since it was noticed.
    noticed_s: the first sign; decided_s: who failed and what is done; left_s: no worker is in the
    old generation; begun_s: the next one's order is given (nodes, agents and a checkpoint were
    sought before); formed_s: all its processes are there; fetched_s: every worker holds its part of
    the state; first_step_s. None: nobody has told.

    `kept`: workers whose processes are those of before; `forked`: the others. `step`: the last one
    that was not lost; `tiers`: as in StateRestored.
    """

    kind: Literal["recovered"] = "recovered"
    failed: int
    noticed_s: float
    decided_s: float
    left_s: float
    begun_s: float
    formed_s: float | None = None
    fetched_s: float | None = None
    first_step_s: float
    kept: tuple[str, ...] = ()
    forked: tuple[str, ...] = ()
    step: int = 0
    tiers: dict[str, int] = {}
