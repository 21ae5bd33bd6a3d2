"""Decoder layers are found in every family, and a model without a list of them is refused."""

from __future__ import annotations

import pytest
from dougong.errors import ModelError
from dougong.job.schema import Model
from dougong.models.build import build_on_meta, load_config
from dougong.models.cut import cut
from dougong.models.inventory import inspect_model
from dougong.models.layers import find_layers
from dougong.models.sites import Site, find_sites
from tests.families import FAMILIES, config_values
from tests.jobs import VOCAB
from torch import nn


@pytest.mark.parametrize("family", [*FAMILIES, "zaya"])
def test_all_layers_of_a_family_are_found_those_without_experts_too(family: str) -> None:
    config = load_config(Model(family=family, config=config_values(family)), VOCAB)
    model = build_on_meta(config)
    layers = find_layers(model, find_sites(model))
    assert list(layers) == [f"model.layers.{n}" for n in range(len(layers))]
    # longcat_flash counts attention layers, of which it has two in each of its layers.
    assert len(layers) == (2 if family == "longcat_flash" else config.num_hidden_layers)


class Experts(nn.Module):
    """Not called here."""


def tree(path: str) -> tuple[nn.Module, list[Site]]:
    """A model with a site at a path, whose numbers are places in lists."""
    model: nn.Module = nn.Module()
    here, parts = model, path.split(".")
    for part, following in zip(parts, [*parts[1:], ""], strict=True):
        inner = nn.ModuleList() if following.isdigit() else nn.Module()
        if isinstance(here, nn.ModuleList):
            here.extend([nn.Module() for _ in range(int(part))])
            here.append(inner)
        else:
            here.add_module(part, inner)
        here = inner
    return model, [Site(path, here, 2, {"w": (1, 1)}, {"w": 2})]


def test_lists_inside_of_a_layer_are_its_parts() -> None:
    model, sites = tree("model.layers.2.blocks.1.experts")
    assert list(find_layers(model, sites)) == ["model.layers.0", "model.layers.1", "model.layers.2"]


def test_a_model_whose_layers_are_in_no_list_is_refused_with_what_to_do() -> None:
    model, sites = tree("model.first.mlp.experts")
    with pytest.raises(
        ModelError, match=r"^recompute: layers: .*model\.first\.mlp\.experts lies in no list.*set recompute: none"
    ):
        find_layers(model, sites)
    with pytest.raises(ModelError, match="recompute: layers"):
        cut(model, sites, recompute=True)
    assert cut(*tree("model.first.mlp.experts")).layers == ()


def test_a_plan_asks_for_layers_only_where_the_job_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ModelError("recompute: layers: asked")

    monkeypatch.setattr("dougong.models.inventory.find_layers", refuse)
    model = Model(family="qwen3_moe", config=config_values("qwen3_moe"))
    inspect_model(model, VOCAB)
    with pytest.raises(ModelError, match="asked"):
        inspect_model(model, VOCAB, recompute=True)
