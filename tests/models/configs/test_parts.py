"""The parts of a configuration."""

from __future__ import annotations

from dougong.models.configs.parts import by_part, declared_keys, is_composite, parts_of, text_config, to_build
from transformers import CONFIG_MAPPING

SEES, READS = CONFIG_MAPPING["qwen3_vl_moe"], CONFIG_MAPPING["qwen3_moe"]


def test_of_most_families_the_text_part_is_all() -> None:
    config = READS()
    assert text_config(config) is config and not is_composite(config)
    assert by_part(READS, {"hidden_size": 64}) == {"hidden_size": 64}
    assert list(parts_of(config)) == []


def test_keys_go_to_the_part_that_declares_them() -> None:
    given = {"hidden_size": 64, "image_token_id": 5, "tie_word_embeddings": True, "vision_config": {"depth": 1}}
    values = by_part(SEES, given)
    assert values["text_config"] == {"hidden_size": 64, "tie_word_embeddings": True}
    assert values["image_token_id"] == 5 and values["vision_config"] == {"depth": 1}
    assert values["tie_word_embeddings"] is True, "both read it"


def test_a_new_model_is_built_of_the_text_part_where_it_can_be() -> None:
    sees = SEES()
    assert to_build(sees) is sees
    both = CONFIG_MAPPING["qwen3_5_moe"]()
    assert to_build(both) is text_config(both)
    assert {key for key, _ in parts_of(both)} == {"text_config", "vision_config"}
    assert "hidden_size" in declared_keys(text_config(both)) - declared_keys(both)
