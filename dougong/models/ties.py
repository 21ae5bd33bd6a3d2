"""Where a model chooses by `topk`, ties are broken by the lower index, whatever the device.

torch leaves open which of two equal scores wins, and devices differ. A token that is sent to
another expert is another computation, not another rounding.
"""

from __future__ import annotations

import functools

from torch import nn

from dougong.models.sites import Site
from dougong.ops.topk import TiesByIndex


def break_ties_by_index(model: nn.Module, sites: list[Site]) -> TiesByIndex:
    """Let every router, and every indexer of a sparse attention, choose by `topk_by_index`.

    Changes the model in place.

    Routers are called by the module that holds the `experts`, so the rule holds from its entry to
    its end; indexers are the modules of that name. A model that is paused on the way must be so
    inside the result's `suspended()`. Outside these modules `torch.topk` is torch's own:
    transformers' auxiliary losses, sampling.
    """
    ties = TiesByIndex()
    holders = {s.name.rpartition(".")[0] for s in sites}
    for name, module in model.named_modules():
        if name in holders or name.rpartition(".")[2] == "indexer":
            _hold(module, ties)
    return ties


def _hold(module: nn.Module, ties: TiesByIndex) -> None:
    forward = module.forward

    @functools.wraps(forward)
    def by_index(*args: object, **named: object) -> object:
        with ties:
            return forward(*args, **named)

    module.forward = by_index
