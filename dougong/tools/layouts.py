"""Other layouts of a job, on which its bits must be the same. A pure function; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
        first, *more = (
            str(sum(island.workers for island in islands))
            for islands in (self.islands, self.then)
            if islands
        )
        return " then ".join((first, *more))


def layouts(
    job: Job, num_experts: int, count: int, most_workers: int | None = None
) -> tuple[Layout, ...]:
    """The first `count` of the layouts that this job can have, unlike ones first; fewer where it
    has not so many.

    All on the accelerator and threads of the job's first island: another kind of device may have
    other bits. `most_workers`: devices that there are.
    """
    found: list[Layout] = []
    lanes = job.batch.lanes
    limit = most_workers or lanes + num_experts
    for layout in _candidates(
        _Maker(job.islands[0], min(lanes, limit), min(num_experts, limit), limit), job.steps
    ):
        if all((layout.islands, layout.then) != (other.islands, other.then) for other in found):
            found.append(layout)
        if len(found) == count:
            break
    return tuple(found)


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
    yield _named(make.both(1))
    yield _named(make.both(3))
    yield _named(make.apart(1, 2))
    if steps > 1:
        yield _named(make.both(2), make.apart(2, 1))
    yield _named(make.both(2))
    for workers in range(4, min(make.lanes, make.experts) + 1):
        yield _named(make.apart(workers - 1, workers - 2))
        yield _named(make.both(workers))


def _named(islands: Islands, then: Islands = ()) -> Layout:
    name = _words(islands)
    return Layout(f"{name}, then {_words(then)}" if then else name, islands, then)


def _words(islands: Islands) -> str:
    return " + ".join(f"{island.workers} {island.role}" for island in islands)
