"""How many bytes a step sends from each worker to each other one: formulas of the plan and the
model, before anything runs (docs/design/what-crosses.md).

Nearly every kind of message is a product: what a worker s sends a worker t is a number of s times a
number of t, such as its lanes times the bytes of a lane that the other's experts need. So the bytes
between two groups of workers follow from two sums, for any number of workers. What each sends to
few others is a list of pairs.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dougong.parallel.comm.traffic import TrafficKind, ring_share
from dougong.parallel.dense.buckets import GRADIENT_BYTES, aligned
from dougong.parallel.dense.doubling import Doubling
from dougong.parallel.dense.halving import Halving
from dougong.parallel.dispatch.crossing import Combine
from dougong.parallel.dispatch.table import share_bytes
from dougong.parallel.pieces import owned_specs, tensor_of
from dougong.parallel.plan import Inventory, Plan, Worker
from dougong.parallel.tree import LaneTree

SLOT_BYTES = 4
"""A row's place at its worker, int32."""
SUM_BYTES = 4
"""A gradient of a row's router weight, float32."""
FLOAT32_BYTES = 4

MOST_PLACES = 16
"""Links between places are their number squared: more are told by nobody, and every worker would
hear of each from every other one."""


Places = Mapping[str, Collection[int]]
"""Ranks by name."""
Link = tuple[str, str]
"""(from, to): names of places."""


class Flow(Protocol):
    """What the workers of a plan send each other of one kind in a step. `is_exact`: no routing and
    no library decides about it."""

    @property
    def kind(self) -> TrafficKind: ...
    @property
    def is_exact(self) -> bool: ...

    def between(self, places: Places) -> Mapping[Link, float]:
        """Bytes from the workers of each place to those of each, to themselves none; a link that is
        left out has none."""
        ...


@dataclass(frozen=True)
class Product:
    """Worker s sends worker t `of_source[s] * of_target[t]` bytes; both by rank."""

    kind: TrafficKind
    of_source: Sequence[float]
    of_target: Sequence[float]
    is_exact: bool = True

    def between(self, places: Places) -> dict[Link, float]:
        sent, wanted = _by_place(self.of_source, places), _by_place(self.of_target, places)
        members = {name: set(ranks) for name, ranks in places.items()}
        found = {}
        for source, target in itertools.product(places, repeat=2):
            both = members[source] & members[target]
            to_oneself = sum(self.of_source[rank] * self.of_target[rank] for rank in both)
            found[source, target] = sent[source] * wanted[target] - to_oneself
        return found


@dataclass(frozen=True)
class Ring:
    """The library adds up `num_bytes` of each of `ranks`: everyone sends to the next one. The
    algorithm is the library's choice."""

    kind: TrafficKind
    ranks: Sequence[int]
    num_bytes: float
    is_exact: bool = False

    def between(self, places: Places) -> dict[Link, float]:
        share = ring_share(len(self.ranks), self.num_bytes)
        following = [*self.ranks[1:], *self.ranks[:1]]
        pairs = zip(self.ranks, following, strict=True)
        num_pairs = Counter(link for _, link in _linked(pairs, places))
        return {link: share * number for link, number in num_pairs.items()}


@dataclass(frozen=True)
class Pairs:
    """So many bytes from one worker to another, by (source, target); between others none."""

    kind: TrafficKind
    num_bytes: Mapping[tuple[int, int], float]
    is_exact: bool = True

    def between(self, places: Places) -> dict[Link, float]:
        crossing: dict[Link, float] = {}
        for pair, link in _linked(self.num_bytes, places):
            crossing[link] = crossing.get(link, 0.0) + self.num_bytes[pair]
        return crossing


def _by_place(amounts: Sequence[float], places: Places) -> dict[str, float]:
    """Sums of what is given by rank."""
    return {name: sum(map(amounts.__getitem__, ranks)) for name, ranks in places.items()}


def _linked(
    pairs: Iterable[tuple[int, int]], places: Places
) -> Iterator[tuple[tuple[int, int], Link]]:
    """Each (source, target) with the links that it is part of."""
    names: dict[int, list[str]] = {}
    for name, ranks in places.items():
        for rank in set(ranks):
            names.setdefault(rank, []).append(name)
    for source, target in pairs:
        for link in itertools.product(names.get(source, ()), names.get(target, ())):
            yield (source, target), link


