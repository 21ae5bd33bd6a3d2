"""The job of a run that has begun: what it had read from outside is no longer read again. Imports
no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dougong.job.schema import Job, Model


class SettledModel(Model):
    """The model section with its configuration as the run has stored it, and the transformers class
    that reads it. No job file holds it."""

    settled: dict[str, Any]
    settled_class: str


def settle(
    job: Job,
    config: Mapping[str, Any],
    config_class: str,
    tokenizer: str | None,
    attention: str = "",
) -> Job:
    """The job with the run's own configuration, and its own copy of the tokenizer (None: the
    tokenizer is where the job says). `attention`: the form that was found for it; empty: none was
    looked for."""
    model = SettledModel.model_construct(
        path=job.model.path,
        family=job.model.family,
        config=job.model.config,
        attention=attention or job.model.attention,
        freeze=job.model.freeze,
        lora=job.model.lora,
        settled=dict(config),
        settled_class=config_class,
    )
    changes: dict[str, Any] = {"model": model}
    if tokenizer is not None:
        changes["data"] = job.data.model_copy(update={"tokenizer": tokenizer})
    return job.model_copy(update=changes)


def is_settled(model: Model) -> bool:
    """Whether nothing of this model's folder is read any more but, before the first checkpoint, its
    weights."""
    return isinstance(model, SettledModel)
