"""Who runs what: a pure function of the job, the cluster and the model's inventory.

The logical layout (lanes, experts, named tensors) fixes the arithmetic; a `Plan` only maps it onto
workers. Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, TypeAdapter

from dougong.errors import PlanError
from dougong.job.optimizers.declaration import ElementwiseRule, of_no_tensor
from dougong.ops.adapter_names import adapter_of
from dougong.parallel.activations import Activations
from dougong.parallel.assign import EQUAL, Speed, contiguous, lane_shares, shares
from dougong.parallel.island_paths import IslandPath
from dougong.parallel.owners import assign_owners, check_owners
from dougong.parallel.pieces import TensorSpec as TensorSpec
from dougong.parallel.units import DenseUnits

Role = Literal["attention", "experts", "both"]
"""What a worker has: lanes with their dense tensors, experts, or both."""

SiteExperts = tuple[tuple[int, ...], ...]
"""A worker's experts at every site: ascending and without a gap, none at some or all of them."""

_AS_WRITTEN = ConfigDict(extra="forbid")
"""How pydantic reads a plan: exactly the fields that `to_json` writes."""

_EXPERTS_RUN = re.compile(r"(none|\d+(-\d+)?)( x\d+)?", re.ASCII)

_HAVE_ATTENTION: tuple[Role, ...] = ("attention", "both")
_HAVE_EXPERTS: tuple[Role, ...] = ("experts", "both")


def role_in_step(has_attention: bool, has_experts: bool) -> Role:
    """What a worker really does in a step: one whose island has `role: attention` may keep experts
    as well (`offload`)."""
    if has_attention and has_experts:
        return "both"
    return "attention" if has_attention else "experts"


@dataclass(frozen=True)
class Inventory:
    """What a model consists of, as the planner sees it. `sites` are its `experts` modules in call
    order; `hidden_size`: values of a token's vector there; `num_idle_experts`: those beside
    `num_experts` that compute nothing. `attention`: the forms by which it may be computed, where
    there are several the fastest first. `is_swiglu`: its experts are the usual ones. `activations`:
    of the job's micro-batch, by accelerator; empty where nobody has asked. `units`: of dense
    tensors that come and go together; None where its layers were not found. `frozen_experts`:
    `SITE.PARAMETER` of experts' tensors that are not trained."""

    family: str
    tensors: tuple[TensorSpec, ...]
    sites: tuple[str, ...]
    num_experts: int
    expert_shapes: tuple[tuple[str, tuple[int, ...]], ...]
    experts_per_token: int = 1
    hidden_size: int = 0
    num_idle_experts: int = 0
    attention: tuple[str, ...] = ()
    is_swiglu: bool = True
    activations: tuple[Activations, ...] = ()
    units: DenseUnits | None = None
    frozen_experts: frozenset[str] = frozenset()

    @property
    def num_parameters(self) -> int:
        """Parameters in all, experts included."""
        experts = len(self.sites) * self.num_experts * self.expert_parameters
        return sum(t.num_parameters for t in self.tensors) + experts

    @property
    def active_parameters(self) -> int:
        """Those that a token meets: all outside of the experts, and its own experts."""
        experts = len(self.sites) * self.experts_per_token * self.expert_parameters
        return sum(t.num_parameters for t in self.tensors) + experts

    @property
    def expert_parameters(self) -> int:
        """Parameters of one expert of one site."""
        return sum(self.sizes_of_an_expert)

    @property
    def sizes_of_an_expert(self) -> list[int]:
        """Parameters of each tensor of one expert."""
        return [_numel(shape) for _, shape in self.expert_shapes]

    @property
    def adapted_parameters(self) -> int:
        """Of one expert: those that are merged with an adapter before they are computed with."""
        shapes = dict(self.expert_shapes)
        return sum(_numel(shapes[name]) for name in shapes if adapter_of(name, "A") in shapes)

    def trained_shapes(self, site: str) -> list[tuple[str, tuple[int, ...]]]:
        """(parameter, shape) of those tensors of one expert of a site that are trained."""
        frozen = self.frozen_experts
        return [pair for pair in self.expert_shapes if f"{site}.{pair[0]}" not in frozen]

    def trained_sizes(self, site: str) -> list[int]:
        """Parameters of each of them."""
        return [_numel(shape) for _, shape in self.trained_shapes(site)]


@dataclass(frozen=True)
class Seat:
    """A place where a worker may run: filled from the cluster before planning."""

    name: str
    island: str
    role: Role
    node: str
    device: str
    speed: Speed = EQUAL


def _from_text(value: Any) -> Any:
    """Older versions wrote a worker's experts as text."""
    return read_experts(value) if isinstance(value, str) else _tuples(value)


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, at any depth: pydantic takes no list for a tuple after a validator of
    ours."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@dataclass(frozen=True)
