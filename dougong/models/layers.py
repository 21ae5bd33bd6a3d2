"""A model's decoder layers, and the units of which its dense tensors come and go, found without
knowing its family.

transformers keeps layers in a `torch.nn.ModuleList`. That which holds a site and lies in no other
list is the list of layers; all its members are layers, those without experts too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from dougong.errors import ModelError
from dougong.models.sites import Site
from dougong.parallel.units import DenseUnits, Unit


def find_layers(
    model: nn.Module,
    sites: Sequence[Site],
    wanted: str = "recompute: layers",
    instead: str = "recompute: none",
) -> dict[str, nn.Module]:
    """The layers by name, in the model's order. The model may be on meta. `wanted`: for what;
    `instead`: what goes without.

    Raises ModelError where a site lies in no list of layers.
    """
    layers: dict[str, nn.Module] = {}
    for site in sites:
        path = _list_around(model, site.name)
        if path is None:
            family = str(getattr(getattr(model, "config", None), "model_type", "this model"))
            raise ModelError(
                f"{wanted}: {family}: {site.name} lies in no list of layers "
                f"(torch.nn.ModuleList), so that nothing can be taken by itself; set {instead}"
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


def find_units(model: nn.Module, sites: Sequence[Site]) -> DenseUnits:
    """Decoder layers, and the other modules that own trained tensors outside of the experts. The
    model may be on meta.

    Raises ModelError where a site lies in no list of layers.
    """
    layers = find_layers(model, sites, "dense: shard", "dense: copy")
    users = _users(model, sites, tuple(layers))
    lasting, tensors = [], dict[str, list[str]]()
    for name, modules in users.items():
        (module, *others) = modules
        if others or any(layer.startswith(_inside(module)) for layer in layers):
            lasting.append(name)
        else:
            tensors.setdefault(module, []).append(name)
    for module in sorted(tensors, key=len, reverse=True):  # one inside of another is a part of it
        around = next((m for m in tensors if m != module and module.startswith(_inside(m))), None)
        if around is not None:
            tensors[around] += tensors.pop(module)
    order = [name for name, _ in model.named_modules() if name in tensors]
    units = tuple(Unit(name, tuple(tensors[name])) for name in order)
    return DenseUnits(units, tuple(lasting), _by_segment(order, tuple(layers), sites))


def _users(
    model: nn.Module, sites: Sequence[Site], layers: Sequence[str]
) -> Mapping[str, list[str]]:
    """By a trained tensor's name, the units that use it: its layer, else the module that owns
    it."""
    inside = tuple(_inside(site.name) for site in sites)
    names: dict[int, str] = {}
    users: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad or name.startswith(inside):
            continue
        known = names.setdefault(id(parameter), name)
        around = [layer for layer in layers if name.startswith(_inside(layer))]
        module = around[0] if around else name.rpartition(".")[0]
        if module not in users.setdefault(known, []):
            users[known].append(module)
    return users


def _by_segment(
    units: Sequence[str], layers: Sequence[str], sites: Sequence[Site]
) -> tuple[tuple[int, int], ...]:
    """A segment ends in the middle of the layer of its site, and the next one begins there."""
    places = {name: place for place, name in enumerate(units)}
    borders = []
    for site in sites:
        (layer,) = (layer for layer in layers if site.name.startswith(_inside(layer)))
        if layer not in places:
            raise ModelError(
                f"dense: shard: {layer} holds {site.name} and no trained tensor of its own, but "
                "another layer's; set dense: copy"
            )
        borders.append(places[layer])
    return tuple(zip([0, *borders], [*borders, len(units) - 1], strict=True))


def _inside(module: str) -> str:
    """How the names of what lies in a module begin."""
    return f"{module}." if module else ""