@dataclass(frozen=True)
class StepShape:
    """What of a job decides about the bytes of its experts' calls and dense sums.

    `num_tokens`: of one lane's micro-batch; `value_bytes`: of a value in compute precision;
    `is_layout_free`: dense gradients are added in the tree's order, else by the library;
    `is_sharded`: dense tensors come and go by units, and their gradients are added in order.
    """

    num_microbatches: int
    num_tokens: int
    value_bytes: int
    combine: Combine
    is_layout_free: bool
    is_sharded: bool = False


def flows_of_calls(shape: StepShape, inventory: Inventory, plan: Plan) -> list[Flow]:
    """Dispatch and combine of all sites and micro-batches, forward and backward."""
    parts = [_call_bytes(shape, inventory, plan, worker) for worker in plan.workers]
    num_passes = [float(len(w.lanes) * shape.num_microbatches) for w in plan.workers]
    is_exact = not inventory.num_idle_experts and all(part.is_exact for part in parts)
    return [
        _flow_of_heads(shape, inventory, plan),
        Product(TrafficKind.SIZES, num_passes, [part.counts for part in parts]),
        Product(TrafficKind.ROWS, num_passes, [part.rows for part in parts], is_exact),
        Product(TrafficKind.OUTPUTS, [part.outputs for part in parts], num_passes, is_exact),
        Product(TrafficKind.OUTPUT_GRADIENTS, num_passes, [p.douts for p in parts], is_exact),
        Product(TrafficKind.ROW_GRADIENTS, [p.drows for p in parts], num_passes, is_exact),
    ]


def _flow_of_heads(shape: StepShape, inventory: Inventory, plan: Plan) -> Flow:
    """What every share of a count table begins with."""
    num_bytes = share_bytes(0, 0) * len(inventory.sites) * shape.num_microbatches
    has_lanes = [float(bool(worker.lanes)) for worker in plan.workers]
    heads = [float(num_bytes if worker.num_experts else 0) for worker in plan.workers]
    return Product(TrafficKind.SIZES, has_lanes, heads)


@dataclass(frozen=True)
class _CallBytes:
    """What one micro-batch of a lane and one worker with experts send each other, by kind."""

    counts: float
    rows: float
    outputs: float
    douts: float
    drows: float
    is_exact: bool


def _call_bytes(shape: StepShape, inventory: Inventory, plan: Plan, worker: Worker) -> _CallBytes:
    if not worker.num_experts:
        return _CallBytes(0, 0, 0, 0, 0, is_exact=True)
    numbers = [len(experts) for experts in worker.experts]
    crossing = {n: crossing_of(shape.num_tokens, inventory, n) for n in set(numbers)}
    sites = [crossing[number] for number in numbers]
    num_rows = sum(site.num_rows for site in sites)
    vector_bytes = inventory.hidden_size * shape.value_bytes
    vectors, by_row = sum(site.num_tokens for site in sites) * vector_bytes, num_rows * vector_bytes
    slots, weights = num_rows * SLOT_BYTES, num_rows * shape.value_bytes
    sums = num_rows * SUM_BYTES
    if shape.combine == "at_attention":
        payloads = (vectors + slots, by_row, vectors + weights, by_row + sums)
    else:
        payloads = (vectors + slots + weights, vectors, vectors, vectors + sums)
    counts = sum(share_bytes(1, number) - share_bytes(0, 0) for number in numbers)
    return _CallBytes(counts, *payloads, is_exact=all(site.is_exact for site in sites))


@dataclass(frozen=True)
class Crossing:
    """Tokens of one lane's micro-batch that cross to a worker, and their rows there."""

    num_tokens: float
    num_rows: float
    is_exact: bool


def crossing_of(num_tokens: int, inventory: Inventory, num_experts: int) -> Crossing:
    """What crosses to a worker with `num_experts` of a site's experts when every choice of experts
    is equally likely; exact where any choice comes to the same.

    A token stays away when all of its K choices are among the other experts: of the E over K
    choices, those are (E - e) over K.
    """
    choices = inventory.experts_per_token
    among = inventory.num_experts + inventory.num_idle_experts
    away = math.comb(among - num_experts, choices) / math.comb(among, choices)
    is_exact = num_experts == 0 or among in (num_experts, choices)
    rows = num_tokens * choices * num_experts / among
    return Crossing(num_tokens * (1 - away), rows, is_exact)


