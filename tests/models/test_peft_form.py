"""The names and shapes of peft."""

from __future__ import annotations

import json

import pytest
import torch
from dougong.job.schema import Model
from dougong.models.configs.load import load_config
from dougong.models.peft_form import NO_ADAPTERS, adapters_of, scaling_in
from dougong.models.sites import find_sites
from dougong.models.tuned import tuned_on_meta
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from tests.families import config_values
from transformers import AutoModelForCausalLM

FAMILIES = ["qwen3_moe", "gpt_oss", "deepseek_v3", "longcat_flash", "qwen3_next"]


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_and_shapes_are_those_of_peft_itself(family: str) -> None:
    given = Model(family=family, config=config_values(family), lora={"rank": 3, "alpha": 6.0})
    config = load_config(given, 256)
    network = tuned_on_meta(given, config)
    sites = find_sites(network)
    adapters = adapters_of(network, sites, given)
    shapes = {}
    for one in adapters.tensors:
        name, _, parameter = one.adapter.rpartition(".")
        shape = tuple(network.get_parameter(one.adapter).shape)
        shapes[one.key] = one.shape(shape if one.rows is None else shape[1:])
        assert name and parameter
    values = json.loads(adapters.files["adapter_config.json"])
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config)
        theirs = get_peft_model(plain, LoraConfig(**{k: v for k, v in values.items() if k != "peft_type"}))
    assert shapes == {key: tuple(t.shape) for key, t in get_peft_model_state_dict(theirs).items()}
    assert scaling_in(values) == 2.0


def test_an_experts_halves_come_back_from_the_joined_tensor() -> None:
    given = Model(family="qwen3_moe", config=config_values("qwen3_moe"), lora={"rank": 3})
    network = tuned_on_meta(given, load_config(given, 256))
    for one in adapters_of(network, find_sites(network), given).tensors:
        shape = tuple(network.get_parameter(one.adapter).shape)
        parts = [torch.randn(shape if one.rows is None else shape[1:]) for _ in one.live_names]
        again = one.parts(one.joined(parts))
        assert len(again) == len(parts) and all(map(torch.equal, again, parts))


def test_a_model_without_adapters_has_none() -> None:
    given = Model(family="qwen3_moe", config=config_values("qwen3_moe"))
    network = tuned_on_meta(given, load_config(given, 256))
    assert adapters_of(network, find_sites(network), given) is NO_ADAPTERS
