"""What a job's model consists of, found without giving it memory; the planner needs no more."""

from __future__ import annotations

from typing import Any

from dougong.job.schema import EXPERTS_PER_TOKEN_KEYS, Model, Router
from dougong.models.build import build_on_meta, load_config
from dougong.models.routers import find_choosers
from dougong.models.sites import find_sites
from dougong.parallel.plan import Inventory, TensorSpec


def inspect_model(model: Model, vocab_size: int | None, router: Router | None = None) -> Inventory:
    """Build the model on the meta device and list its tensors. Raises `ModelError` when it cannot
    be cut, or not balanced as `router` asks.

    `vocab_size` is the tokenizer's; it is used when the job file does not set the model's own.
    """
    config = load_config(model, vocab_size)
    network = build_on_meta(config)
    sites = find_sites(network)
    find_choosers(network, sites, router or Router())
    inside = {id(p) for s in sites for p in s.module.parameters(recurse=False)}
    kept = set(network.state_dict())
    dense = [
        TensorSpec(n, tuple(p.shape), p.requires_grad)
        for n, p in network.named_parameters()
        if id(p) not in inside
    ]
    buffers = [
        TensorSpec(n, tuple(b.shape), False) for n, b in network.named_buffers() if n in kept
    ]
    return Inventory(
        family=str(config.model_type),
        tensors=(*dense, *buffers),
        sites=tuple(s.name for s in sites),
        num_experts=sites[0].num_experts,
        expert_shapes=tuple(sorted(sites[0].shapes.items())),
        experts_per_token=experts_per_token(config),
    )


def experts_per_token(config: Any) -> int:
    """How many experts the router chooses for a token, under whichever name the family has for
    it."""
    named = (getattr(config, key, None) for key in EXPERTS_PER_TOKEN_KEYS)
    return next((value for value in named if isinstance(value, int)), 1)