def flows_of_dense(shape: StepShape, inventory: Inventory, plan: Plan) -> list[Flow]:
    """Gradients of the trained tensors outside the experts to their owners, and the new values
    back, which workers hand on to each other, or get from the owners where they come and go."""
    values = [0.0] * len(plan.workers)
    gradients = [0.0] * len(plan.workers)
    for tensor, owner in owned_specs(inventory.tensors, plan.owners):
        if tensor.trainable:
            size = aligned(tensor.num_parameters)
            width = FLOAT32_BYTES if tensor.stays_float32 else shape.value_bytes
            gradients[owner] += GRADIENT_BYTES * size
            values[owner] += width * size
    ranks = [worker.rank for worker in plan.workers if worker.lanes]
    weights: Flow
    if shape.is_sharded:
        weights = _flow_of_units(shape, inventory, plan)
    else:
        weights = Pairs(TrafficKind.WEIGHTS, Doubling(ranks).crossing(_of_owners(values)))
    if not shape.is_layout_free and not shape.is_sharded:
        return [Ring(TrafficKind.SUMS, ranks, sum(gradients)), weights]
    tree = LaneTree(plan.num_lanes)
    halving = Halving(tree, {w.rank: tree.held(w.lanes) for w in plan.workers if w.lanes})
    return [Pairs(TrafficKind.SUMS, halving.crossing(_of_owners(gradients))), weights]


def _flow_of_units(shape: StepShape, inventory: Inventory, plan: Plan) -> Flow:
    """From owners to each of the others: for a forward, and again for the backward what does not
    belong to its first segment."""
    units = inventory.units
    assert units is not None, "a model without units is refused when it is looked at"
    again: set[str] = set()
    for unit in units.units[: units.kept_from]:
        again.update(unit.tensors)
    of_owner = [0.0] * len(plan.workers)
    for tensor, owner in owned_specs(inventory.tensors, plan.owners):
        if tensor.trainable:
            width = FLOAT32_BYTES if tensor.stays_float32 else shape.value_bytes
            num_bytes = width * aligned(tensor.num_parameters)
            of_owner[owner] += num_bytes * (2 if tensor_of(tensor.name) in again else 1)
    to_each = [float(bool(worker.lanes)) for worker in plan.workers]
    return Product(TrafficKind.WEIGHTS, of_owner, to_each)


def _of_owners(by_rank: Sequence[float]) -> dict[int, float]:
    """Of those workers that own anything."""
    return {rank: num_bytes for rank, num_bytes in enumerate(by_rank) if num_bytes}


@dataclass(frozen=True)
class LinkBytes:
    """Of one kind on one link."""

    num_bytes: float
    is_exact: bool = True

    def __add__(self, other: LinkBytes) -> LinkBytes:
        return LinkBytes(self.num_bytes + other.num_bytes, self.is_exact and other.is_exact)


ByKind = Mapping[TrafficKind, LinkBytes]


def bytes_by_link(flows: Iterable[Flow], places: Places) -> dict[Link, ByKind]:
    """What crosses from each place to each other one, and between the workers of one; kinds and
    links without a byte are left out."""
    links: dict[Link, dict[TrafficKind, LinkBytes]] = {}
    for source, target in itertools.product(places, repeat=2):
        links[source, target] = {}
    for flow in flows:
        for link, amount in flow.between(places).items():
            if amount > 0:
                more = LinkBytes(amount, flow.is_exact)
                links[link][flow.kind] = links[link].get(flow.kind, LinkBytes(0)) + more
    return {link: by_kind for link, by_kind in links.items() if by_kind}


def islands_of(plan: Plan) -> dict[str, list[int]]:
    """Ranks by island, where an island is on one node; else by island and node. Where those are
    more than `MOST_PLACES`, by island alone, and where these are, by what a worker does."""
    nodes: dict[str, set[str]] = {}
    for worker in plan.workers:
        nodes.setdefault(worker.island, set()).add(worker.node)

    def part_of_island(worker: Worker) -> str:
        if len(nodes[worker.island]) > 1:
            return f"{worker.island} on {worker.node}"
        return worker.island

    names: list[Callable[[Worker], str]] = [part_of_island, lambda worker: worker.island]
    for name_of in names:
        places = _by_name(plan, name_of)
        if len(places) <= MOST_PLACES:
            return places
    return _by_name(plan, lambda worker: f"all {worker.role_in_step}")


def nodes_of(plan: Plan) -> dict[str, list[int]]:
    """Ranks by node; of more than `MOST_PLACES` nodes nothing is said."""
    places = _by_name(plan, lambda worker: worker.node)
    return places if len(places) <= MOST_PLACES else {}


def _by_name(plan: Plan, name_of: Callable[[Worker], str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for worker in plan.workers:
        places.setdefault(name_of(worker), []).append(worker.rank)
    return places
