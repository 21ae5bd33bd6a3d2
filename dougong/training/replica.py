"""One worker's part of the model: dense compute copies, its own experts, and float32 masters of
what it owns.

Every attention worker holds all dense tensors in compute precision. A named tensor, or a piece of a
large one, has one owner, which keeps its float32 master, updates it and saves it; in float32 the
owner's master and compute copy are one memory, unless masters lie on the host beside a device.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dougong.accelerators.staging import HostLink
from dougong.checkpoint.huggingface import Names, names_of
from dougong.job.schema import Job
from dougong.models.build import initial_expert, materialise
from dougong.models.cut import cut
from dougong.models.layers import find_units
from dougong.models.sites import Site, find_sites
from dougong.models.tuned import trainable_dense, tuned_on_meta
from dougong.ops.adapter_names import is_adapter
from dougong.ops.experts.base import ExpertOp
from dougong.parallel.dense.buckets import FlatTensors, in_pieces
from dougong.parallel.dense.unit_tensors import UnitTensors, without_memory
from dougong.parallel.pieces import OwnedPiece, cut_tensors, piece_named, tensor_of
from dougong.parallel.plan import Plan, SiteExperts
from dougong.parallel.segments.cut import Cut
from dougong.parallel.segments.unit_spans import tell_units

ReadTensor = Callable[[str], Tensor]
"""Reads one named tensor (float32, any device) of the state to start from."""

AT_ONCE = 1 << 28
"""Parameters whose initial values are made at a time, where a worker keeps some of them."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ModelBlueprint:
    """What depends on the job and the device alone: the model without memory for its tensors, and
    how its experts are computed.

    model: on the meta device, in float32; sites: its experts modules; op: the form of the experts,
    the same for every site.
    """

    job: Job
    device: torch.device
    config: Any
    model: nn.Module
    sites: list[Site]
    op: ExpertOp

    @property
    def dtype(self) -> torch.dtype:
        """The compute copies' precision."""
        return DTYPES[self.job.precision]

    @property
    def master_device(self) -> torch.device:
        """Where masters lie, and what the optimizer keeps."""
        return torch.device("cpu") if self.job.optimizer.is_on_host else self.device

    @property
    def has_masters_apart(self) -> bool:
        """Whether that is in another memory than that in which the worker computes."""
        return self.master_device != self.device

    def on_meta(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The model once more, without memory."""
        return tuned_on_meta(self.job.model, self.config, dtype)

    def expert_dtype(self, parameter: str) -> torch.dtype:
        """Of the compute copy of an expert's tensor."""
        return torch.float32 if is_adapter(parameter) else self.dtype

    def link_to_masters(self) -> HostLink | None:
        """A new one, from there to the device; None where both are in one memory."""
        return HostLink(self.device) if self.has_masters_apart else None

    @cached_property
    def names(self) -> Names:
        """The model's map on disk. Raises `ModelError` for a family that cannot be stored."""
        return names_of(self.model, self.sites, self.job.model)


@dataclass
class Replica:
    """What `build_replica` made for one worker.

    dense: compute copies by name that are there all the time (trainable and frozen, but with
    `dense: shard` frozen ones alone; empty on a pure experts worker); flat: the buffers in which
    the trainable ones lie; experts[site][expert]: compute copies of owned experts;
    masters: float32, by owned name, everything that this worker owns, trainable or not, pieces
    flat; trainable: names of the dense tensors that training changes. pieces:
    of all dense tensors that are owned so; shapes: of those tensors, by the pieces' names. link:
    from masters on the host to the device that computes; None where they lie there.
    """

    model: nn.Module
    sites: list[Site]
    cut: Cut
    dense: dict[str, Tensor]
    flat: FlatTensors
    experts: list[dict[int, dict[str, Tensor]]]
    masters: dict[str, Tensor]
    trainable: frozenset[str]
    pieces: Mapping[str, Sequence[OwnedPiece]]
    shapes: Mapping[str, tuple[int, ...]]
    link: HostLink | None = None

    @property
    def leaves(self) -> Iterator[tuple[str, Tensor]]:
        """(name, compute parameter) of every trainable dense tensor, in the model's order."""
        if isinstance(self.flat, UnitTensors):
            return iter(self.flat.parameters.items())
        return ((n, t) for n, t in self.dense.items() if n in self.trainable)

    @property
    def owned_dense(self) -> Iterator[tuple[str, Tensor]]:
        """(owned name, compute copy) of all of `dense`, whoever owns it."""
        return in_pieces(self.dense, self.pieces)

    @property
    def copies(self) -> Iterator[tuple[str, Tensor]]:
        """(owned name, compute copy) of everything owned that has one."""
        for name, tensor in self.owned_dense:
            if name in self.masters:
                yield name, tensor
        for site, experts in zip(self.sites, self.experts, strict=True):
            for expert, tensors in experts.items():
                for parameter, tensor in tensors.items():
                    yield site.tensor_name(parameter, expert), tensor

    def refresh(self) -> None:
        """Copy owned masters over their compute copies (nothing to do where they are one tensor).
        To be called without gradients: the copies are the leaves of the model's graph."""
        pairs = [(copy, self.masters[name]) for name, copy in self.copies]
        if self.link is not None:
            self.link.send(pairs)
            return
        apart = [pair for pair in pairs if pair[0].data_ptr() != pair[1].data_ptr()]
        # A device's library takes tensors of one dtype together.
        for kind in {(copy.dtype, master.dtype) for copy, master in apart}:
            alike = [pair for pair in apart if (pair[0].dtype, pair[1].dtype) == kind]
            torch._foreach_copy_([copy for copy, _ in alike], [master for _, master in alike])


def build_replica(
    blueprint: ModelBlueprint, plan: Plan, rank: int, read: ReadTensor | None = None
) -> Replica:
    """Build one worker's part: from what `read` gives, or from initial values seeded by tensor
    name.

    No worker ever holds an expert that it does not own. The blueprint stays as it is: any number of
    replicas can be built from it.
    """
    worker = plan.workers[rank]
    is_sharded = blueprint.job.dense == "shard"
    part = _shard(blueprint, plan, rank, read) if is_sharded else _copy(blueprint, plan, rank, read)
    masters, sites = part.masters, find_sites(part.model)
    experts = _Experts(blueprint, part.source, read).build(sites, worker.experts, masters)
    is_again = blueprint.job.recompute == "layers"
    described = cut(part.model, sites, is_again, part.flat.buffers)
    pieces = cut_tensors(plan.owners)
    return Replica(
        model=part.model,
        sites=sites,
        cut=described,
        dense={n: _without_graph(t) for n, t in part.dense.items()},
        flat=part.flat,
        experts=experts,
        masters=masters,
        trainable=trainable_dense(part.source),
        pieces=pieces,
        shapes=_shapes_of_pieces(blueprint, pieces),
        link=blueprint.link_to_masters(),
    )


def _shapes_of_pieces(
    blueprint: ModelBlueprint, pieces: Mapping[str, Sequence[OwnedPiece]]
) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for tensor, its in pieces.items():
        for piece in its:
            found[piece.name] = tuple(blueprint.model.get_parameter(tensor).shape)
    return found


@dataclass(frozen=True)
class _DensePart:
    """What a worker has of a model outside of the experts. `source`: float32, as a checkpoint is;
    `model`: what computes, often the same module; `dense`: its tensors that are there all the
    time; `masters`: of what it owns."""

    source: nn.Module
    model: nn.Module
    dense: dict[str, Tensor]
    flat: FlatTensors
    masters: dict[str, Tensor]


def _copy(blueprint: ModelBlueprint, plan: Plan, rank: int, read: ReadTensor | None) -> _DensePart:
    """`dense: copy`: all of it, where there are lanes."""
    source = model = blueprint.on_meta()
    if plan.workers[rank].lanes:
        _fill_dense(source, blueprint, plan, read)
        model = _compute_copy(source, blueprint)
    dense, trainable = _named(model), trainable_dense(source)
    # The buffers take over the parameters' memory, so they come before the masters, which in
    # float32 are views of the same memory.
    flat = FlatTensors({n: t for n, t in dense.items() if n in trainable}, plan.owners)
    masters = _dense_masters(source, blueprint, plan, rank, shared=model is source)
    return _DensePart(source, model, dense, flat, masters)


def _shard(blueprint: ModelBlueprint, plan: Plan, rank: int, read: ReadTensor | None) -> _DensePart:
    """`dense: shard`: of trained tensors what it owns, and room for the others' to come."""
    if not plan.workers[rank].lanes:
        return _copy(blueprint, plan, rank, read)
    source = blueprint.on_meta()
    trainable = trainable_dense(source)
    _fill_dense(source, blueprint, plan, read, trainable)
    model = _compute_copy(source, blueprint, trainable)
    masters = _dense_masters(source, blueprint, plan, rank, shared=model is source)
    masters |= _owned_masters(blueprint, _owned_by(plan, rank, trainable), trainable, read)
    dense, units = _named(model), find_units(model, find_sites(model))
    shapes = {n: p for n, p in model.named_parameters() if n in trainable}
    parameters = without_memory(model, shapes, blueprint.device)
    flat = UnitTensors(units, parameters, shapes, plan.owners, masters)
    tell_units([model.get_submodule(unit.name) for unit in units.units])
    return _DensePart(source, model, dense, flat, masters)


def _owned_by(plan: Plan, rank: int, tensors: frozenset[str]) -> dict[str, list[str]]:
    """Of some tensors those of which a worker owns anything, and the owned names."""
    owned: dict[str, list[str]] = {}
    for name, owner in plan.owners.items():
        if owner == rank and tensor_of(name) in tensors:
            owned.setdefault(tensor_of(name), []).append(name)
    return owned


def _owned_masters(
    blueprint: ModelBlueprint,
    owned: Mapping[str, Sequence[str]],
    trainable: frozenset[str],
    read: ReadTensor | None,
) -> dict[str, Tensor]:
    """Float32 masters of trained tensors, without ever having all of them."""
    place, masters = blueprint.master_device, dict[str, Tensor]()
    if read is not None:
        for name in itertools.chain.from_iterable(owned.values()):
            masters[name] = read(name).to(place, torch.float32, copy=True)
        return masters
    sizes = {name: p.numel() for name, p in blueprint.model.named_parameters() if name in trainable}
    waiting = sorted(owned)
    while waiting:
        some = [waiting.pop()]
        while waiting and sum(sizes[n] for n in (*some, waiting[-1])) <= AT_ONCE:
            some.append(waiting.pop())
        model = blueprint.on_meta()
        absent = trainable.difference(some)
        materialise(model, blueprint.device, blueprint.job.seed, absent=absent)
        values = dict(model.named_parameters())
        for tensor in some:
            masters |= _kept(values[tensor], owned[tensor], place)
    return masters


def _kept(values: Tensor, names: Sequence[str], place: torch.device) -> dict[str, Tensor]:
    """A tensor, or those of its pieces that are owned, so that the rest of it can be freed."""
    found = {}
    for name in names:
        piece, its = piece_named(name), values.detach()
        found[name] = (its if piece is None else its.view(-1)[piece.range].clone()).to(place)
    return found


def _named(model: nn.Module) -> dict[str, Tensor]:
    """Dense parameters and persistent buffers by name; not the experts, which are on meta."""
    kept = set(model.state_dict())
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    tensors |= {n: b for n, b in model.named_buffers() if n in kept}
    return {n: t for n, t in tensors.items() if not t.is_meta}


def _without_graph(tensor: Tensor) -> Tensor:
    """A parameter stays the leaf that the model computes with; a buffer is looked at alone."""
    return tensor if isinstance(tensor, nn.Parameter) else tensor.detach()


def _fill_dense(
    model: nn.Module,
    blueprint: ModelBlueprint,
    plan: Plan,
    read: ReadTensor | None,
    absent: frozenset[str] = frozenset(),
) -> None:
    """Give a model's dense tensors memory and values, but for those of `absent`."""
    device, seed = blueprint.device, blueprint.job.seed
    if read is None:
        materialise(model, device, seed, absent=absent)
        return
    materialise(model, device, seed, unfilled=model.state_dict(), absent=absent)
    with torch.no_grad():
        for name, values in in_pieces(_named(model), cut_tensors(plan.owners)):
            values.copy_(read(name))


def _compute_copy(
    source: nn.Module, blueprint: ModelBlueprint, absent: frozenset[str] = frozenset()
) -> nn.Module:
    """The model that computes, built as transformers' own loader would: tensors that a family keeps
    in float32 stay so. In float32 it is `source` itself."""
    if blueprint.dtype == torch.float32:
        return source
    model = blueprint.on_meta(blueprint.dtype)
    seed, unfilled = blueprint.job.seed, model.state_dict()
    materialise(model, blueprint.device, seed, unfilled=unfilled, absent=absent)
    values = _named(source)
    with torch.no_grad():
        for name, tensor in _named(model).items():
            tensor.copy_(values[name])
    return model


def _dense_masters(
    source: nn.Module,
    blueprint: ModelBlueprint,
    plan: Plan,
    rank: int,
    shared: bool,
) -> dict[str, Tensor]:
    """Float32 masters of what `rank` owns of dense tensors. `shared`: the model computes with
    them; otherwise they are copies, so that the rest of `source` can be freed."""
    owned = in_pieces(_named(source), cut_tensors(plan.owners))
    masters = {name: values.detach() for name, values in owned if plan.owners[name] == rank}
    if blueprint.has_masters_apart:
        return {n: t.to(blueprint.master_device) for n, t in masters.items()}
    if shared:
        return masters
    return {n: t.clone() for n, t in masters.items()}


@dataclass(frozen=True)
class _Experts:
    """Builds the experts that one worker owns."""

    blueprint: ModelBlueprint
    source: nn.Module
    read: ReadTensor | None

    def build(
        self, sites: list[Site], owned: SiteExperts, masters: dict[str, Tensor]
    ) -> list[dict[int, dict[str, Tensor]]]:
        """Compute copies by site and expert; their masters join `masters`."""
        copies: list[dict[int, dict[str, Tensor]]] = []
        for site, own in zip(sites, owned, strict=True):
            of_site: dict[int, dict[str, Tensor]] = {}
            for expert in site.with_idle_rows(own):
                tensors = self._masters(site, expert)
                for parameter, tensor in tensors.items():
                    masters[site.tensor_name(parameter, expert)] = tensor
                # Rows behind the last expert are saved with the model but compute nothing.
                if expert < site.num_experts:
                    of_site[expert] = self._copies(tensors)
            copies.append(of_site)
        return copies

    def _copies(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """In compute precision, where the worker computes; the masters themselves where that is
        float32 and they lie there."""
        blueprint = self.blueprint
        found = {}
        for parameter, tensor in tensors.items():
            found[parameter] = tensor.to(blueprint.device, blueprint.expert_dtype(parameter))
        return found

    def _masters(self, site: Site, expert: int) -> dict[str, Tensor]:
        blueprint, place = self.blueprint, self.blueprint.master_device
        tensors: dict[str, Tensor] = {}
        if self.read is None:
            # Drawn where the worker computes, wherever they lie then: the same bits.
            drawn = initial_expert(self.source, site, expert, blueprint.job.seed, blueprint.device)
            return {parameter: tensor.to(place) for parameter, tensor in drawn.items()}
        for parameter, name in site.tensors_of(expert):
            tensors[parameter] = self.read(name).to(place, torch.float32, copy=True)
        return tensors
