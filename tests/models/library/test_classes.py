"""Which class builds a model, with towers and without."""

from __future__ import annotations

import pytest
from dougong.models.library.classes import auto_class, causal_class, has_towers, model_class
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText


@pytest.mark.parametrize(
    ("family", "built"),
    [
        ("qwen3_moe", "Qwen3MoeForCausalLM"),
        ("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration"),
        ("qwen3_5_moe", "Qwen3_5MoeForCausalLM"),
    ],
)
def test_a_family_is_built_by_its_language_model_where_it_has_one(family: str, built: str) -> None:
    config = CONFIG_MAPPING[family]()
    kind = model_class(config)
    assert kind is not None and kind.__name__ == built
    assert has_towers(config) is built.endswith("Generation")
    assert auto_class(config) is (AutoModelForImageTextToText if has_towers(config) else AutoModelForCausalLM)


def test_a_folder_is_built_by_the_class_that_wrote_it() -> None:
    config = CONFIG_MAPPING["qwen3_5_moe"](architectures=["Qwen3_5MoeForConditionalGeneration"])
    kind = model_class(config)
    assert kind is not None and kind.__name__ == "Qwen3_5MoeForConditionalGeneration"
    assert causal_class(config) is not None, "and there is another one"


def test_a_family_that_learns_from_no_text_has_no_class() -> None:
    assert model_class(CONFIG_MAPPING["vit"]()) is None


def test_architectures_that_are_no_list_name_no_class() -> None:
    config = CONFIG_MAPPING["qwen3_5_moe"]()
    config.architectures = 1
    assert not has_towers(config)
