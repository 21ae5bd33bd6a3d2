"""One worker's part of the model: dense compute copies, its own experts, and float32 masters of
what it owns.

Every attention worker holds all dense tensors in compute precision. A named tensor has one owner,
which keeps its float32 master, updates it and saves it; in float32 the owner's master and its
compute copy are one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dougong.job.schema import Job
from dougong.models.build import build_on_meta, initial_expert, load_config, materialise
from dougong.models.cut import cut
from dougong.models.inventory import experts_per_token
from dougong.models.sites import Site, expert_op, find_sites
from dougong.ops.experts.base import ExpertOp
from dougong.parallel.dense.buckets import FlatTensors
from dougong.parallel.plan import Plan, SiteExperts
from dougong.parallel.segments.cut import Cut
from dougong.planner.recipe import product_rows

ReadTensor = Callable[[str], Tensor]
"""Reads one named tensor (float32, any device) of the state to start from."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Replica:
    """What `build_replica` made for one worker.

    dense: compute copies by name (trainable and frozen, empty on a pure experts worker); flat: the
    buffers in which the trainable ones lie; experts[site][expert]: compute copies of owned experts;
    masters: float32, everything that this worker owns, trainable or not; trainable: names of the
    dense tensors that training changes (every expert's are).
    """

    model: nn.Module
    config: Any
    sites: list[Site]
    cut: Cut
    op: ExpertOp
    dense: dict[str, Tensor]
    flat: FlatTensors
    experts: list[dict[int, dict[str, Tensor]]]
    masters: dict[str, Tensor]
    trainable: frozenset[str]

    @property
    def leaves(self) -> Iterator[tuple[str, Tensor]]:
        """(name, compute parameter) of every trainable dense tensor, in the model's order."""
        return ((n, t) for n, t in self.dense.items() if n in self.trainable)

    @property
    def copies(self) -> Iterator[tuple[str, Tensor]]:
        """(name, compute copy) of everything owned that has one."""
        yield from ((n, t) for n, t in self.dense.items() if n in self.masters)
        for site, experts in zip(self.sites, self.experts, strict=True):
            for expert, tensors in experts.items():
                yield from ((site.tensor_name(p, expert), t) for p, t in tensors.items())

    def refresh(self) -> None:
        """Copy owned masters over their compute copies (nothing to do where they are one
        tensor)."""
        for name, copy in self.copies:
            master = self.masters[name]
            if copy.data_ptr() != master.data_ptr():
                copy.copy_(master)


@dataclass(frozen=True)
class ReplicaSpec:
    """What decides the bits of a replica besides its plan."""

    job: Job
    vocab_size: int | None
    device: torch.device
    read: ReadTensor | None = None


def build_replica(spec: ReplicaSpec, plan: Plan, rank: int) -> Replica:
    """Build one worker's part: from `spec.read`, or from initial values seeded by tensor name.

    No worker ever holds an expert that it does not own. Raises `ModelError` when the family cannot
    be cut.
    """
    worker = plan.workers[rank]
    dtype = DTYPES[spec.job.precision]
    config = load_config(spec.job.model, spec.vocab_size)
    source = build_on_meta(config)
    sites = find_sites(source)
    inside = tuple(f"{s.name}." for s in sites)
    trainable = {
        n for n, p in source.named_parameters() if p.requires_grad and not n.startswith(inside)
    }
    model = source
    if worker.lanes:
        _fill_dense(source, spec)
        if dtype != torch.float32:
            model = _cast(source, config, dtype, spec)
            sites = find_sites(model)
    flat = FlatTensors({n: t for n, t in _named(model).items() if n in trainable}, plan.owners)
    masters = {n: t.detach() for n, t in _named(source).items() if plan.owners[n] == rank}
    if model is not source:
        masters = {n: t.clone() for n, t in masters.items()}
    rows = product_rows(spec.job, sites[0].num_experts, experts_per_token(config))
    op = expert_op(sites[0], spec.device, rows)
    experts = _own_experts(source, sites, worker.experts, spec, masters)
    described = cut(model, sites)
    dense = {
        n: t.detach() if not isinstance(t, nn.Parameter) else t for n, t in _named(model).items()
    }
    return Replica(
        model, config, sites, described, op, dense, flat, experts, masters, frozenset(trainable)
    )


def _named(model: nn.Module) -> dict[str, Tensor]:
    """Dense parameters and persistent buffers by name; not the experts, which are on meta."""
    kept = set(model.state_dict())
    tensors = [*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if n in kept)]
    return {n: t for n, t in tensors if not t.is_meta}


def _fill_dense(model: nn.Module, spec: ReplicaSpec) -> None:
    materialise(model, spec.device, spec.job.seed)
    if spec.read is not None:
        with torch.no_grad():
            for name, tensor in _named(model).items():
                tensor.copy_(spec.read(name))


def _cast(source: nn.Module, config: Any, dtype: torch.dtype, spec: ReplicaSpec) -> nn.Module:
    """The compute copy, built as transformers' own loader would: tensors that a family keeps in
    float32 stay so."""
    model = build_on_meta(config, dtype)
    materialise(model, spec.device, spec.job.seed)
    values = _named(source)
    with torch.no_grad():
        for name, tensor in _named(model).items():
            tensor.copy_(values[name])
    return model


def _own_experts(
    model: nn.Module,
    sites: list[Site],
    owned: SiteExperts,
    spec: ReplicaSpec,
    masters: dict[str, Tensor],
) -> list[dict[int, dict[str, Tensor]]]:
    dtype = DTYPES[spec.job.precision]
    experts: list[dict[int, dict[str, Tensor]]] = []
    for site, own in zip(sites, owned, strict=True):
        experts.append({})
        for expert in _with_idle_rows(site, own):
            tensors = _expert(model, site, expert, spec)
            masters.update({site.tensor_name(p, expert): t for p, t in tensors.items()})
            if expert < site.num_experts:
                experts[-1][expert] = {
                    p: t if t.dtype == dtype else t.to(dtype) for p, t in tensors.items()
                }
    return experts


def _with_idle_rows(site: Site, owned: tuple[int, ...]) -> list[int]:
    """Owned experts; the last expert's owner also keeps the rows of experts that compute
    nothing."""
    if not owned or owned[-1] != site.num_experts - 1:
        return list(owned)
    return [*owned, *range(site.num_experts, max(site.num_rows.values()))]


def _expert(model: nn.Module, site: Site, expert: int, spec: ReplicaSpec) -> dict[str, Tensor]:
    if spec.read is None:
        return initial_expert(model, site, expert, spec.job.seed, spec.device)
    return {
        p: spec.read(n).to(spec.device, torch.float32, copy=True)
        for p, n in site.tensors_of(expert)
    }
