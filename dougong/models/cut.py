"""Cutting a model at its experts.

Legend: T tokens, K choices per token, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from dougong.errors import ModelError
from dougong.models.layers import find_layers
from dougong.models.sites import Site
from dougong.models.ties import break_ties_by_index
from dougong.ops.topk import TiesByIndex
from dougong.parallel.segments.cut import Cut
from dougong.parallel.segments.flight import pause_at_experts
from dougong.parallel.segments.recompute import Layers


def cut(
    model: nn.Module,
    sites: list[Site],
    recompute: bool = False,
    buffers: Sequence[Tensor] = (),
) -> Cut:
    """Replace every site's forward by a pause, and describe the cut to the executor.

    The model is changed in place. What chooses the experts does so by the lower index among equals,
    see `break_ties_by_index`. `recompute`: its layers keep nothing of a flight's forward, and run
    again in its backward; its tensors must have their memory by then, or get it in `buffers`.
    Raises ModelError where no layers are found.
    """
    ties = break_ties_by_index(model, sites)
    for number, site in enumerate(sites):
        site.module.forward = _pausing(number, site, ties)
    identity = any(site.has_identity_experts for site in sites)
    names = tuple(site.name for site in sites)
    layers = find_layers(model, sites) if recompute else {}
    if layers:
        Layers(model, layers, buffers)
    return Cut(names, sites[0].num_experts, identity, tuple(layers))


def _pausing(number: int, site: Site, ties: TiesByIndex) -> Callable[..., Tensor]:
    def forward(hidden: Tensor, index: Tensor, weights: Tensor, *rest: Any, **named: Any) -> Tensor:
        _check_call(site, (hidden, index, weights), (*rest, *named.values()))
        hidden_TH = hidden.reshape(-1, hidden.shape[-1])
        index_TK = index.reshape(-1, index.shape[-1])
        weights_TK = weights.reshape(-1, index.shape[-1])
        # The block that calls the experts is inside the rule of ties. While this forward waits,
        # other micro-batches' forwards run in the same thread, and each enters and leaves the rule
        # by itself: so it is left here and entered again.
        with ties.suspended():
            outputs_TH = pause_at_experts(number, hidden_TH, index_TK, weights_TK)
        return outputs_TH.view(hidden.shape)

    return forward


def _check_call(site: Site, given: tuple[Any, Any, Any], rest: tuple[Any, ...]) -> None:
    """The cut replaces `experts(hidden [.., H], index [.., K], weights [.., K])` and nothing
    else."""
    if _fits(*given) and all(argument is None for argument in rest):
        return
    shapes = [_shape_or_value(argument) for argument in (*given, *rest)]
    raise ModelError(
        f"{site.name} ({type(site.module).__name__}) is called with {shapes}; the cut needs "
        "hidden [tokens, H], top_k_index [tokens, K] and top_k_weights [tokens, K]; "
        "this family is not supported"
    )


def _fits(hidden: Any, index: Any, weights: Any) -> bool:
    if not all(isinstance(tensor, Tensor) for tensor in (hidden, index, weights)):
        return False
    if index.is_floating_point() or index.shape != weights.shape:
        return False
    return bool(index.shape[:-1].numel() == hidden.shape[:-1].numel())


def _shape_or_value(argument: Any) -> Any:
    return tuple(argument.shape) if isinstance(argument, Tensor) else argument
