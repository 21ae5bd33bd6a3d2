"""A step in thought as it is defined: every worker, every channel, every message by itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from dougong.parallel.schedules.operation import Operation, Program
from dougong.parallel.schedules.simulate import Cost, Span
from dougong.parallel.schedules.walk import awaited, walk


def simulate_plainly(
    programs: Sequence[Program], cost: Cost, latency_s: float = 0.0
) -> tuple[list[Span], list[Span], float]:
    """(computation, messages, makespan)."""
    clock: dict[str, float] = defaultdict(float)
    free: dict[tuple[str, str, str], float] = defaultdict(float)
    arrivals: dict[tuple[str, str, Operation], float] = {}
    computation, messages = list[Span](), list[Span]()

    def send(program: Program, operation: Operation, receiver: Program, now: float) -> None:
        worker, message = program.worker, operation.kind.sends
        assert message is not None
        arrivals[worker, receiver.worker, operation] = now
        if receiver.worker != worker:
            channel = worker, receiver.worker, message.direction
            start = max(now, free[channel])
            free[channel] = end = start + cost(worker, operation)
            messages.append(Span(worker, operation, start, end, receiver.worker))
            arrivals[worker, receiver.worker, operation] = end + latency_s

    for program, operation in walk(programs):
        worker, now, message = program.worker, clock[program.worker], operation.kind.sends
        if message is not None:
            for receiver in (other for other in programs if other.receives(message)):
                send(program, operation, receiver, now)
        elif operation.kind.computes:
            clock[worker] = now + cost(worker, operation)
            computation.append(Span(worker, operation, now, clock[worker]))
        else:
            times = [arrivals[sender, worker, sending] for sender, sending in awaited(programs, operation)]
            clock[worker] = max(now, *times)
    return computation, messages, max(clock.values(), default=0.0)
