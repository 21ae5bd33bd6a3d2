"""Who runs what: a pure function of the job, the cluster and the model's inventory. Imports no
torch.

The logical layout (lanes, experts, named tensors) fixes the arithmetic; a `Plan` only maps it onto
workers.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dougong.errors import PlanError
from dougong.parallel.assign import EQUAL, Speed, contiguous, lane_shares, shares

Role = Literal["attention", "experts", "both"]
"""What a worker has: lanes with their dense tensors, experts, or both."""

SiteExperts = tuple[tuple[int, ...], ...]
"""A worker's experts at every site: ascending and without a gap, none at some or all of them."""


def role_in_step(has_attention: bool, has_experts: bool) -> Role:
    """What a worker really does in a step: one whose island has `role: attention` may keep experts
    as well (`offload`)."""
    if has_attention and has_experts:
        return "both"
    return "attention" if has_attention else "experts"


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor of the model outside its experts."""

    name: str
    shape: tuple[int, ...]
    trainable: bool

    @property
    def num_parameters(self) -> int:
        return _numel(self.shape)


@dataclass(frozen=True)
class Inventory:
    """What a model consists of, as the planner sees it. `sites` are its `experts` modules in call
    order."""

    family: str
    tensors: tuple[TensorSpec, ...]
    sites: tuple[str, ...]
    num_experts: int
    expert_shapes: tuple[tuple[str, tuple[int, ...]], ...]
    experts_per_token: int = 1

    @property
    def num_parameters(self) -> int:
        """Parameters in all, experts included."""
        experts = len(self.sites) * self.num_experts * self.expert_parameters
        return sum(t.num_parameters for t in self.tensors) + experts

    @property
    def expert_parameters(self) -> int:
        """Parameters of one expert of one site."""
        return sum(_numel(shape) for _, shape in self.expert_shapes)


@dataclass(frozen=True)
class Seat:
    """A place where a worker may run: filled from the cluster before planning."""

    name: str
    island: str
    role: Role
    node: str
    device: str
    speed: Speed = EQUAL


@dataclass(frozen=True)
class Worker:
    """One process on one device and its share of the logical layout."""

    name: str
    rank: int
    island: str
    role: Role
    node: str
    device: str
    lanes: tuple[int, ...]
    experts: SiteExperts

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
    """Lanes to workers, experts to workers, dense tensors to owners (`owners`: name -> rank)."""

    num_lanes: int
    num_experts: int
    workers: tuple[Worker, ...]
    owners: dict[str, int]

    def __post_init__(self) -> None:
        for site in range(max((len(w.experts) for w in self.workers), default=0)):
            owned = sorted(e for w in self.workers for e in w.experts[site])
            if owned != list(range(self.num_experts)):
                raise PlanError(
                    f"site {site}: its workers own experts {owned}, but each of 0 to {self.num_experts - 1} needs one "
                    "owner"
                )

    def to_json(self) -> str:
        raw = dataclasses.asdict(self)
        for worker in raw["workers"]:
            worker["experts"] = experts_text(worker["experts"])
        return json.dumps(raw, indent=1)

    @staticmethod
    def from_json(text: str) -> Plan:
        raw = json.loads(text)
        workers = tuple(
            Worker(**{**w, "lanes": tuple(w["lanes"]), "experts": read_experts(w["experts"])})
            for w in raw["workers"]
        )
        return Plan(raw["num_lanes"], raw["num_experts"], workers, dict(raw["owners"]))

    def worker(self, name: str) -> Worker:
        for worker in self.workers:
            if worker.name == name:
                return worker
        raise PlanError(
            f"no worker named {name!r}; this plan has {', '.join(w.name for w in self.workers)}"
        )


def make_plan(
    num_lanes: int,
    inventory: Inventory,
    seats: Sequence[Seat],
    offload: Sequence[int] | None = None,
) -> Plan:
    """Lay a job out over seats: lanes and experts in proportion to speed, tensors to the least
    loaded attention worker.

    Lanes are contiguous along the reduction tree; experts of a site are contiguous, in order of
    rank. `offload`: how many experts of every site workers of role `attention` keep (default:
    none).
    """
    attention = [i for i, s in enumerate(seats) if s.role in ("attention", "both")]
    experts = [i for i, s in enumerate(seats) if s.role in ("experts", "both")]
    _require(
        len(attention) >= 1,
        "no attention worker: give one island `role: attention` or `role: both`",
    )
    _require(
        len(experts) >= 1, "no experts worker: give one island `role: experts` or `role: both`"
    )
    _require(
        num_lanes >= len(attention),
        f"{len(attention)} attention workers but batch.lanes is {num_lanes}: each needs a lane; raise batch.lanes",
    )
    _require(
        inventory.num_experts >= len(experts),
        f"{len(experts)} experts workers but the model has {inventory.num_experts} experts; lower islands.*.workers",
    )
    lanes_of = dict(
        zip(
            attention,
            lane_shares(num_lanes, [seats[i].speed.attention for i in attention]),
            strict=True,
        )
    )
    sites = _site_experts(inventory, seats, offload or [0] * len(inventory.sites))
    workers = tuple(
        Worker(
            s.name, rank, s.island, s.role, s.node, s.device, lanes_of.get(rank, ()), sites[rank]
        )
        for rank, s in enumerate(seats)
    )
    return Plan(
        num_lanes, inventory.num_experts, workers, _assign_owners(inventory.tensors, attention)
    )


def _site_experts(
    inventory: Inventory, seats: Sequence[Seat], offload: Sequence[int]
) -> list[SiteExperts]:
    """Every seat's experts. Each worker that has them as its role gets one at least."""
    owners = [i for i, s in enumerate(seats) if s.role in ("experts", "both")]
    keepers = [i for i, s in enumerate(seats) if s.role == "attention"]
    most = inventory.num_experts - len(owners) if keepers else 0
    for kept in offload:
        _require(
            0 <= kept <= most,
            f"offload: {kept} experts on {len(keepers)} attention workers, but of {inventory.num_experts} experts "
            f"each of {len(owners)} experts workers needs one; it can be 0 to {most}",
        )
    counts = [[0] * len(seats) for _ in offload]
    own_totals = [inventory.num_experts - kept for kept in offload]
    for ranks, totals, least in ((owners, own_totals, 1), (keepers, offload, 0)):
        found = shares(totals, [seats[i].speed.experts for i in ranks], least) if ranks else []
        for row, of_site in zip(counts, found, strict=False):
            for rank, count in zip(ranks, of_site, strict=True):
                row[rank] = count
    by_site = [contiguous(row) for row in counts]
    return [tuple(of_site[rank] for of_site in by_site) for rank in range(len(seats))]


