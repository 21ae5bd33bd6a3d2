"""The names that releases of transformers before 5, and the servers that bundle them, read in a
config.json. Imports no torch.

They stand beside today's names with the same values, so a reader of either kind finds the same
model. A reader that knows both takes the same value twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OUTSIDE_SCALING = ("rope_theta", "partial_rotary_factor")
"""Entries of `rope_parameters` that older releases read one level up."""


def with_older_names(values: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """A configuration's entries with those that older releases look for. `renamed`: the names that
    the family still takes for an entry, to the entry's name (`attribute_map`)."""
    older: dict[str, Any] = {}
    for name, now in renamed.items():
        if now in values:
            older[name] = values[now]
    if "dtype" in values:
        older["torch_dtype"] = values["dtype"]
    older |= _rope(values.get("rope_parameters"))
    return older | dict(values)


def _rope(parameters: object) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` of a model whose layers all turn alike. One set for each kind
    of layer has no older form."""
    if not isinstance(parameters, Mapping) or "rope_theta" not in parameters:
        return {}
    outside = {key: parameters[key] for key in _OUTSIDE_SCALING if key in parameters}
    if parameters.get("rope_type", "default") == "default":
        return {**outside, "rope_scaling": None}
    inside = {key: value for key, value in parameters.items() if key not in outside}
    return {**outside, "rope_scaling": inside}
