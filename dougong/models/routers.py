"""Routers: how each site's experts are chosen, and what of it can be balanced.

A router is the module called `gate` or `router` beside a site's `experts`. What it does is found by
watching it (`router_probe`), not by its family's name.

Legend: T tokens, N experts that a router chooses from (those that compute nothing included).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from dougong.errors import ModelError
from dougong.job.parts.router import Router
from dougong.models.configs.parts import text_config
from dougong.models.router_probe import SCORES, Chooser, probe_router
from dougong.models.sites import Site
from dougong.parallel.segments.flight import note_on_flight

ROUTER_NAMES = ("gate", "router")


def find_choosers(model: nn.Module, sites: Sequence[Site], settings: Router) -> list[Chooser]:
    """One for each site; none when `settings` ask for nothing. The model may be on meta.

    Raises `ModelError` when the model cannot be balanced as `settings` say, with the reason and
    what can be done.
    """
    if settings == Router():
        return []
    choosers = _choosers(model, sites)
    family = str(getattr(getattr(model, "config", None), "model_type", "this model"))
    _refuse(family, sites[0], choosers, settings)
    return choosers


def _choosers(model: nn.Module, sites: Sequence[Site]) -> list[Chooser]:
    # Layers of one kind are alike, so one of each kind is watched.
    probed: dict[tuple[type, type], Chooser] = {}
    choosers = []
    for site in sites:
        block_name, router_name = _block_and_router(model, site)
        block = model.get_submodule(block_name)
        kinds = type(block), type(block.get_submodule(router_name))
        if kinds not in probed:
            probed[kinds] = probe_router(block, router_name, site, _hidden_size(model))
        choosers.append(_named(probed[kinds], block_name))
    return choosers


def watch(model: nn.Module, choosers: Sequence[Chooser]) -> None:
    """From now on every forward with gradients notes (site, logits [T, N]) on its flight."""
    for site, chooser in enumerate(choosers):
        if chooser.by_vector:
            model.get_submodule(chooser.router).register_forward_hook(_noting(site, chooser))


def _noting(site: int, chooser: Chooser) -> Callable[..., None]:
    def hook(module: nn.Module, arguments: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            logits_TN = output[chooser.logits_at].reshape(-1, chooser.num_experts)
            note_on_flight((site, logits_TN))

    return hook


def _block_and_router(model: nn.Module, site: Site) -> tuple[str, str]:
    """The names of the module that holds the site, in the model, and of its router, in that."""
    block = site.name.rpartition(".")[0]
    children = model.get_submodule(block).named_children()
    names = [name for name, _ in children if name in ROUTER_NAMES]
    if len(names) != 1:
        raise ModelError(
            f"router: {site.name} has {len(names)} modules called {' or '.join(ROUTER_NAMES)} "
            "beside it, and balancing needs one; "
            "this family's load cannot be balanced: leave `router` out"
        )
    return block, names[0]


def _hidden_size(model: nn.Module) -> int:
    return int(text_config(model.config).hidden_size)


def _named(chooser: Chooser, block: str) -> Chooser:
    """The same with the model's names in place of the block's."""
    bias = None if chooser.bias is None else f"{block}.{chooser.bias}"
    return dataclasses.replace(chooser, router=f"{block}.{chooser.router}", bias=bias)


def _refuse(family: str, site: Site, choosers: Sequence[Chooser], settings: Router) -> None:
    """Raise `ModelError` for what this model cannot do."""
    if settings.bias_rate is not None and not any(chooser.bias for chooser in choosers):
        raise ModelError(
            f"router.bias_rate: {family} has no bias that moves a router's choice without being "
            "trained; use router.global_loss (or sequence_loss) instead"
        )
    for loss in ("sequence_loss", "global_loss"):
        if getattr(settings, loss) is not None:
            _refuse_loss(f"router.{loss}", family, site, choosers)
    _refuse_computing_choices(family, site, choosers, settings)


def _refuse_loss(key: str, family: str, site: Site, choosers: Sequence[Chooser]) -> None:
    if site.has_identity_experts:
        raise ModelError(
            f"{key}: {family} has experts that compute nothing, for which this loss is not "
            "defined; use router.bias_rate with router.computing_choices instead"
        )
    if not any(chooser.by_vector for chooser in choosers):
        raise ModelError(
            f"{key}: no router of {family}, configured so, looks at a token's vector, so that no "
            "loss can move its choice; remove it"
        )
    for chooser in choosers:
        if chooser.by_vector and chooser.score is None:
            raise ModelError(
                f"{key}: how {chooser.router} ({family}) makes scores from logits is none of "
                f"{', '.join(SCORES)}; use router.bias_rate if the family has such a bias, "
                "or leave `router` out"
            )


def _refuse_computing_choices(
    family: str, site: Site, choosers: Sequence[Chooser], settings: Router
) -> None:
    target, most = settings.computing_choices, choosers[0].num_choices
    if settings.bias_rate is not None and site.has_identity_experts and target is None:
        raise ModelError(
            f"router.bias_rate: {family} has experts that compute nothing; say in "
            f"router.computing_choices how many of a token's {most} choices should on average "
            "reach one that computes"
        )
    if target is None:
        return
    if not site.has_identity_experts:
        raise ModelError(f"router.computing_choices: all experts of {family} compute; remove it")
    if target > most:
        raise ModelError(
            f"router.computing_choices: {target:g}, but a token has {most} choices; lower it"
        )
