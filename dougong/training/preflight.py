"""What an agent's forked child looks at before any worker starts: the model's tensors and the data.

A wrong model or wrong data is told here, once, and costs no worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dougong.errors import DataError
from dougong.fingerprint.record import JobShapes
from dougong.job.schema import Job
from dougong.parallel.plan import Inventory, TensorSpec
from dougong.planner.recipe import product_rows

FEW_ROWS = (1, 7, 16, 33)
"""Heights of small blocks, at which math libraries change their kernels."""
MOST_ROWS = 256
MOST_MATRICES = 16


@dataclass(frozen=True)
class Inspection:
    """What was found. `data`: `Data.describe()`; its `digest` names the tokens and how they are
    cut.

    `shapes`: of the job's own kernel calls; None where there is no model to speak of.
    """

    inventory: Inventory
    data: Mapping[str, object]
    shapes: JobShapes | None = None


def inspect(job: Job) -> Inspection:
    """What the planner needs to know of the model, and what the data is. Text is tokenised here if
    it was not before.

    Raises ModelError or DataError.
    """
    from dougong.data.windows import open_data
    from dougong.models.build import load_config

    inventory = inspect_only(job)
    data = open_data(job, load_config(job.model, vocabulary_of(job)).vocab_size)
    return Inspection(inventory, data.describe(), shapes_of(job, inventory))


def inspect_only(job: Job) -> Inventory:
    """The model's tensors without a look at more of the data than its tokenizer. Raises ModelError
    or DataError."""
    from dougong.models.inventory import inspect_model

    return inspect_model(job.model, vocabulary_of(job), job.router)


def vocabulary_of(job: Job) -> int:
    """The tokenizer's number of ids, or the model's where the data is tokens already. DataError
    when nobody says."""
    from dougong.data.windows import vocabulary

    ids = vocabulary(job.data)
    if ids is not None:
        return ids
    if "vocab_size" in job.model.config:
        return int(job.model.config["vocab_size"])
    if job.model.path is not None:
        return 0  # the folder's own config.json says
    raise DataError(
        "data: token files carry no tokenizer, so nobody says how many ids there are; set model.config.vocab_size"
    )


def inventory_from_json(raw: dict[str, Any]) -> Inventory:
    """What `dataclasses.asdict` made of an Inventory, after a way over JSON."""
    return Inventory(
        family=raw["family"],
        tensors=tuple(
            TensorSpec(t["name"], tuple(t["shape"]), t["trainable"]) for t in raw["tensors"]
        ),
        sites=tuple(raw["sites"]),
        num_experts=raw["num_experts"],
        expert_shapes=tuple((name, tuple(shape)) for name, shape in raw["expert_shapes"]),
        experts_per_token=raw["experts_per_token"],
    )


def shapes_of(job: Job, inventory: Inventory) -> JobShapes:
    """The sizes of the job's own kernel calls, for the fingerprint of the devices that will run
    them."""
    from dougong.models.build import load_config

    config = load_config(job.model, vocabulary_of(job))
    hidden, heads = int(config.hidden_size), int(getattr(config, "num_attention_heads", 1) or 1)
    weights = [shape for _, shape in inventory.expert_shapes] + [
        tensor.shape for tensor in inventory.tensors
    ]
    inner = [s[0] if s[1] == hidden else s[1] for _, s in inventory.expert_shapes if len(s) == 2]
    tokens = job.batch.microbatch_size * job.data.sequence_length
    per_expert = max(1, tokens * inventory.experts_per_token // inventory.num_experts)
    tile = product_rows(job, inventory.num_experts, inventory.experts_per_token)
    blocks = {min(rows, MOST_ROWS) for rows in (tokens, per_expert, tile) if isinstance(rows, int)}
    return JobShapes(
        matrices=tuple(dict.fromkeys((s[0], s[1]) for s in weights if len(s) == 2))[:MOST_MATRICES],
        rows=tuple(sorted({*FEW_ROWS, *blocks})),
        heads=heads,
        head_size=int(getattr(config, "head_dim", None) or hidden // heads),
        sequence=job.data.sequence_length,
        hidden=hidden,
        inner=min(inner, default=hidden),
        experts=inventory.num_experts,
        vocabulary=int(config.vocab_size),
    )
