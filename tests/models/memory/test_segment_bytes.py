"""What a micro-batch keeps, on meta."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dougong.job.schema import Model
from dougong.models.configs.load import load_config
from dougong.models.memory.segment_bytes import MicroBatchShape, activations_of
from tests.families import config_values

SMALL = MicroBatchShape(2, 64, torch.float32)


def model_of(family: str) -> Model:
    return Model(family=family, config=config_values(family))


def config_of(family: str) -> Any:
    return load_config(model_of(family), 256)


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3"])
@pytest.mark.parametrize("recomputes", [False, True])
def test_nothing_is_left_when_the_walk_has_come_back(family: str, recomputes: bool) -> None:
    found = activations_of(
        model_of(family), config_of(family), MicroBatchShape(2, 64, torch.float32, recomputes), "cpu", True
    )
    assert not found.missing
    left = sum(segment.kept + segment.given_back for segment in found.segments)
    assert abs(left) <= 16  # flags of layers that ran again
    assert all(segment.forward >= segment.kept > 0 for segment in found.segments)


def test_matrices_of_scores_are_there_where_attention_is_not_fused() -> None:
    model, config = model_of("qwen3_moe"), config_of("qwen3_moe")
    fused, plain = (activations_of(model, config, SMALL, "sima", one).segments for one in (True, False))
    heads, scores = int(config_of("qwen3_moe").num_attention_heads), 2 * 64 * 64 * 4
    assert plain[0].kept - fused[0].kept >= heads * scores


def test_a_model_that_cannot_run_without_values_says_so() -> None:
    found = activations_of(model_of("qwen3_moe"), None, SMALL, "cpu", True)
    assert not found.segments and found.missing


@pytest.mark.parametrize("tuning", [{"freeze": ["*", "!*layers.1.*"]}, {"lora": {"rank": 2}}], ids=["frozen", "lora"])
def test_frozen_models_keep_less_and_come_back_too(tuning: dict[str, Any]) -> None:
    model, config = model_of("qwen3_moe"), config_of("qwen3_moe")
    tuned = activations_of(model.model_copy(update=Model(path="x", **tuning).__dict__), config, SMALL, "cpu", True)
    assert not tuned.missing and abs(sum(s.kept + s.given_back for s in tuned.segments)) <= 16
    whole = activations_of(model, config, SMALL, "cpu", True)
    if "freeze" in tuning:
        assert sum(s.kept for s in tuned.segments) < sum(s.kept for s in whole.segments)


def test_the_mask_that_keeps_documents_apart_is_counted() -> None:
    packed = MicroBatchShape(2, 64, torch.float32, is_packed=True)
    model, config = model_of("qwen3_moe"), config_of("qwen3_moe")
    streams, documents = (activations_of(model, config, one, "cuda", True) for one in (SMALL, packed))
    assert not documents.missing
    assert documents.segments[0].kept - streams.segments[0].kept >= 2 * 64 * 64
