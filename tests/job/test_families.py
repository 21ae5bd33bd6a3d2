"""The list of families is what the installed transformers knows; of another version it says nothing."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from pathlib import Path

import pytest
from dougong.job.families import Families, Family, given_twice, read_families, to_json
from dougong.models.configs.parts import declared_keys
from schema.families import config_of, family_of, find_families
from tests.packing_probe import keeps_documents_apart

INSTALLED = importlib.metadata.version("transformers")
FAMILIES = read_families()
TRAINED = (
    "qwen3_moe", "qwen3_next", "deepseek_v3", "deepseek_v32", "deepseek_v4", "glm4_moe", "minimax", "minimax_m2",
    "gpt_oss", "olmoe", "mixtral", "longcat_flash", "qwen3_vl_moe", "qwen3_5_moe", "glm4v_moe",
)  # fmt: skip


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    own = Family({"a": ("int",), "b": ()}, frozenset({"w"}), 10, None)
    other = Family({"a": ("int",), "b": ("float", "null")}, frozenset({"w", "v"}), None, 20)
    families = Families(
        "9.9", {"x": own, "y": other}, {"z": "no"}, frozenset({"d"}), frozenset({"o"}), frozenset({"x"})
    )
    file = tmp_path / "families.json"
    file.write_text(json.dumps(to_json(families)))
    assert read_families(file) == families
    assert json.loads(file.read_text())["common"] == {"a": "int"}
    assert families.names == ["d", "o", "x", "y", "z"]
    assert not families.is_of_installed
    assert dataclasses.replace(families, version=INSTALLED).is_of_installed


def test_the_families_that_the_readme_names_have_experts() -> None:
    assert set(TRAINED) <= set(FAMILIES.with_experts)
    assert {"llama", "qwen3", "gpt2", "bamba", "qwen3_5_text"} <= FAMILIES.dense
    assert "gemma4_text" in FAMILIES.with_experts, "its own defaults have none, its keys ask for them"


def test_words_of_the_sources_are_no_keys() -> None:
    for name in TRAINED:
        family = FAMILIES.with_experts[name]
        unknown = ("layers", "attention_mask", "default", "experts", "norm", "model", "hidden_states")
        assert not any(map(family.knows, unknown)), name
        assert family.knows("tie_word_embeddings") and family.knows("initializer_range")
    qwen = FAMILIES.with_experts["qwen3_moe"]
    assert all(
        map(qwen.knows, ("head_dim", "rope_theta", "output_router_logits", "router_aux_loss_coef", "num_local_experts"))
    )
    assert qwen.names == {"num_experts": "num_local_experts"}


def test_a_key_that_is_given_twice_is_found_by_its_meaning() -> None:
    names = {"a": "b"}
    assert list(given_twice({"a": 1, "c": 2, "b": 3}, names)) == [("a", "b")]
    assert not list(given_twice({"a": 1, "b": 1}, names))


def test_the_list_is_that_of_the_installed_transformers() -> None:
    """Every name, and each key of the families that are trained here. `make families` writes the list anew."""
    from transformers import CONFIG_MAPPING

    assert FAMILIES.is_of_installed is (FAMILIES.version == INSTALLED)
    if FAMILIES.is_of_installed:
        assert FAMILIES.names == sorted(CONFIG_MAPPING)
        differ = [
            name
            for name in TRAINED
            if family_of(CONFIG_MAPPING[name](), config_of(name)) != FAMILIES.with_experts[name]
        ]
        assert not differ
    else:
        assert set(CONFIG_MAPPING) & set(FAMILIES.names)


@pytest.mark.slow
def test_the_whole_list_is_that_of_the_installed_transformers() -> None:
    assert not FAMILIES.is_of_installed or find_families() == dataclasses.replace(FAMILIES, packed=frozenset())


PACKED = {
    "qwen3_moe": True, "deepseek_v3": True, "mixtral": True, "qwen3_next": False, "minimax": False, "gpt_oss": False,
}  # fmt: skip


@pytest.mark.parametrize(("family", "is_packed"), PACKED.items())
def test_which_keep_documents_apart_is_what_they_do(family: str, is_packed: bool) -> None:
    assert (family in FAMILIES.packed) == keeps_documents_apart(family) == is_packed


def test_declared_keys_are_the_lists() -> None:
    config = config_of("mixtral")
    assert not FAMILIES.is_of_installed or declared_keys(config) == set(FAMILIES.with_experts["mixtral"].keys)
