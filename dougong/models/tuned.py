"""A job's model as it is trained: what is frozen of it, and which adapters it has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from dougong.errors import ModelError
from dougong.job.parts.patterns import is_among, without_match
from dougong.job.schema import Model
from dougong.models.adapters import add_adapters, is_transposed, scaling_of
from dougong.models.build import build_on_meta
from dougong.models.sites import Site, expert_op, find_sites
from dougong.models.towers import freeze
from dougong.ops.adapter_names import adapted_tensor, is_adapter
from dougong.ops.experts.adapted import AdaptedExperts, Adapter, PartlyFrozen
from dougong.ops.experts.base import ExpertOp, Rows
from dougong.ops.experts.choose import NO_FUSED, FusedForms

_ALL = ("*",)


def tuned_on_meta(model: Model, config: Any, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model of `build_on_meta` with the job's adapters, in which no frozen tensor has a
    gradient. Raises ModelError for a pattern without a tensor, and where nothing is left to train.
    """
    network = build_on_meta(config, dtype)
    if model.lora is not None:
        add_adapters(network, model.lora)
    patterns = frozen_patterns(model)
    if patterns:
        _freeze(network, patterns)
    if model.lora is not None:
        _refuse_trained_twice(network)
    return network


def frozen_patterns(model: Model) -> Sequence[str]:
    """Of the tensors that a job does not train."""
    if model.freeze is not None:
        return model.freeze
    return () if model.lora is None else _ALL


def _freeze(network: nn.Module, patterns: Sequence[str]) -> None:
    wrong = without_match(patterns, _names(network))
    if wrong is not None:
        raise ModelError(f"model.freeze: {wrong}")
    # A tied tensor has several names; one that is frozen freezes it.
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if not is_adapter(name) and is_among(patterns, name):
            freeze(parameter)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ModelError(
            f"model.freeze: {', '.join(patterns)}: nothing is left to train; leave a pattern out, "
            "or take some tensors out again by '!PATTERN'"
        )


def _names(network: nn.Module) -> list[str]:
    """Of all that a model keeps, but its adapters; buffers too, some of which are moved by what
    balances experts."""
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    return [name for name in (*names, *network.state_dict()) if not is_adapter(name)]


def refuse_frozen_biases(model: Model, biases: Iterable[str]) -> None:
    """ModelError where the job moves a bias of a router that it has frozen."""
    patterns = frozen_patterns(model)
    frozen = next((bias for bias in biases if is_among(patterns, bias)), None)
    if frozen is not None:
        key = "model.lora" if model.freeze is None else "model.freeze"
        raise ModelError(
            f"router.bias_rate: moves {frozen}, which {key} freezes; leave bias_rate out, or set "
            f"model.freeze to [..., '!*{frozen.rpartition('.')[2]}']"
        )


def _refuse_trained_twice(network: nn.Module) -> None:
    """A matrix that is trained itself needs no adapter."""
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    for name in sorted(trained):
        if is_adapter(name) and adapted_tensor(name)[0] in trained:
            raise ModelError(
                f"model.freeze: {adapted_tensor(name)[0]} has an adapter (model.lora.targets) and "
                "is trained as well; freeze it, or leave it out of the targets"
            )


def tuned_expert_op(
    model: Model,
    sites: Sequence[Site],
    device: torch.device,
    rows: Rows = "block",
    fused: FusedForms = NO_FUSED,
) -> ExpertOp:
    """How all experts of the job's model compute: `expert_op`, without what is frozen, with what is
    adapted."""
    op = expert_op(sites[0], device, rows, fused)
    if any(is_adapter(name) for name in sites[0].shapes):
        assert model.lora is not None
        return AdaptedExperts(op, Adapter(scaling_of(model.lora), is_transposed(sites[0])))
    has_frozen = any(site.trained != site.shapes.keys() for site in sites)
    return PartlyFrozen(op) if has_frozen else op


def trainable_dense(model: nn.Module) -> frozenset[str]:
    """Names of the tensors outside the experts that training changes."""
    inside = tuple(f"{site.name}." for site in find_sites(model))
    parameters = model.named_parameters()
    return frozenset(n for n, p in parameters if p.requires_grad and not n.startswith(inside))