class Worker:
    """One process on one device and its share of the logical layout."""

    __pydantic_config__ = _AS_WRITTEN

    name: str
    rank: int
    island: str
    role: Role
    node: str
    device: str
    lanes: tuple[int, ...]
    experts: Annotated[SiteExperts, BeforeValidator(_from_text)]

    @property
    def num_experts(self) -> int:
        """Experts of all sites together."""
        return sum(map(len, self.experts))

    @property
    def role_in_step(self) -> Role:
        """What it does in a step, where `role` is what its island was given."""
        return role_in_step(bool(self.lanes), bool(self.num_experts))


@dataclass(frozen=True)
class Plan:
    """Lanes to workers, experts to workers, dense tensors to owners (`owners`: the name of each, or
    of each piece of one that is cut (`pieces`) -> rank).
    `has_snapshots`: its machines have the memory for those that the job wants. `paths`: the way
    between each two islands, and inside one of several workers; empty in what older versions
    wrote."""

    __pydantic_config__ = _AS_WRITTEN

    num_lanes: int
    num_experts: int
    workers: tuple[Worker, ...]
    owners: dict[str, int]
    has_snapshots: bool = True
    paths: tuple[IslandPath, ...] = ()

    def __post_init__(self) -> None:
        num_sites = max((len(worker.experts) for worker in self.workers), default=0)
        for worker in self.workers:
            _require(
                len(worker.experts) == num_sites,
                f"{worker.name}: has experts of {len(worker.experts)} sites, but the model has "
                f"{num_sites}",
            )
        # Most workers of a large plan have no experts.
        holders = [worker for worker in self.workers if any(worker.experts)]
        for site in range(num_sites):
            owned: list[int] = []
            for worker in holders:
                owned += worker.experts[site]
            owned.sort()
            if owned != list(range(self.num_experts)):
                raise PlanError(
                    f"site {site}: its workers own experts {owned}, but each of 0 to "
                    f"{self.num_experts - 1} needs one owner"
                )

    def to_json(self) -> str:
        """As written to `plan.json`. A worker's `experts`: by site, the list of their numbers."""
        return _PLANS.dump_json(self, indent=1, ensure_ascii=True).decode()

    @staticmethod
    def from_json(text: str) -> Plan:
        """Reads also what older versions wrote: `experts` as text, such as `0-3 x2 | none`.

        pydantic.ValidationError where a field is missing, unknown or of another type; PlanError
        where experts, lanes or owners do not fit together.
        """
        plan = _PLANS.validate_json(text, strict=True)
        _check_ranks(plan)
        return plan

    def worker(self, name: str) -> Worker:
        for worker in self.workers:
            if worker.name == name:
                return worker
        raise PlanError(
            f"no worker named {name!r}; this plan has {', '.join(w.name for w in self.workers)}"
        )


_PLANS: TypeAdapter[Plan] = TypeAdapter(Plan)


def make_plan(
    num_lanes: int,
    inventory: Inventory,
    seats: Sequence[Seat],
    offload: Sequence[int] | None = None,
    is_elementwise: ElementwiseRule = of_no_tensor,
) -> Plan:
    """Lay a job out over seats: lanes and experts in proportion to speed, tensors, or pieces of
    those that are updated element by element, to the least loaded attention worker.

    Lanes are contiguous along the reduction tree; experts of a site are contiguous, in order of
    rank. `offload`: how many experts of every site workers of role `attention` keep (default:
    none).
    """
    attention = _ranks_of(seats, _HAVE_ATTENTION)
    _check_counts(num_lanes, inventory, seats)
    lanes = _lanes_by_rank(num_lanes, seats, attention)
    by_site = _site_experts(inventory, seats, offload or [0] * len(inventory.sites))
    workers = []
    for rank, seat in enumerate(seats):
        workers.append(_worker_at(seat, rank, lanes, by_site))
    owners = assign_owners(inventory.tensors, attention, is_elementwise)
    return Plan(num_lanes, inventory.num_experts, tuple(workers), owners)


def _ranks_of(seats: Sequence[Seat], roles: Sequence[Role]) -> list[int]:
    return [rank for rank, seat in enumerate(seats) if seat.role in roles]


def _lanes_by_rank(
    num_lanes: int, seats: Sequence[Seat], ranks: Sequence[int]
) -> dict[int, tuple[int, ...]]:
    """The lanes of each of these workers, in proportion to speed."""
    speeds = [seats[rank].speed.attention for rank in ranks]
    return dict(zip(ranks, lane_shares(num_lanes, speeds), strict=True))


