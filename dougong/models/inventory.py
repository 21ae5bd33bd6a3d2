"""What a job's model consists of, found without giving it memory; the planner needs no more."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from dougong.errors import ModelError
from dougong.job.parts.router import Router
from dougong.job.schema import EXPERTS_PER_TOKEN_KEYS, Model
from dougong.models.configs.load import load_config
from dougong.models.configs.parts import text_config
from dougong.models.layers import find_layers, find_units
from dougong.models.library.attention_forms import forms_to_try
from dougong.models.library.fast_paths import refuse_fast_paths
from dougong.models.library.transformers_internals import strict_float32_names
from dougong.models.routers import find_choosers
from dougong.models.sites import (
    Site,
    expert_parameters,
    family_expert,
    family_shapes,
    find_sites,
)
from dougong.models.tuned import refuse_frozen_biases, tuned_on_meta
from dougong.ops.adapter_names import is_adapter
from dougong.ops.experts.choose import is_swiglu
from dougong.parallel.plan import Inventory, TensorSpec
from dougong.parallel.units import DenseUnits


def inspect_model(
    model: Model,
    vocab_size: int | None,
    router: Router | None = None,
    is_layout_free: bool = False,
    recompute: bool = False,
    shard: bool = False,
) -> Inventory:
    """Build the model on the meta device and list its tensors.

    `vocab_size` is the tokenizer's; it is used when the job file does not set the model's own.
    `is_layout_free`: the job promises its bits on any layout. `recompute`: its layers are to run
    again in the backward; `shard`: its dense tensors are to come and go. Raises `ModelError` when
    the model cannot be cut, or not balanced as `router` asks, or would break that promise, or has
    no layers.
    """
    config = load_config(model, vocab_size)
    network = tuned_on_meta(model, config)
    sites = find_sites(network)
    router = router or Router()
    choosers = find_choosers(network, sites, router)
    if router.bias_rate is not None:
        refuse_frozen_biases(model, [one.bias for one in choosers if one.bias is not None])
    if is_layout_free:
        refuse_fast_paths(network)
    if recompute:
        find_layers(network, sites)
    if shard:
        find_units(network, sites)
    inventory = inventory_of(config, network, sites)
    return dataclasses.replace(
        inventory,
        attention=forms_to_try(network, model.attention),
        is_swiglu=is_swiglu(family_expert(sites[0]), family_shapes(sites[0]), torch.device("cpu")),
    )


def inventory_of(config: Any, network: nn.Module, sites: Sequence[Site]) -> Inventory:
    """That of a model which has been built already. `sites`: all of its experts modules."""
    text = text_config(config)
    return Inventory(
        family=str(config.model_type),
        tensors=tuple(_dense_tensors(network, sites)),
        sites=tuple(site.name for site in sites),
        num_experts=sites[0].num_experts,
        expert_shapes=tuple(sorted(sites[0].shapes.items())),
        experts_per_token=experts_per_token(text),
        hidden_size=int(text.hidden_size),
        num_idle_experts=max(sites[0].num_rows.values()) - sites[0].num_experts,
        units=_units(network, sites),
        frozen_experts=frozenset(_frozen_parameters(sites)),
    )


def _frozen_parameters(sites: Sequence[Site]) -> Iterator[str]:
    for site in sites:
        yield from (f"{site.name}.{name}" for name in site.shapes.keys() - site.trained)


def _units(network: nn.Module, sites: Sequence[Site]) -> DenseUnits | None:
    try:
        return find_units(network, sites)
    except ModelError:
        return None


def _dense_tensors(network: nn.Module, sites: Sequence[Site]) -> Iterator[TensorSpec]:
    """Parameters outside the sites, then the buffers that the model's state holds."""
    experts = expert_parameters(sites)
    strict = strict_float32_names(network)
    for name, parameter in network.named_parameters():
        if id(parameter) not in experts:
            stays = is_adapter(name) or (strict is not None and bool(strict.search(name)))
            yield TensorSpec(name, tuple(parameter.shape), parameter.requires_grad, stays)
    kept = set(network.state_dict())
    for name, buffer in network.named_buffers():
        if name in kept:
            yield TensorSpec(name, tuple(buffer.shape), False)


def experts_per_token(text: Any) -> int:
    """How many experts the router chooses for a token, under whichever name the family has for
    it. `text`: the configuration of the language model."""
    for key in EXPERTS_PER_TOKEN_KEYS:
        value = getattr(text, key, None)
        if isinstance(value, int):
            return value
    return 1
