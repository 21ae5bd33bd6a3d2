"""Which large tensors files have in another form than memory has: no piece of one can be written
alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dougong.checkpoint.huggingface import names_of
from dougong.job.schema import Model
from dougong.models.sites import find_sites
from dougong.models.tuned import tuned_on_meta
from dougong.parallel import pieces
from dougong.parallel.plan import Inventory


def with_stored_forms(inventory: Inventory, job_model: Model, config: Any) -> Inventory:
    """The same, with `is_stored_alike` of its tensors. The families' own converters are asked,
    where there is a tensor that is large enough to be cut. Raises `ModelError` for a family that
    cannot be stored."""
    if all(tensor.num_parameters <= pieces.PIECE_NUMEL for tensor in inventory.tensors):
        return inventory
    model = tuned_on_meta(job_model, config)
    names = names_of(model, find_sites(model), job_model)
    tensors = []
    for tensor in inventory.tensors:
        tensors.append(replace(tensor, is_stored_alike=names.is_stored_alike(tensor.name)))
    return replace(inventory, tensors=tuple(tensors))
