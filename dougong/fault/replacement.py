"""What is done about a fault, of all that can be: the policy's decision (`fault.policy`), and where
those go on whose agents are lost. Pure.

A decision to begin workers anew says where, as far as that is known:

    for the workers of a lost agent there is      what is told
    (no agent is lost)                            restart
    an agent that stands by, on any node          replace_by_spare
    room on their own node                        restart
    room on another node                          replace_node
    nothing                                       as `fault.without_spare` has it

While the nodes are not known, a lost machine is taken for gone (`replace_node`), and one whose
agent alone has ended for there (`restart`). What turns out otherwise is decided again, and told.

    fault.without_spare   nothing fits                nothing has come in `node_return_s`
    wait                  wait                        shrink, or stop where it cannot
    shrink                shrink, or wait             stop
    stop                  stop                        -
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dougong.fault.diagnosis import FailureKind
from dougong.fault.policy import Decision
from dougong.job.schema import Fault

Measure = Literal[
    "ignore",
    "retry_step",
    "restart",
    "replace_by_spare",
    "replace_node",
    "shrink",
    "grow_back",
    "roll_back",
    "skip_batch",
    "quarantine",
    "wait_for_storage",
    "stop",
    "fail",
]
"""All that can be done about a fault. restart: the worker is begun anew on its node. stop: nothing,
since the run is being stopped."""
MACHINE_IS_GONE: tuple[FailureKind, ...] = ("node_lost", "partition", "preemption")
"""So it is where an agent is lost by one of these."""


@dataclass(frozen=True)
class Remedy:
    """One decision, as it is told."""

    measure: Measure
    reason: str


@dataclass(frozen=True)
class Places:
    """What there is for the workers of lost agents. `spare`: who stands by for some of them, in
    words; empty: nobody. `node`: the machine, or machines, chosen for them; empty: not known yet.
    `is_theirs`: all of them are on the machines of before."""

    spare: str = ""
    node: str = ""
    is_theirs: bool = False


def remedy(decision: Decision, kind: FailureKind, places: Places | None) -> Remedy:
    """What is decided as a generation is broken by a failure of this kind. `places`: None where no
    agent is lost."""
    if places is None or decision.action != "restart":
        return Remedy(decision.action, decision.reason)
    taken = at_places(places, kind)
    return Remedy(taken.measure, f"{decision.reason}; {taken.reason}")


def at_places(places: Places, kind: FailureKind = "crash") -> Remedy:
    """Where workers of lost agents go on."""
    if places.spare:
        return Remedy("replace_by_spare", f"standing by: {places.spare}")
    if places.node:
        measure: Measure = "restart" if places.is_theirs else "replace_node"
        return Remedy(measure, f"there is room on {places.node}")
    if kind in MACHINE_IS_GONE:
        return Remedy("replace_node", "nobody stands by, so that a node is looked for")
    return Remedy("restart", "nobody stands by, so that its agent is started anew")


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
