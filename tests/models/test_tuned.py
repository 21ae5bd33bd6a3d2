"""What of a model a job trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dougong.errors import ModelError
from dougong.job.parts.router import Router
from dougong.job.schema import Model
from dougong.models.configs.load import load_config
from dougong.models.inventory import inspect_model
from dougong.models.sites import find_sites
from dougong.models.tuned import trainable_dense, tuned_expert_op, tuned_on_meta
from dougong.ops.adapter_names import is_adapter
from dougong.ops.experts.adapted import AdaptedExperts, PartlyFrozen
from dougong.ops.experts.reference import ByBlock
from tests.families import FAMILIES, config_values
from tests.tiny import tiny_values


def tuned(family: str = "qwen3_moe", config: dict[str, Any] | None = None, **keys: Any) -> Any:
    model = Model(family=family, config=config or config_values(family), **keys)
    return tuned_on_meta(model, load_config(model, 256))


def trained_names(network: Any) -> list[str]:
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize("family", FAMILIES)
def test_with_adapters_they_alone_are_trained(family: str) -> None:
    network = tuned(family, lora={"rank": 2})
    names = trained_names(network)
    assert names and all(map(is_adapter, names))
    assert all(network.get_parameter(name).dtype == torch.float32 for name in names)
    assert any(".experts." in name for name in names)


def test_patterns_freeze_dense_tensors_and_experts() -> None:
    network = tuned(freeze=["*", "!*norm*", "!*.layers.1.mlp.experts.*"])
    names = trained_names(network)
    assert all("norm" in name or ".layers.1.mlp.experts." in name for name in names)
    sites = find_sites(network)
    assert [sorted(site.trained) for site in sites] == [[], ["down_proj", "gate_up_proj"], []]
    assert sites[1].trained_of(3) == [sites[1].tensor_name(p, 3) for p in sites[1].shapes]
    assert trainable_dense(network) == {name for name in names if "experts" not in name}


def test_a_tied_tensor_is_frozen_by_either_name() -> None:
    values = config_values("qwen3_moe", tie_word_embeddings=True)
    for pattern in ("lm_head*", "*embed_tokens*"):
        network = tuned(config=values, freeze=[pattern])
        assert "model.embed_tokens.weight" not in trained_names(network)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"freeze": ["*.atention.*"]}, r"model\.freeze: '\*\.atention\.\*' matches no tensor of the model, such as "),
        ({"freeze": ["*"]}, "nothing is left to train"),
        ({"lora": {}, "freeze": ["*", "!*q_proj*"]}, "q_proj.weight has an adapter .* and is trained as well"),
        ({"lora": {}, "freeze": []}, "has an adapter .* and is trained as well"),
    ],
)
def test_what_cannot_be_meant_is_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        tuned(**keys)


def test_towers_have_no_adapters() -> None:
    """No text reaches them."""
    names = trained_names(tuned("qwen3_vl_moe", tiny_values("qwen3_vl_moe"), lora={"rank": 2}))
    assert names and not [name for name in names if "visual" in name]
    with pytest.raises(ModelError, match=r"'\*visual\*' names tensors that can have no adapter; .*towers"):
        tuned("qwen3_vl_moe", tiny_values("qwen3_vl_moe"), lora={"targets": ["*visual*"]})


FROZEN_ROUTER: dict[str, Any] = {"lora": {"rank": 2}}


@pytest.mark.parametrize("keys", [FROZEN_ROUTER, {"freeze": ["*gate*"]}], ids=["lora", "freeze"])
def test_routers_that_are_frozen_are_balanced_by_losses_and_not_by_biases(keys: dict[str, Any]) -> None:
    """A loss still reaches what comes before them; a bias would be moved that is to stay."""
    model = Model(family="deepseek_v3", config=config_values("deepseek_v3"), **keys)
    assert inspect_model(model, 256, Router(global_loss=0.1))
    with pytest.raises(ModelError, match=r"router\.bias_rate: moves .*correction_bias, which model\.\w+ freezes"):
        inspect_model(model, 256, Router(bias_rate=0.1))
    given = ["*gate*"] if "freeze" in keys else ["*"]
    free = model.model_copy(update={"freeze": (*given, "!*e_score_correction_bias")})
    assert inspect_model(free, 256, Router(bias_rate=0.1))


def test_experts_compute_by_what_is_trained_of_them() -> None:
    device = torch.device("cpu")
    for keys, kind in (({}, ByBlock), ({"freeze": ["*.experts.*"]}, PartlyFrozen), ({"lora": {}}, AdaptedExperts)):
        model = Model(family="qwen3_moe", config=config_values("qwen3_moe"), **keys)
        sites = find_sites(tuned_on_meta(model, load_config(model, 256)))
        assert isinstance(tuned_expert_op(model, sites, device), kind)
