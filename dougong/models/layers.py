"""A model's decoder layers, found without knowing its family.

transformers keeps layers in a `torch.nn.ModuleList`. That which holds a site and lies in no other
list is the list of layers; all its members are layers, those without experts too.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dougong.errors import ModelError
from dougong.models.sites import Site


def find_layers(model: nn.Module, sites: Sequence[Site]) -> dict[str, nn.Module]:
    """The layers by name, in the model's order. The model may be on meta.

    Raises ModelError where a site lies in no list of layers.
    """
    layers: dict[str, nn.Module] = {}
    for site in sites:
        path = _list_around(model, site.name)
        if path is None:
            family = str(getattr(getattr(model, "config", None), "model_type", "this model"))
            raise ModelError(
                f"recompute: layers: {family}: {site.name} lies in no list of layers "
                "(torch.nn.ModuleList), so there is nothing that could run again by itself; set "
                "recompute: none"
            )
        for number, layer in model.get_submodule(path).named_children():
            layers[f"{path}.{number}"] = layer
    return layers


def _list_around(model: nn.Module, name: str) -> str | None:
    """The outermost list on the way to a module: lists further in are parts of a layer."""
    parts = name.split(".")
    for length in range(1, len(parts)):
        path = ".".join(parts[:length])
        if isinstance(model.get_submodule(path), nn.ModuleList):
            return path
    return None
