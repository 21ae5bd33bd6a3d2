"""The keys of `model.lora`. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictFloat

from dougong.job.section import Positive, Section, Text, logical

ATTENTION_AND_EXPERTS = ("*attn*", "*attention*", "*.experts.*")


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): of each matrix W that `targets` name
    W + alpha / rank B A is computed with, and A and B alone are trained."""

    rank: Positive = logical(16, "rows of A and columns of B, r")
    alpha: Annotated[StrictFloat, Field(gt=0)] = logical(
        32.0, "B A is multiplied by alpha / rank before it is added"
    )
    targets: tuple[Text, ...] = logical(
        ATTENTION_AND_EXPERTS,
        "patterns of the names of tensors that are adapted (`*` stands for anything, `!PATTERN` "
        "takes some out again, the last that matches decides): weights of linear layers, and "
        "experts' matrices, those of all layers alike",
    )
    path: Text | None = logical(
        None,
        "a folder of peft to go on from: adapter_config.json and adapter_model.safetensors, of "
        "the same rank, alpha and targets; null: A at random and B zero, the model as it was",
    )