def experts_text(experts: Sequence[Sequence[int]]) -> str:
    """A worker's experts at every site, such as `0-3 x2 | none | 4`: `x2` at two sites after each
    other."""
    spans = [
        "none" if not own else str(own[0]) if len(own) == 1 else f"{own[0]}-{own[-1]}"
        for own in experts
    ]
    runs = [(span, len(list(run))) for span, run in itertools.groupby(spans)]
    return " | ".join(span if count == 1 else f"{span} x{count}" for span, count in runs)


def read_experts(text: str) -> SiteExperts:
    """The inverse of `experts_text`."""
    sites: list[tuple[int, ...]] = []
    for run in text.split(" | ") if text else ():
        span, _, count = run.partition(" x")
        first, _, last = span.partition("-")
        sites += [() if span == "none" else tuple(range(int(first), int(last or first) + 1))] * int(
            count or 1
        )
    return tuple(sites)


def _assign_owners(tensors: Sequence[TensorSpec], ranks: Sequence[int]) -> dict[str, int]:
    load = dict.fromkeys(ranks, 0)
    owners: dict[str, int] = {}
    for tensor in sorted(tensors, key=lambda t: (-_numel(t.shape), t.name)):
        rank = min(load, key=lambda r: (load[r], r))
        owners[tensor.name] = rank
        load[rank] += _numel(tensor.shape)
    return dict(sorted(owners.items()))


def _numel(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise PlanError(message)
