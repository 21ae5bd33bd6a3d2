"""What is done about a failure: a pure function of the diagnosis, the job's policy and what
happened before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dougong.fault.diagnosis import Diagnosis, Origin
from dougong.job.schema import Fault

DETERMINISTIC = ("data", "model", "numerics")
"""A generation that begins anew computes the same from the same."""


@dataclass(frozen=True)
class Decision:
    """`restart`: form the next generation from the newest valid checkpoint. `fail`: end the run."""

    action: Literal["restart", "fail"]
    reason: str


def decide(
    diagnosis: Diagnosis, policy: Fault, history: Sequence[Diagnosis], has_stepped: bool
) -> Decision:
    """`history`: the failures of this run before this one, oldest first; `has_stepped`: whether
    the generation that failed now had completed a step."""
    if diagnosis.kind in DETERMINISTIC:
        return Decision("fail", f"a {diagnosis.kind} error would come again")
    last = history[-1].origin if history else None
    # A step in between says that the run got past it: what failed then was something else, or
    # chance.
    if last is not None and last == diagnosis.origin and not has_stepped:
        return Decision(
            "fail",
            f"{_words(last)} came twice with no step in between, so it is "
            "taken for one that would come again",
        )
    if len(history) >= policy.max_restarts:
        return Decision("fail", f"fault.max_restarts is {policy.max_restarts} and they are used up")
    return Decision("restart", f"recovery {len(history) + 1} of {policy.max_restarts}")


def _words(origin: Origin) -> str:
    return f"{origin.type} at {origin.place}" if origin.place else origin.type
