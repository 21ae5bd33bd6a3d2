"""Who runs what: a pure function of the job, the cluster and the model's inventory. Imports no torch.

The logical layout (lanes, experts, named tensors) fixes the arithmetic; a `Plan` only maps it onto workers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from dougong.errors import PlanError
from dougong.parallel.tree import LaneTree


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor of the model outside its experts."""

    name: str
    shape: tuple[int, ...]
    trainable: bool


@dataclass(frozen=True)
class Inventory:
    """What a model consists of, as the planner sees it. `sites` are its `experts` modules in call order."""

    family: str
    tensors: tuple[TensorSpec, ...]
    sites: tuple[str, ...]
    num_experts: int
    expert_shapes: tuple[tuple[str, tuple[int, ...]], ...]
    experts_per_token: int = 1

    @property
    def num_parameters(self) -> int:
        """Parameters in all, experts included."""
        expert = sum(_numel(shape) for _, shape in self.expert_shapes)
        return sum(_numel(t.shape) for t in self.tensors) + len(self.sites) * self.num_experts * expert


@dataclass(frozen=True)
class Seat:
    """A place where a worker may run: filled from the cluster before planning."""

    name: str
    island: str
    role: str
    node: str
    device: str


@dataclass(frozen=True)
class Worker:
    """One process on one device and its share of the logical layout."""

    name: str
    rank: int
    island: str
    role: str
    node: str
    device: str
    lanes: tuple[int, ...]
    experts: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Lanes to workers, experts to workers, dense tensors to owners (`owners`: name -> rank)."""

    num_lanes: int
    num_experts: int
    workers: tuple[Worker, ...]
    owners: dict[str, int]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> Plan:
        raw = json.loads(text)
        workers = tuple(
            Worker(**{**w, "lanes": tuple(w["lanes"]), "experts": tuple(w["experts"])}) for w in raw["workers"]
        )
        return Plan(raw["num_lanes"], raw["num_experts"], workers, dict(raw["owners"]))

    def worker(self, name: str) -> Worker:
        for worker in self.workers:
            if worker.name == name:
                return worker
        raise PlanError(f"no worker named {name!r}; this plan has {', '.join(w.name for w in self.workers)}")


def make_plan(num_lanes: int, inventory: Inventory, seats: Sequence[Seat]) -> Plan:
    """Lay a job out over seats: contiguous lanes along the reduction tree, contiguous experts, tensors to the least
    loaded attention worker."""
    attention = [i for i, s in enumerate(seats) if s.role in ("attention", "both")]
    experts = [i for i, s in enumerate(seats) if s.role in ("experts", "both")]
    _require(len(attention) >= 1, "no attention worker: give one island `role: attention` or `role: both`")
    _require(len(experts) >= 1, "no experts worker: give one island `role: experts` or `role: both`")
    _require(
        num_lanes >= len(attention),
        f"{len(attention)} attention workers but batch.lanes is {num_lanes}: each needs a lane; raise batch.lanes",
    )
    _require(
        inventory.num_experts >= len(experts),
        f"{len(experts)} experts workers but the model has {inventory.num_experts} experts; lower islands.*.workers",
    )
    lanes_of = dict(zip(attention, LaneTree(num_lanes).split(len(attention)), strict=True))
    experts_of = dict(zip(experts, split_evenly(inventory.num_experts, len(experts)), strict=True))
    workers = tuple(
        Worker(s.name, rank, s.island, s.role, s.node, s.device, lanes_of.get(rank, ()), experts_of.get(rank, ()))
        for rank, s in enumerate(seats)
    )
    return Plan(num_lanes, inventory.num_experts, workers, _assign_owners(inventory.tensors, attention))


def split_evenly(count: int, parts: int) -> list[tuple[int, ...]]:
    """Cut range(count) into contiguous parts whose sizes differ by at most one."""
    return [tuple(range(i * count // parts, (i + 1) * count // parts)) for i in range(parts)]


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
