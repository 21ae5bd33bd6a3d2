"""Trained tensors that the loss does not reach are told once, by the pattern of their names."""

from __future__ import annotations

import pytest
from dougong.training.build import StepOptions
from dougong.training.unreached import UnreachedNotice, unreached_words
from tests.jobs import make_job, make_rig


@pytest.mark.parametrize(
    ("family", "told"),
    [("deepseek_v32", "the loss does not reach 15 of the trained tensors"), ("qwen3_moe", None)],
)
def test_what_a_model_does_not_train_is_told_once_after_the_first_step(family: str, told: str | None) -> None:
    job = make_job(family)
    texts: list[str] = []
    names = [*make_rig(job).replica.trainable, "model.layers.1.mlp.experts", "model.layers.2.mlp.experts"]
    rig = make_rig(job, options=StepOptions(hooks=(UnreachedNotice(names, texts.append),)))
    rig.run(3)
    assert [text.partition(":")[0] for text in texts] == ([] if told is None else [told])
    # The indexers of a sparse attention choose; what they choose by gets no gradient.
    assert all(": model.layers.*.self_attn.indexer.*; " in text for text in texts)


def test_a_pattern_speaks_of_no_tensor_that_is_trained() -> None:
    trained = ["model.layers.0.mlp.experts", "model.layers.1.mlp.experts", "model.norm.weight"]
    gates = [f"model.layers.{layer}.mlp.gate.weight" for layer in (0, 1)]
    assert ": model.layers.*.mlp.gate.*; " in unreached_words(gates, trained + gates)
    assert unreached_words(["model.norm.bias"], trained).startswith(
        "the loss does not reach 1 of the trained tensors: model.norm.bias; "
    )
