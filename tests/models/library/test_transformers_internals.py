"""Each private name of transformers that we use is there, and means what we take it for."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
import transformers.core_model_loading
import transformers.modeling_utils
from dougong.job.schema import Model
from dougong.models.build import build_on_meta
from dougong.models.configs.load import load_config
from dougong.models.library.transformers_internals import (
    CONFIG_NAMES,
    MODEL_NAMES,
    initialise_module,
    names_not_saved,
    recorded_conversions,
    strict_float32_names,
    tied_names,
    want_initial_values,
    with_eager_experts,
)
from tests.checkpoint.saving import tiny_model
from tests.families import FAMILIES, config_values
from tests.jobs import VOCAB


@pytest.mark.parametrize("name", sorted(MODEL_NAMES))
def test_a_name_of_models_is_known_to_transformers(name: str) -> None:
    """As an attribute of every model, or in the source of the module that reads it."""
    assert MODEL_NAMES[name]
    sources = (transformers.modeling_utils, transformers.core_model_loading)
    assert any(name in inspect.getsource(source) for source in sources)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_names_are_attributes_of_every_familys_model(family: str) -> None:
    model = build_on_meta(load_config(Model(family=family, config=config_values(family)), VOCAB))
    held_by_the_class = set(MODEL_NAMES) - {"_weight_conversions", "_is_hf_initialized"}
    assert [name for name in sorted(held_by_the_class) if not hasattr(model, name)] == []
    assert [name for name in CONFIG_NAMES if not hasattr(model.config, name)] == []


def test_a_read_model_remembers_how_it_was_read(tmp_path: Path) -> None:
    made = tiny_model("qwen3_moe")
    assert recorded_conversions(made) is None
    made.save_pretrained(tmp_path)
    assert recorded_conversions(transformers.AutoModelForCausalLM.from_pretrained(tmp_path))


def test_eager_experts_are_a_copys() -> None:
    config = tiny_model("qwen3_moe").config
    before = config._experts_implementation
    assert with_eager_experts(config)._experts_implementation == "eager"
    assert config._experts_implementation == before


def test_what_stays_float32_is_found_by_its_module() -> None:
    model = tiny_model("qwen3_moe")
    assert strict_float32_names(model) is None
    model._keep_in_fp32_modules_strict = {"gate", "norm"}
    pattern = strict_float32_names(model)
    assert pattern is not None
    names = ["model.layers.0.mlp.gate.weight", "model.norm.weight", "model.layers.0.mlp.gate_up.weight"]
    assert [bool(pattern.search(name)) for name in names] == [True, True, False]


def test_what_is_tied_follows_the_configuration() -> None:
    assert tied_names(tiny_model("qwen3_moe", tie_word_embeddings=True))
    assert tied_names(tiny_model("qwen3_moe", tie_word_embeddings=False)) == {}


def test_what_a_family_does_not_write_is_known() -> None:
    model = tiny_model("qwen3_moe")
    model._keys_to_ignore_on_save = ["model.norm.weight"]
    assert names_not_saved(model) == {"model.norm.weight"}


def test_initial_values_are_given_a_second_time_where_they_are_wanted() -> None:
    model = tiny_model("qwen3_moe")
    gate = model.get_submodule("model.layers.0.mlp.gate")
    norm = model.get_submodule("model.norm")
    model.initialize_weights()
    for tensor in (gate.weight, norm.weight):
        tensor.data.fill_(7.0)
    model.initialize_weights()
    assert norm.weight.eq(7.0).all()
    want_initial_values(model)
    model.initialize_weights()
    assert norm.weight.eq(1.0).all() and gate.weight.abs().max() < 1.0
    norm.weight.data.fill_(7.0)
    with torch.no_grad():
        initialise_module(model, norm)
    assert norm.weight.eq(1.0).all()