def _worker_at(
    seat: Seat,
    rank: int,
    lanes: Mapping[int, tuple[int, ...]],
    by_site: Sequence[Mapping[int, tuple[int, ...]]],
) -> Worker:
    """The worker that runs at a seat: the seat's place and role, and its share by rank of the lanes
    and of every site's experts."""
    return Worker(
        seat.name,
        rank,
        seat.island,
        seat.role,
        seat.node,
        seat.device,
        lanes=lanes.get(rank, ()),
        experts=tuple(site.get(rank, ()) for site in by_site),
    )


def _check_counts(num_lanes: int, inventory: Inventory, seats: Sequence[Seat]) -> None:
    """PlanError when a side has no worker, or a worker would have nothing."""
    num_attention = len(_ranks_of(seats, _HAVE_ATTENTION))
    num_experts = len(_ranks_of(seats, _HAVE_EXPERTS))
    _require(
        num_attention >= 1,
        "no attention worker: give one island `role: attention` or `role: both`",
    )
    _require(num_experts >= 1, "no experts worker: give one island `role: experts` or `role: both`")
    _require(
        num_lanes >= num_attention,
        f"{num_attention} attention workers but batch.lanes is {num_lanes}: each needs a lane; "
        "raise batch.lanes",
    )
    _require(
        inventory.num_experts >= num_experts,
        f"{num_experts} experts workers but the model has {inventory.num_experts} experts, and "
        "each needs one of every layer; lower islands.*.workers of roles experts and both by "
        f"{num_experts - inventory.num_experts} together, or give workers role attention",
    )


def _site_experts(
    inventory: Inventory, seats: Sequence[Seat], offload: Sequence[int]
) -> list[dict[int, tuple[int, ...]]]:
    """The experts of everybody who has some, by rank, for every site. Each worker that has them as
    its role gets one at least."""
    owners, keepers = _ranks_of(seats, _HAVE_EXPERTS), _ranks_of(seats, ("attention",))
    _check_offload(inventory.num_experts, len(owners), len(keepers), offload)
    remaining = [inventory.num_experts - kept for kept in offload]
    owned = _counts_by_rank(remaining, seats, owners, least=1)
    kept = _counts_by_rank(offload, seats, keepers if any(offload) else [], least=0)
    by_site = []
    for owned_here, kept_here in zip(owned, kept, strict=True):
        by_site.append(_in_order_of_rank(owned_here | kept_here))
    return by_site


def _in_order_of_rank(counts: dict[int, int]) -> dict[int, tuple[int, ...]]:
    """So many experts of one site for each of these workers."""
    ranks = sorted(counts)
    return dict(zip(ranks, contiguous([counts[rank] for rank in ranks]), strict=True))


def _counts_by_rank(
    totals: Sequence[int], seats: Sequence[Seat], ranks: Sequence[int], least: int
) -> list[dict[int, int]]:
    """For every site, how many of its total each of these workers gets, in proportion to speed."""
    found = shares(totals, [seats[rank].speed.experts for rank in ranks], least)
    return [dict(zip(ranks, counts, strict=True)) for counts in found]


def _check_offload(
    num_experts: int, num_owners: int, num_keepers: int, offload: Sequence[int]
) -> None:
    most = num_experts - num_owners if num_keepers else 0
    for kept in offload:
        _require(
            0 <= kept <= most,
            f"offload: {kept} experts on {num_keepers} attention workers, but of {num_experts} "
            f"experts each of {num_owners} experts workers needs one; it can be 0 to {most}",
        )


def read_experts(text: str) -> SiteExperts:
    """A worker's experts as files of older versions hold them: such as `0-3 x2 | none | 4`, where
    `x2` means two sites after each other. ValueError for other text."""
    sites: list[tuple[int, ...]] = []
    for run in text.split(" | ") if text else ():
        if _EXPERTS_RUN.fullmatch(run) is None:
            raise ValueError(f"{run!r} is not written as in `0-3 x2 | none | 4`")
        span, _, count = run.partition(" x")
        sites += [_read_span(span)] * int(count or 1)
    return tuple(sites)


def _read_span(text: str) -> tuple[int, ...]:
    if text == "none":
        return ()
    first, _, last = text.partition("-")
    return tuple(range(int(first), int(last or first) + 1))


def _check_ranks(plan: Plan) -> None:
    """PlanError when workers are not in order of rank, or a tensor's owner or a lane is not one of
    the plan's."""
    num_workers = len(plan.workers)
    for rank, worker in enumerate(plan.workers):
        _require(
            worker.rank == rank,
            f"{worker.name}: has rank {worker.rank}, but stands at place {rank}",
        )
    check_owners(plan.owners, num_workers)
    lanes: list[int] = []
    for worker in plan.workers:
        lanes += worker.lanes
    lanes.sort()
    _require(
        lanes == list(range(plan.num_lanes)),
        f"its workers have lanes {lanes}, but each of 0 to {plan.num_lanes - 1} needs one worker",
    )


def _numel(shape: Sequence[int]) -> int:
    return math.prod(shape)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise PlanError(message)
