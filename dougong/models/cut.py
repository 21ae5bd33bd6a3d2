"""Cutting a model at its experts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dougong.errors import ModelError
from dougong.models.sites import Site
from dougong.models.ties import break_ties_by_index
from dougong.ops.topk import TiesByIndex
from dougong.parallel.segments.cut import Cut
from dougong.parallel.segments.flight import pause_at_experts
from dougong.parallel.segments.tape import leaf_node


def cut(model: nn.Module, sites: list[Site]) -> Cut:
    """Replace every site's forward by a pause, and describe the cut to the executor. The model is
    changed in place.

    What chooses the experts does so by the lower index among equals, see `break_ties_by_index`.
    """
    ties = break_ties_by_index(model, sites)
    for number, site in enumerate(sites):
        site.module.forward = _pausing(number, site, ties)
    names = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    shared = frozenset(
        leaf_node(p) for p in model.parameters() if names[id(p)] > 1 and p.requires_grad
    )
    identity = any(s.has_identity_experts for s in sites)
    return Cut(tuple(s.name for s in sites), sites[0].num_experts, identity, shared)


def _pausing(number: int, site: Site, ties: TiesByIndex) -> Callable[..., Tensor]:
    def forward(hidden: Tensor, index: Tensor, weights: Tensor, *rest: Any, **named: Any) -> Tensor:
        _check_call(site, hidden, index, weights, (*rest, *named.values()))
        choices = index.shape[-1]
        flat = hidden.reshape(-1, hidden.shape[-1])
        with ties.suspended():
            answer = pause_at_experts(
                number, flat, index.reshape(-1, choices), weights.reshape(-1, choices)
            )
        return answer.view(hidden.shape)

    return forward


def _check_call(site: Site, hidden: Any, index: Any, weights: Any, rest: tuple[Any, ...]) -> None:
    """The cut replaces `experts(hidden [.., H], index [.., K], weights [.., K])` and nothing
    else."""
    tensors = all(isinstance(t, Tensor) for t in (hidden, index, weights))
    if (
        not tensors
        or any(r is not None for r in rest)
        or index.is_floating_point()
        or index.shape != weights.shape
        or index.shape[:-1].numel() != hidden.shape[:-1].numel()
    ):
        shapes = [
            tuple(t.shape) if isinstance(t, Tensor) else t for t in (hidden, index, weights, *rest)
        ]
        raise ModelError(
            f"{site.name} ({type(site.module).__name__}) is called with {shapes}; the cut needs "
            "hidden [tokens, H], top_k_index [tokens, K] and top_k_weights [tokens, K]; this family is not supported"
        )
