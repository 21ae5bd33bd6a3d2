"""One order of a step's messages, in which each needs only earlier ones: whoever carries them one after another comes
to the end, however long anything takes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from dougong.parallel.schedules.message_order import MessageOrder, message_order
from dougong.parallel.schedules.operation import MessageKind, Program
from dougong.parallel.schedules.registry import SCHEDULES, make_programs

ROLES = {"b": ("both",), "ae": ("attention", "experts"), "abe": ("attention", "both", "experts")}


def programs_of(schedule: str, roles: Sequence[str], num_sites: int, num_microbatches: int) -> list[Program]:
    workers = {f"{role}/{number}": role for role in roles for number in range(2)}
    return make_programs(schedule, num_sites, num_microbatches, workers)


CASES = [
    (schedule, roles, sites, microbatches)
    for schedule in SCHEDULES
    for roles in ROLES
    for sites, microbatches in ((1, 1), (2, 3), (3, 4))
    if not (schedule == "colocated" and roles != "b")
]


@pytest.mark.parametrize(("schedule", "roles", "sites", "microbatches"), CASES)
def test_every_message_stands_in_it_once_and_each_program_keeps_to_it(
    schedule: str, roles: str, sites: int, microbatches: int
) -> None:
    programs = programs_of(schedule, ROLES[roles], sites, microbatches)
    order = message_order(programs)
    assert len(order) == len(set(order)) == len(MessageKind) * sites * microbatches
    assert order == message_order(list(reversed(programs))) or len(ROLES[roles]) > 1
    place = {message: number for number, message in enumerate(order)}
    for program in programs:
        newest = -1
        for operation in program.operations:
            key = operation.site, operation.microbatch
            if operation.kind.receives is not None:
                newest = max(newest, place[operation.kind.receives, key])
            if operation.kind.sends is not None:
                assert place[operation.kind.sends, key] > newest, "it needs only earlier ones"


class _Worker:
    """A worker's thread of computation, and the library's: each at its next thing."""

    def __init__(self, program: Program, order: MessageOrder) -> None:
        self.program, self.order = program, order
        self.at = self.issued = 0
        self.handed_over: set[tuple[MessageKind, tuple[int, int]]] = set()

    def compute(self, done: int) -> bool:
        """One operation, if it can be: a receive waits until the library is through with the message. `done`: how many
        messages of the order all have carried."""
        if self.at == len(self.program.operations):
            return False
        operation = self.program.operations[self.at]
        key = operation.site, operation.microbatch
        if operation.kind.receives is not None and self.order.index((operation.kind.receives, key)) >= done:
            return False
        if operation.kind.sends is not None:
            self.handed_over.add((operation.kind.sends, key))
        self.at += 1
        return True

    def issue(self, done: int) -> bool:
        """The library's next operation, if what it sends is there. One at a time occupies the stream."""
        if self.issued == len(self.order) or self.issued > done:
            return False
        kind, _ = message = self.order[self.issued]
        if self.program.sends(kind) and message not in self.handed_over:
            return False
        self.issued += 1
        return True


def run_in_any_order(programs: list[Program], order: MessageOrder, chance: random.Random) -> bool:
    """Whether all come to the end when every thread takes its next step at a moment of chance."""
    workers = [_Worker(program, order) for program in programs]
    while True:
        done = min(worker.issued for worker in workers)
        moves = [move for worker in workers for move in (worker.compute, worker.issue)]
        chance.shuffle(moves)
        if not any(move(done) for move in moves):
            break
    return all(w.issued == len(order) and w.at == len(w.program.operations) for w in workers)


@pytest.mark.parametrize(("schedule", "roles"), sorted({case[:2] for case in CASES}))
def test_who_carries_them_in_order_comes_to_the_end(schedule: str, roles: str) -> None:
    programs = programs_of(schedule, ROLES[roles], 2, 3)
    order = message_order(programs)
    assert all(run_in_any_order(programs, order, random.Random(seed)) for seed in range(84))


def test_another_order_does_not() -> None:
    programs = programs_of("zebra", ROLES["ae"], 2, 3)
    order = list(message_order(programs))
    order[0], order[-1] = order[-1], order[0]
    assert not run_in_any_order(programs, tuple(order), random.Random(1))
