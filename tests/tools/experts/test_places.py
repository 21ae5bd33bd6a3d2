"""Whose a tensor is, by its name and shape."""

from __future__ import annotations

import pytest
from dougong.tools.experts.places import ExpertPlace, expert_counts, num_idle, place_of


@pytest.mark.parametrize(
    ("name", "shape", "place"),
    [
        (
            "model.layers.3.mlp.experts.7.up_proj.weight",
            (4, 8),
            ExpertPlace("model.layers.3.mlp.experts", "up_proj.weight", 7),
        ),
        (
            "model.layers.0.block_sparse_moe.experts.1.w2.weight",
            (4, 8),
            ExpertPlace("model.layers.0.block_sparse_moe.experts", "w2.weight", 1),
        ),
        (
            "model.layers.0.mlp.experts.gate_up_proj",
            (8, 4, 6),
            ExpertPlace("model.layers.0.mlp.experts", "gate_up_proj", None),
        ),
        (
            "model.layers.0.mlp.experts.gate_up_proj_bias",
            (8, 6),
            ExpertPlace("model.layers.0.mlp.experts", "gate_up_proj_bias", None),
        ),
        (
            "model.layers.0.block_sparse_moe.input_linear.weight",
            (8, 12, 4),
            ExpertPlace("model.layers.0.block_sparse_moe", "input_linear.weight", None),
        ),
        (
            "language_model.model.layers.1.feed_forward.experts.down_proj",
            (8, 4, 6),
            ExpertPlace("language_model.model.layers.1.feed_forward.experts", "down_proj", None),
        ),
    ],
)
def test_the_forms_of_the_families(name: str, shape: tuple[int, ...], place: ExpertPlace) -> None:
    assert place_of(name, shape, {8}) == place


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.1.mlp.shared_experts.up_proj.weight", (8, 4)),
        ("model.layers.1.mlp.shared_experts.0.up_proj.weight", (8, 4)),
        ("model.layers.1.mlp.gate.weight", (8, 64)),
        ("model.layers.1.mlp.experts.e_score_correction_bias", (8,)),
        ("model.layers.1.linear_attn.conv1d.weight", (8, 1, 4)),
        ("model.layers.1.mixer.conv.weight", (8, 3, 4)),
        ("model.embed_tokens.weight", (8, 64)),
    ],
)
def test_what_is_no_expert_s(name: str, shape: tuple[int, ...]) -> None:
    assert place_of(name, shape, {8}) is None


def test_a_number_of_experts_is_found_wherever_a_configuration_says_it() -> None:
    assert expert_counts({"num_local_experts": 8}) == {8}
    assert expert_counts({"text_config": {"n_routed_experts": 64}, "vision_config": {"depth": 3}}) == {64}
    assert expert_counts({"n_routed_experts": 8, "zero_expert_num": 4}) == {8}
    assert (num_idle({"n_routed_experts": 8, "zero_expert_num": 4}), num_idle({"zero_expert_num": None})) == (4, 0)
    assert expert_counts({"num_experts": True, "n_routed_experts": None}) == frozenset()
