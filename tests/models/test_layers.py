"""Decoder layers are found in every family, and a model without a list of them is refused."""

from __future__ import annotations

import pytest
import torch
from dougong.errors import ModelError
from dougong.job.schema import Model
from dougong.models.build import build_on_meta
from dougong.models.configs.load import load_config
from dougong.models.cut import cut
from dougong.models.inventory import inspect_model
from dougong.models.layers import find_layers, find_units
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


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_trained_dense_tensor_of_a_family_is_in_one_unit_or_lasts(family: str, is_tied: bool) -> None:
    values = config_values(family, tie_word_embeddings=is_tied)
    model = build_on_meta(load_config(Model(family=family, config=values), VOCAB))
    sites = find_sites(model)
    units = find_units(model, sites)
    layers = find_layers(model, sites)
    assert units.lasting == (("model.embed_tokens.weight",) if is_tied else ())
    found = [name for group in units.groups() for name in group]
    inside = tuple(f"{site.name}." for site in sites)
    due = [name for name, p in model.named_parameters() if p.requires_grad and not name.startswith(inside)]
    assert sorted(found) == sorted(due)
    names = [unit.name for unit in units.units]
    assert [name for name in names if name in layers] == list(layers) and len(units.by_segment) == len(sites) + 1
    for site, (_, last), (first, _) in zip(sites, units.by_segment, units.by_segment[1:], strict=False):
        assert last == first and site.name.startswith(f"{names[last]}."), "a segment ends inside its site's layer"
    assert (units.by_segment[0][0], units.by_segment[-1][1]) == (0, len(names) - 1)


class Around(nn.Module):
    """Owns a tensor around its layers, and a module with tensors inside of another one with some."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.layers = nn.ModuleList([nn.Module(), nn.Module()])
        for layer in self.layers:
            layer.norm, layer.experts = nn.LayerNorm(2), nn.Module()
            layer.experts.w = nn.Parameter(torch.ones(1, 1))
        self.head = nn.Linear(2, 2)
        self.head.inner = nn.LayerNorm(2)


def test_what_lies_around_the_layers_lasts_and_what_lies_inside_of_another_is_a_part_of_it() -> None:
    model = Around()
    sites = [Site(f"layers.{n}.experts", model.layers[n].experts, 1, {"w": (1, 1)}, {"w": 1}) for n in range(2)]
    units = find_units(model, sites)
    assert units.lasting == ("scale",)
    assert [(unit.name, set(unit.tensors)) for unit in units.units] == [
        ("layers.0", {"layers.0.norm.weight", "layers.0.norm.bias"}),
        ("layers.1", {"layers.1.norm.weight", "layers.1.norm.bias"}),
        ("head", {"head.weight", "head.bias", "head.inner.weight", "head.inner.bias"}),
    ]
    assert units.by_segment == ((0, 0), (0, 1), (1, 2))


def test_units_need_layers_in_a_list() -> None:
    with pytest.raises(ModelError, match=r"^dense: shard: .* lies in no list.*set dense: copy"):
        find_units(*tree("model.first.mlp.experts"))
    config = config_values("qwen3_moe")
    assert inspect_model(Model(family="qwen3_moe", config=config), VOCAB, shard=True).units is not None
