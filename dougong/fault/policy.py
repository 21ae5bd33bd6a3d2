"""What is done about a failure: a pure function of the diagnosis, the job's policy and what
happened before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dougong.fault.diagnosis import Diagnosis
from dougong.job.schema import Fault

_DETERMINISTIC = ("data", "model", "numerics")


@dataclass(frozen=True)
class Decision:
    """`restart`: form the next generation from the newest valid checkpoint. `fail`: end the run."""

    action: Literal["restart", "fail"]
    reason: str


def decide(diagnosis: Diagnosis, policy: Fault, history: Sequence[Diagnosis]) -> Decision:
    """`history`: the failures of this run before this one, oldest first."""
    if diagnosis.kind in _DETERMINISTIC:
        return Decision("fail", f"a {diagnosis.kind} error would come again")
    if len(history) >= policy.max_restarts:
        return Decision("fail", f"fault.max_restarts is {policy.max_restarts} and they are used up")
    return Decision("restart", f"recovery {len(history) + 1} of {policy.max_restarts}")
