"""The recipe: how a job computes, apart from what it computes and where. Imports no torch.

Together with the job file's logical keys it fixes every bit; it is part of the run's identity and
of every checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from dougong.job.optimizers.declaration import OptimizerDeclaration
from dougong.job.optimizers.registry import declaration_of
from dougong.job.schema import Job
from dougong.parallel import pieces
from dougong.parallel.plan import Inventory
from dougong.planner.needs.tiles import product_rows

ARITHMETIC = 2
"""Raised whenever a release of dougong computes other bits from the same job.

2: a gradient of exactly zero is a gradient; the sequence-wise balance loss counts the choice of the
scores alone; the global balance loss normalises softmax scores too; a weight that is used in
several places of a model gets one sum a micro-batch.
"""
_ROUTER_GRADIENTS_AT_EXPERTS = 3
"""Where devices are unlike and outputs are combined at attention: the gradients of the rows'
weights are products that the experts' devices take. Among like devices that is no other product,
and no other recipe."""


@dataclass(frozen=True)
class Recipe:
    """How a job computes. `products`: what one product of an expert takes. `lanes`, `microbatches`:
    the leaves of every sum. `attention`, `experts`: by which forms they are computed, fused ones
    with all that can change their bits; empty where the devices have not been asked."""

    arithmetic: int
    determinism: str
    lanes: int
    microbatches: int
    sums: str
    products: str
    norm: str
    optimizer: str
    attention: str = ""
    experts: str = ""

    @property
    def digest(self) -> str:
        """A short name for it, 16 hexadecimal digits."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Its fields, for a checkpoint."""
        return dataclasses.asdict(self)


def make_recipe(job: Job, inventory: Inventory) -> Recipe:
    """The recipe of a job: a pure function of the job file and the model."""
    rows = product_rows(job, inventory.num_experts, inventory.experts_per_token)
    ordered = job.is_layout_free
    optimizer = declaration_of(job.optimizer)
    return Recipe(
        arithmetic=_arithmetic_of(job),
        determinism=job.determinism,
        lanes=job.batch.lanes,
        microbatches=job.batch.microbatches,
        sums="micro-batches in order, lanes in a binary tree" if ordered else "native library",
        products=f"tiles of {rows} rows" if isinstance(rows, int) else f"one for each {rows}",
        norm=_norm_of(inventory, optimizer),
        optimizer=f"{optimizer.name}, {optimizer.arithmetic_of(job.optimizer)}",
        attention=inventory.attention[0] if len(inventory.attention) == 1 else "",
    )


def _norm_of(inventory: Inventory, optimizer: OptimizerDeclaration) -> str:
    """Of what the gradients' norm is added up: of each tensor in one, or of its pieces, where it
    is one that has several."""
    for tensor in inventory.tensors:
        if len(pieces.pieces_of(tensor, optimizer.is_elementwise)) > 1:
            return f"pieces of {pieces.PIECE_NUMEL} elements, in the order of names"
    return "whole tensors, in the order of names"


def _arithmetic_of(job: Job) -> int:
    is_mixed = len({island.accelerator for island in job.islands}) > 1
    moved = is_mixed and job.combine == "at_attention"
    return _ROUTER_GRADIENTS_AT_EXPERTS if moved else ARITHMETIC


def form_words(recipe: Recipe) -> str:
    """By what attention and experts are computed, in a line for people."""
    return f"attention is computed by {recipe.attention}, experts by {recipe.experts}"
