"""What an agent's forked child looks at before any worker starts: the model's tensors and the data.

A wrong model or wrong data is told here, once, and costs no worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dougong.errors import DataError
from dougong.launcher.job import Job
from dougong.parallel.plan import Inventory, TensorSpec


@dataclass(frozen=True)
class Inspection:
    """What was found. `data`: `Data.describe()`; its `digest` names the tokens and how they are cut."""

    inventory: Inventory
    data: Mapping[str, object]


def inspect(job: Job) -> Inspection:
    """What the planner needs to know of the model, and what the data is. Text is tokenised here if it was not before.

    Raises ModelError or DataError.
    """
    from dougong.models.build import load_config
    from dougong.training.data import open_data

    inventory = inspect_only(job)
    data = open_data(job, load_config(job.model, vocabulary_of(job)).vocab_size)
    return Inspection(inventory, data.describe())


def inspect_only(job: Job) -> Inventory:
    """The model's tensors without a look at more of the data than its tokenizer. Raises ModelError or DataError."""
    from dougong.models.inspect import inspect_model

    return inspect_model(job.model, vocabulary_of(job), job.router)


def vocabulary_of(job: Job) -> int:
    """The tokenizer's number of ids, or the model's where the data is tokens already. DataError when nobody says."""
    from dougong.training.data import vocabulary

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
        tensors=tuple(TensorSpec(t["name"], tuple(t["shape"]), t["trainable"]) for t in raw["tensors"]),
        sites=tuple(raw["sites"]),
        num_experts=raw["num_experts"],
        expert_shapes=tuple((name, tuple(shape)) for name, shape in raw["expert_shapes"]),
        experts_per_token=raw["experts_per_token"],
    )
