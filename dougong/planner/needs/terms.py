"""What memory is for, by name. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum


class Term(Enum):
    """A part of a worker's memory, by its name."""

    WEIGHTS = "weights"
    GRADIENTS = "gradients"
    MASTERS = "masters"
    MOMENTS = "moments"
    SCRATCH = "scratch of sums"
    AUDITS = "audits"
    ACTIVATIONS = "activations"
    ROWS = "rows of experts"
    MESSAGES = "messages"
    UPDATE = "the update"
    CHECKS = "checks of the state"
    STAGING = "a checkpoint that is being written"
    SNAPSHOTS = "snapshots"
    LINKS = "memory for copies to the device"

    @property
    def words(self) -> str:
        return self.value


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
