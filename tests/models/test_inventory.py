"""What a model consists of, found on the meta device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from dougong.job.schema import Model
from dougong.models.inventory import experts_per_token, inspect_model
from tests.checkpoint.saving import names_of, tiny_model
from tests.families import FAMILIES, config_values
from tests.jobs import VOCAB


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_of_the_state_is_listed_once(family: str) -> None:
    """Held against what a checkpoint stores; tied names and rows of idle experts apart."""
    found = inspect_model(Model(family=family, config=config_values(family)), VOCAB)
    listed = [tensor.name for tensor in found.tensors]
    assert len(listed) == len(set(listed))
    names = names_of(tiny_model(family))
    dense = {name: shape for name, shape in names.tensors() if not name.endswith("]")}
    assert {tensor.name: tensor.shape for tensor in found.tensors} == dense
    assert found.sites == names.sites
    assert found.num_experts == 8


def test_buffers_are_not_trained() -> None:
    found = inspect_model(Model(family="deepseek_v4", config=config_values("deepseek_v4")), VOCAB)
    untrained = {tensor.name for tensor in found.tensors if not tensor.trainable}
    assert any(name.endswith("e_score_correction_bias") for name in untrained)
    assert not any(name.endswith("norm.weight") for name in untrained)


@pytest.mark.parametrize(
    ("config", "expected"),
    [({"num_experts_per_tok": 3}, 3), ({"moe_topk": 2}, 2), ({}, 1), ({"num_experts_per_tok": None, "moe_topk": 4}, 4)],
)
def test_a_familys_word_for_choices_is_found(config: dict[str, Any], expected: int) -> None:
    assert experts_per_token(SimpleNamespace(**config)) == expected
