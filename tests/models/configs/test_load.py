"""A job's configuration: transformers' own, with the job's changes and no key that nobody reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from dougong.errors import ModelError
from dougong.job.schema import Model
from dougong.models.configs.load import load_config
from dougong.models.configs.parts import text_config
from tests.families import FAMILIES, WITH_TOWERS, config_values, tiny_config
from tests.jobs import VOCAB


def tiny(family: str, **changes: Any) -> Model:
    return Model(family=family, config=config_values(family, **changes))


@pytest.mark.parametrize(
    ("text", "message"), [("{", "config.json: is not JSON"), ('{"model_type": "nonesuch"}', "nonesuch")]
)
def test_a_folder_whose_configuration_cannot_be_read_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        load_config(Model(path=str(tmp_path)), None)


def test_a_folder_takes_changes_but_no_unknown_key(tmp_path: Path) -> None:
    tiny_config("qwen3_moe").save_pretrained(tmp_path)
    assert load_config(Model(path=str(tmp_path), config={"num_hidden_layers": 1}), None).num_hidden_layers == 1
    with pytest.raises(ModelError, match="qwen3_moe does not know num_expert; did you mean num_experts"):
        load_config(Model(path=str(tmp_path), config={"num_expert": 4}), None)


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_that_families_read_without_declaring_them_are_accepted(family: str) -> None:
    config = load_config(tiny(family, rope_theta=5e3), VOCAB)
    assert config.head_dim == config_values(family)["head_dim"]


def test_vocabulary_is_the_tokenizers_where_the_job_names_none() -> None:
    plain = Model(family="qwen3_moe", config={"hidden_size": 64})
    assert load_config(plain, 300).vocab_size == 300
    assert load_config(Model(family="qwen3_moe", config={"vocab_size": 999}), 300).vocab_size == 999
    assert load_config(plain, None).vocab_size == tiny_config("qwen3_moe").__class__().vocab_size


def test_special_tokens_outside_the_vocabulary_are_dropped_unless_the_job_names_them() -> None:
    assert load_config(Model(family="mixtral"), 2).eos_token_id is None  # 2 in a vocabulary of 0 and 1
    assert load_config(Model(family="mixtral"), 3).eos_token_id == 2
    assert load_config(Model(family="mixtral", config={"eos_token_id": 7}), 2).eos_token_id == 7
    nested = Model(family="qwen3_vl_moe", config={"text_config": {"eos_token_id": 7}})
    assert text_config(load_config(nested, 2)).eos_token_id == 7


@pytest.mark.parametrize("family", ["qwen3_5_moe", "qwen3_vl_moe"])
def test_sizes_of_the_text_part_may_be_written_flat_or_nested(family: str) -> None:
    """Keys that went to the whole, whose sizes nobody reads, would leave a model of the family's own size."""
    flat = load_config(Model(family=family, config={"hidden_size": 64, "num_hidden_layers": 2}), VOCAB)
    sizes = {"text_config": {"hidden_size": 64, "num_hidden_layers": 2}}
    nested = load_config(Model(family=family, config=sizes), VOCAB)
    assert flat.to_dict() == nested.to_dict()
    text = text_config(flat)
    assert (text.hidden_size, text.num_hidden_layers, text.vocab_size) == (64, 2, VOCAB)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hiden_size": 64}, "qwen3_vl_moe_text does not know hiden_size; did you mean hidden_size?"),
        ({"text_config": {"hiden_size": 64}}, "qwen3_vl_moe_text does not know hiden_size"),
        ({"vision_config": {"hiden_size": 64}}, "qwen3_vl_moe_vision does not know hiden_size"),
        ({"depth": 3}, "qwen3_vl_moe_text does not know depth; write it in vision_config"),
        ({"patch_size": 4, "hidden_size": 64}, "does not know patch_size; write it in vision_config"),
        (
            {"hidden_size": 64, "text_config": {"hidden_size": 32}},
            "hidden_size is given as 64, and as 32 in text_config",
        ),
    ],
)
def test_wrong_keys_of_a_family_with_parts_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        load_config(Model(family="qwen3_vl_moe", config=config), VOCAB)


def test_a_folder_with_parts_takes_changes_of_its_text_part(tmp_path: Path) -> None:
    tiny_config("qwen3_vl_moe").save_pretrained(tmp_path)
    config = load_config(Model(path=str(tmp_path), config={"num_hidden_layers": 1}), None)
    assert text_config(config).num_hidden_layers == 1
    assert config.vision_config.depth == 2, "and its other parts are as they were"


@pytest.mark.parametrize("family", WITH_TOWERS)
def test_a_family_without_a_language_model_of_its_own_is_built_of_all_parts(family: str) -> None:
    config = load_config(tiny(family), VOCAB)
    assert config.model_type == family
    assert text_config(config).hidden_size == 64
    assert load_config(Model(family="qwen3_5_moe"), VOCAB).model_type == "qwen3_5_moe_text"
