"""What becomes of a lost agent's place where nobody can take it now: a pure function of the job's
policy.

    fault.without_spare   nothing fits                nothing has come in `node_return_s`
    wait                  wait                        shrink, or stop where it cannot
    shrink                shrink, or wait             stop
    stop                  stop                        -

Before that a spare is asked, then a node that is there: `replace by a spare` and `replace the node`
need no policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dougong.job.schema import Fault


@dataclass(frozen=True)
class WithoutPlace:
    """`shrink`: go on with the workers that are left. `reason`: in words."""

    action: Literal["wait", "shrink", "stop"]
    reason: str


def without_place(policy: Fault, cannot_shrink: str, is_late: bool) -> WithoutPlace:
    """`cannot_shrink`: why the job cannot go on with the workers that are left; empty: it can.
    `is_late`: nothing that fits has come for as long as may be waited."""
    if policy.without_spare == "stop":
        return WithoutPlace("stop", "fault.without_spare is stop")
    if not cannot_shrink and (is_late or policy.without_spare == "shrink"):
        return WithoutPlace("shrink", f"fault.without_spare is {policy.without_spare}")
    reason = f"it cannot go on with fewer workers: {cannot_shrink}" if cannot_shrink else ""
    return WithoutPlace("stop" if is_late else "wait", reason)
