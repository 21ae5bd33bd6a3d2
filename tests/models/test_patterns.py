"""Many tensors' names in few words."""

from __future__ import annotations

import pytest
from dougong.models.patterns import name_patterns

LAYER = ("self_attn.q_proj.weight", "mlp.experts.0.up_proj.weight", "mlp.experts.1.up_proj.weight")
MODEL = ["model.embed_tokens.weight", "lm_head.weight"] + [f"model.layers.{i}.{name}" for i in (0, 1) for name in LAYER]
INDEXER = [f"model.layers.{i}.self_attn.indexer.{name}" for i in (0, 1) for name in ("wq.weight", "wk.weight")]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["mtp.0.proj.weight", "mtp.norm.weight"], "mtp.*"),
        (INDEXER, "model.layers.*.self_attn.indexer.*"),
        (INDEXER[:2], "model.layers.0.self_attn.indexer.*"),
        # Layers behind the last one: never `model.layers.*`, which would speak of all.
        ([f"model.layers.2.{name}" for name in LAYER], "model.layers.2.*"),
        ([f"model.layers.{i}.{name}" for i in (2, 3) for name in LAYER], "model.layers.2.*, model.layers.3.*"),
        ([f"model.layers.{i}.mlp.experts.0.scale" for i in (0, 1)], "model.layers.*.mlp.experts.*.scale"),
        (["other.weight"], "other.*"),
        (["lm_head.bias"], "lm_head.bias"),
        ([f"extra{i}.w" for i in range(8)], "extra0.*, extra1.*, extra2.*, extra3.*, extra4.*, extra5.* and 2 more"),
        ([], ""),
    ],
)  # fmt: skip
def test_names_are_told_by_what_they_alone_have(names: list[str], text: str) -> None:
    assert name_patterns(names, MODEL) == text
