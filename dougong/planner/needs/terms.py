"""What memory is for, by name, and what makes each less. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum


class Term(Enum):
    """A part of a worker's memory: what it is called, and the keys that make it less."""

    WEIGHTS = (
        "weights",
        "add workers, which have fewer experts each; all that lies outside of them is on every "
        "worker with lanes: set dense: shard, where it is not set; move experts by offload or "
        "speed, or take a smaller model",
    )
    GRADIENTS = (
        "gradients",
        "each lane of a worker has a sum of all that lies outside of the experts: set "
        "dense: shard, where it is not set (in zebra, which has all micro-batches of a step alive "
        "at once); where workers have several lanes, add workers with lanes, or begin a run with "
        "fewer batch.lanes",
    )
    MASTERS = (
        "masters",
        "add workers, or on devices begin a run with optimizer.device: host (they lie in the "
        "machine's memory then)",
    )
    MOMENTS = (
        "moments",
        "add workers, or begin a run with optimizer.state: bfloat16, or on devices with "
        "optimizer.device: host, where these are not set",
    )
    SCRATCH = ("scratch of sums", "nothing makes it less but a model of smaller tensors")
    AUDITS = ("audits", "set fault.audit: null (no step is computed a second time)")
    ACTIVATIONS = (
        "activations",
        "set recompute: layers, where it is not set, or begin a run with a lower "
        "batch.microbatch_size or data.sequence_length; in zebra, which has all micro-batches of a "
        "step alive at once, with fewer batch.microbatches, or set pipeline: serial, which has one "
        "(not with dense: shard)",
    )
    ROWS = (
        "rows of experts",
        "set recompute: layers, where it is not set, add workers with experts, or begin a run with "
        "a lower batch.microbatch_size, or in zebra with fewer batch.microbatches",
    )
    MESSAGES = (
        "messages",
        "set combine: at_experts, or begin a run with a lower batch.microbatch_size",
    )
    UPDATE = ("the update", "begin a run with optimizer.state: float32")
    CHECKS = ("checks of the state", "set determinism: off in a new run (nothing is compared)")
    STAGING = (
        "a checkpoint that is being written",
        "put workers on more machines, or begin a run with optimizer.state: bfloat16",
    )
    SNAPSHOTS = (
        "snapshots",
        "set fault.snapshots.replicas: 0 (a lost worker's part is then read from a checkpoint), or "
        "fault.snapshots.every: 0 (no snapshots)",
    )
    LINKS = ("memory for copies to the device", "set optimizer.device: worker in a new run")

    def __init__(self, words: str, remedy: str) -> None:
        self.words, self.remedy = words, remedy


STATE = (Term.WEIGHTS, Term.GRADIENTS, Term.MASTERS, Term.MOMENTS)
"""What a worker has of the model from one step to the next."""

STATE_ON_HOST = (Term.MASTERS, Term.MOMENTS, Term.LINKS)
"""What `optimizer.device: host` moves beside the device, and what it takes there for that."""

Terms = Mapping[Term, int]
"""Bytes by what they are for."""


@dataclass(frozen=True)
class WorkerMemory:
    """What one worker takes.

    always  of its device, or of the machine where that is its device: there from the first step on
    phases  what comes on top of that while a step is in one of its phases, by the phase's name
    host    of the machine's memory beside the device, or as well, where the two are one
    unit    of dense tensors that come and go, the largest unit's name and bytes of weights; None
            where they stay
    """

    always: Terms
    phases: Mapping[str, Terms] = field(default_factory=dict)
    host: Terms = field(default_factory=dict)
    unit: tuple[str, int] | None = None

    @property
    def state(self) -> int:
        """Weights, gradients and optimizer state on its device."""
        return sum(self.always.get(term, 0) for term in STATE)

    @property
    def top(self) -> str:
        """The phase in which it takes most."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()), default="")

    @property
    def at_peak(self) -> Terms:
        """What its device holds then."""
        return added([self.always, self.phases.get(self.top, {})])

    @property
    def peak(self) -> int:
        return sum(self.at_peak.values())

    @property
    def state_on_host(self) -> int:
        """Optimizer state beside its device, and what travels there; 0 where it lies on it."""
        return sum(self.host.get(term, 0) for term in STATE_ON_HOST)

    @property
    def on_host(self) -> int:
        return sum(self.host.values())


def added(parts: Sequence[Terms]) -> dict[Term, int]:
    """The sum of several, in the terms' own order; none is zero."""
    found = dict.fromkeys(Term, 0)
    for part in parts:
        for term, num_bytes in part.items():
            found[term] += num_bytes
    return {term: num_bytes for term, num_bytes in found.items() if num_bytes}
