"""How much each worker gets: lanes and experts in proportion to speed, and the experts that
attention workers keep.

Pure arithmetic over counts; `plan` turns it into a plan. None of it can change a bit of the result.
Imports no torch.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from dougong.errors import PlanError
from dougong.parallel.lane_cuts import cut_lanes
from dougong.parallel.tree import LaneTree


@dataclass(frozen=True)
class Speed:
    """What one worker does in a unit of time, the same unit for all workers and both numbers.

    attention: micro-batches of one lane through one layer without its experts; experts: thousands
    of rows (a token at one of its experts is a row). Where attention and experts are not weighed
    against each other, ratios within each do.
    """

    attention: float = 1.0
    experts: float = 1.0


EQUAL = Speed()


@dataclass(frozen=True)
class LayerTimes:
    """Time of one micro-batch of all lanes in one layer, in any unit: of attention (HeterMoE's
    T_A), of all routed experts on the experts workers (T_E), and of all routed experts on the
    attention workers (N * T_EA / M)."""

    attention: float
    experts: float
    experts_kept: float


@dataclass(frozen=True)
class Room:
    """Memory, counted in experts of all layers together: the `most` that attention workers can keep
    (None: any number), the `least` that they must because the experts workers have no room."""

    most: int | None = None
    least: int = 0


def shares(totals: Sequence[int], speeds: Sequence[float], least: int = 0) -> list[tuple[int, ...]]:
    """For every total, how many of that many like items each worker gets: `least`, and each further
    one goes to the worker that would finish it first (of equals the first), counting what it has of
    the totals before.

    The time of the slowest share is the least that whole items allow. A remainder moves on from
    total to total, so that over all of them the shares are in proportion as well.
    """
    held = [0] * len(speeds)
    found = []
    for total in totals:
        before = held
        held = _dealt([count + least for count in held], speeds, total - least * len(speeds))
        found.append(tuple(now - then for now, then in zip(held, before, strict=True)))
    return found


def _dealt(held: Sequence[int], speeds: Sequence[float], num_items: int) -> list[int]:
    """What workers hold once so many items more have been dealt out, each to the worker that would
    finish it first."""
    held = list(held)
    queue = []
    for index, speed in enumerate(speeds):
        queue.append(((held[index] + 1) / speed, index))
    heapq.heapify(queue)
    for _ in range(num_items):
        index = queue[0][1]
        held[index] += 1
        heapq.heapreplace(queue, ((held[index] + 1) / speeds[index], index))
    return held


def lane_shares(num_lanes: int, speeds: Sequence[float]) -> list[tuple[int, ...]]:
    """Contiguous lanes for every attention worker, at least one each, in proportion to speed.

    Of the ways that take no longer than the fastest one, with a worker's share rounded up or down,
    that which ships the fewest nodes of the reduction tree.
    """
    (fair,) = shares([num_lanes], speeds, least=1)
    latest = max(count / speed for count, speed in zip(fair, speeds, strict=True))
    together = sum(map(Fraction, speeds))
    sizes = []
    for count, speed in zip(fair, speeds, strict=True):
        exact = num_lanes * Fraction(speed) / together
        sizes.append(_sizes_near(count, exact, speed, latest))
    return cut_lanes(LaneTree(num_lanes), sizes)


def _sizes_near(count: int, exact: Fraction, speed: float, latest: float) -> range:
    """From the exact share rounded down to that rounded up, `count` with them, as far as the worker
    is done by `latest`."""
    low, high = min(count, max(1, math.floor(exact))), max(count, math.ceil(exact))
    # `count` itself is in time: `latest` is the time of the slowest worker's count.
    in_time = [size for size in range(count, high + 1) if size / speed <= latest]
    return range(low, max(in_time) + 1)


def contiguous(counts: Sequence[int]) -> list[tuple[int, ...]]:
    """Ascending shares of 0, 1, 2, ... of these sizes."""
    bounds = itertools.accumulate(counts, initial=0)
    return [tuple(range(*pair)) for pair in itertools.pairwise(bounds)]


def offload(
    num_sites: int,
    num_experts: int,
    workers: tuple[int, int],
    times: LayerTimes,
    room: Room | None = None,
) -> tuple[int, ...]:
    """How many experts of every layer the attention workers should keep: HeterMoE's asymmetric
    assignment (arXiv 2504.03871, section 4.3). `workers`: how many of attention, of experts.

    Where attention is the shorter side, it waits in every layer; experts move to it in chunks while
    that fills the wait (T_gather = T_E - T_A a layer against T_squeeze a chunk), spread evenly over
    the layers. A chunk is one expert from each experts worker or one for each attention worker,
    whichever are more. Beyond the paper: the last chunk, for which the wait is too short, moves too
    if the busier side becomes shorter by it; and M and N need not divide each other: what is left
    of a chunk goes to other workers from layer to layer (`shares`). At least one expert of a layer
    stays with each experts worker. Raises PlanError when memory on both sides together is too
    small.
    """
    chunk, room = max(workers), room or Room()
    most = _most_chunks(num_sites * max(0, (num_experts - workers[1]) // chunk), chunk, room)
    least = -(-room.least // chunk)
    if least > most:
        raise _no_room(room.least, num_sites * num_experts, most * chunk)
    chunks = min(max(_best_chunks(num_sites, num_experts, chunk, times), least), most)
    return tuple(chunk * count for count in _spread(chunks, num_sites))


def _most_chunks(num_chunks: int, chunk: int, room: Room) -> int:
    """So many, or as many as the attention workers have room for."""
    return num_chunks if room.most is None else min(num_chunks, room.most // chunk)


def _no_room(num_too_many: int, num_experts: int, num_kept: int) -> PlanError:
    return PlanError(
        f"the experts workers have no room for {num_too_many} of {num_experts} "
        f"experts, and the attention workers can keep {num_kept}; add workers, or raise "
        "islands.*.memory_gb if there is more"
    )


def _spread(chunks: int, num_sites: int) -> list[int]:
    """Whole numbers of chunks for every layer, so that the first i layers have their part of all,
    rounded down, for each i."""
    return [(i + 1) * chunks // num_sites - i * chunks // num_sites for i in range(num_sites)]


def _best_chunks(num_sites: int, num_experts: int, chunk: int, times: LayerTimes) -> int:
    """The number of chunks, over all layers, that makes the busier side shortest."""
    freed, added = chunk * times.experts / num_experts, chunk * times.experts_kept / num_experts
    wait = num_sites * (times.experts - times.attention)
    fitting = max(0, math.floor(wait / (freed + added)))

    def busier(chunks: int) -> float:
        return max(
            num_sites * times.attention + chunks * added, num_sites * times.experts - chunks * freed
        )

    return min(fitting, fitting + 1, key=busier)
