"""Durations for the tests of schedules, and what a simulated step is held against."""

from __future__ import annotations

from dataclasses import dataclass

from dougong.parallel.schedules.operation import Kind, Operation
from dougong.parallel.schedules.simulate import Timeline


@dataclass(frozen=True)
class Durations:
    """A `Cost` that is the same on all workers, sites and micro-batches. Seconds.

    `experts_backward_s` is rows and weights together, `weights_s` the weights' share of it.
    `message_s` is one way.
    """

    forward_s: float
    backward_s: float
    experts_forward_s: float
    experts_backward_s: float
    message_s: float
    weights_s: float = 0.0

    def __call__(self, worker: str, operation: Operation) -> float:
        if operation.kind.sends is not None:
            return self.message_s
        return {
            Kind.FORWARD: self.forward_s,
            Kind.BACKWARD: self.backward_s,
            Kind.EXPERTS_FORWARD: self.experts_forward_s,
            Kind.EXPERTS_BACKWARD: self.experts_backward_s - self.weights_s,
            Kind.WEIGHT_GRADIENTS: self.weights_s,
        }[operation.kind]


def busy_s(timeline: Timeline, worker: str) -> float:
    """Seconds that a worker computes."""
    return sum(span.end_s - span.start_s for span in timeline.computation if span.worker == worker)


def bound_s(timeline: Timeline) -> float:
    """What no order of the same work on the same workers can beat: the busiest worker's computation."""
    return max(busy_s(timeline, program.worker) for program in timeline.programs)


def efficiency(timeline: Timeline) -> float:
    """`bound_s` / makespan: 1 when the busiest worker never waits."""
    return bound_s(timeline) / timeline.makespan_s if timeline.makespan_s else 1.0
