"""Other layouts of a job, on which its bits must be the same. A pure function; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from dougong.job.schema import Island, Job

Islands = tuple[Island, ...]


@dataclass(frozen=True)
class Layout:
    """Islands to run a job on; `then`: those on which it is resumed after a stop half-way (empty:
    no stop)."""

    name: str
    islands: Islands
    then: Islands = ()

    @property
    def workers(self) -> str:
        """How many workers, in words."""
        first = str(_num_workers(self.islands))
        return f"{first} then {_num_workers(self.then)}" if self.then else first


def layouts(
    job: Job, num_experts: int, count: int, num_devices: int | None = None
) -> tuple[Layout, ...]:
    """The first `count` of the layouts that this job can have, unlike ones first; fewer where it
    has not so many.

    All on the accelerator and threads of the job's first island: another kind of device may have
    other bits. `num_devices`: the most workers that fit; None: any number.
    """
    limit = num_devices or job.batch.lanes + num_experts
    maker = _Maker(job.islands[0], min(job.batch.lanes, limit), min(num_experts, limit), limit)
    return tuple(islice(_different(_candidates(maker, job.steps)), count))


@dataclass(frozen=True)
class _Maker:
    """Makes islands like `model`, with no more workers than lanes, experts and devices allow."""

    model: Island
    lanes: int
    experts: int
    devices: int

    def both(self, workers: int) -> Islands:
        return (self._island("both", min(workers, self.lanes, self.experts)),)

    def apart(self, attention: int, experts: int) -> Islands:
        """Attention and experts on workers of their own; where there is but one device, together on
        it."""
        if self.devices < 2:
            return self.both(1)
        attention = min(attention, self.lanes, self.devices - 1)
        experts = min(experts, self.experts, self.devices - attention)
        return self._island("attention", attention), self._island("experts", experts)

    def _island(self, role: str, workers: int) -> Island:
        changes = {"name": role, "role": role, "workers": workers, "node": None}
        return self.model.model_copy(update=changes)


def _candidates(make: _Maker, steps: int) -> Iterator[Layout]:
    """Unlike ones first. Limits may make two of them the same."""
    yield _named(make.both(1))
    yield _named(make.both(3))
    yield _named(make.apart(1, 2))
    if steps > 1:
        yield _named(make.both(2), make.apart(2, 1))
    yield _named(make.both(2))
    for workers in range(4, min(make.lanes, make.experts) + 1):
        yield _named(make.apart(workers - 1, workers - 2))
        yield _named(make.both(workers))


def _different(candidates: Iterator[Layout]) -> Iterator[Layout]:
    found: list[tuple[Islands, Islands]] = []
    for layout in candidates:
        if (layout.islands, layout.then) not in found:
            found.append((layout.islands, layout.then))
            yield layout


def _named(islands: Islands, then: Islands = ()) -> Layout:
    name = _words(islands)
    return Layout(f"{name}, then {_words(then)}" if then else name, islands, then)


def _words(islands: Islands) -> str:
    return " + ".join(f"{island.workers} {island.role}" for island in islands)


def _num_workers(islands: Islands) -> int:
    return sum(island.workers for island in islands)
