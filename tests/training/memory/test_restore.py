"""A state put together by real workers: damaged copies are not taken, wherever they lie."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from dougong.checkpoint.snapshot import StateTensor
from dougong.errors import CheckpointError
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.training.memory.holdings import Holding, Moment
from dougong.training.memory.part import StatePart, layout_of, num_bytes_of
from dougong.training.memory.restore import open_state
from dougong.training.memory.source import StateKey
from tests.parallel.workers import plan_of
from tests.processes import run_workers
from torch import Tensor

NAMES = ("a", "b", "c")
WANTS = [[("model", name) for name in NAMES] for _ in NAMES]
"""Everybody wants everything."""


class Held:
    """Parts in a list: (step, names). `damaged`: of these tensors a bit is another by now; `missing`: these cannot be
    read."""

    def __init__(
        self, held: Sequence[tuple[int, str]], damaged: Sequence[StateKey] = (), missing: Sequence[StateKey] = ()
    ) -> None:
        self._missing = missing
        self._parts = []
        for step, names in held:
            state = [StateTensor("model", name, value(name, step)) for name in names]
            layout = layout_of(state)
            memory = torch.empty(num_bytes_of(layout), dtype=torch.uint8)
            part = StatePart(Moment(step, 1), None, layout, memory)
            part.fill(state)
            for key in damaged:
                if key in part:
                    part.tensor(key)[0] += 1
            self._parts.append(part)

    def holdings(self) -> list[Holding]:
        return [part.holding() for part in self._parts]

    def read(self, moment: Moment, key: StateKey) -> Tensor:
        if key in self._missing:
            raise CheckpointError("gone")
        return next(part.tensor(key) for part in self._parts if part.moment == moment and key in part)


def value(name: str, step: int) -> Tensor:
    return torch.arange(4, dtype=torch.float32) + 100 * NAMES.index(name) + step


A = ("model", "a")
CASES: dict[str, tuple[list[Held], int | None]] = {
    "each has a third": ([Held([(5, name)]) for name in NAMES], 5),
    "a copy is damaged, another is not": ([Held([(5, "ab")], [A]), Held([(5, "ac")]), Held([(4, "abc")])], 5),
    "a copy cannot be read": ([Held([(5, "ab")], missing=[A]), Held([(5, "ac")]), Held([])], 5),
    "all copies are damaged: the step before": (
        [Held([(5, "ab")], [A]), Held([(5, "ac")], [A]), Held([(4, "abc")])],
        4,
    ),
    "nothing is left": ([Held([(5, "abc")], [A]), Held([]), Held([(5, "b")])], None),
}


def opened(world: World, plan: Plan) -> list[tuple[int | None, bool, tuple[str, ...]]]:
    """Of every case: the step found, whether its tensors are right, the tiers."""
    found: list[tuple[int | None, bool, tuple[str, ...]]] = []
    for shelves, _ in CASES.values():
        source = open_state(world, {"memory": shelves[world.rank]}, lambda: WANTS, 0)
        if source is None:
            found.append((None, True, ()))
            continue
        right = all(torch.equal(source.read("model", name), value(name, source.step)) for name in NAMES)
        assert sum(source.tiers.values()) == 16 * len(NAMES) and sorted(source.names("model")) == list(NAMES)
        with pytest.raises(CheckpointError, match="holds no model d"):
            source.read("model", "d")
        found.append((source.step, right, tuple(sorted(source.tiers))))
    return found


def test_the_newest_state_of_which_a_good_copy_of_everything_is_left() -> None:
    results = run_workers(opened, plan_of("BBB"))
    for number, (case, (_, expected)) in enumerate(CASES.items()):
        for rank, result in enumerate(results):
            step, right, tiers = result[number]
            assert (step, right) == (expected, True), (case, rank)
            assert set(tiers) <= {"own", "peer"}
    assert results[2][1][2] == ("peer",), "it has only an older step"
