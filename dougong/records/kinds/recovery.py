"""Events of a recovery: who goes on, with which state, and how long each part took."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dougong.records.kinds.base import RunEvent


class StateRestored(RunEvent):
    """Every worker of the generation holds its part of the state after `step`. `tiers`: bytes by
    where they came from: the worker's own memory, a peer's, a local disk, a checkpoint;
    `seconds`: of the slowest worker."""

    kind: Literal["state_restored"] = "state_restored"
    step: int
    tiers: dict[str, int] = {}
    seconds: float = 0.0


class SurvivorLost(RunEvent):
    """A worker that was to go on in the next generation has ended before that began: it is
    replaced like the first one. `failure`: its class."""

    kind: Literal["survivor_lost"] = "survivor_lost"
    worker: str
    node: str = ""
    failure: str = Field(validation_alias="class", serialization_alias="class")
    cause: str


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
