"""Finding where a model is cut, and refusing what cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dougong.errors import ModelError
from dougong.job.schema import Model
from dougong.models.build import build_on_meta
from dougong.models.configs.load import load_config
from dougong.models.inventory import inspect_model
from dougong.models.sites import find_sites, one_expert
from tests.families import FAMILIES, config_values
from tests.jobs import VOCAB
from torch import Tensor, nn


class Fused(nn.Module):
    """The usual shape."""

    def __init__(self, num_experts: int = 4, **others: tuple[int, ...]) -> None:
        super().__init__()
        shapes = {"gate_up_proj": (num_experts, 6, 5), "down_proj": (num_experts, 5, 3), **others}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device="meta")))

    def forward(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        raise AssertionError("never called")


class TwoArguments(Fused):
    """An experts module that does its own routing."""

    def forward(self, hidden: Tensor, router_logits: Tensor) -> Tensor:  # type: ignore[override]
        raise AssertionError("never called")


class ListOfExperts(nn.ModuleList):
    """Experts as separate modules."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 5, device="meta") for _ in range(4))


def model_with(*modules: nn.Module) -> nn.Module:
    model = nn.Module()
    model.layers = nn.ModuleList()
    for module in modules:
        layer = nn.Module()
        layer.experts = module
        model.layers.append(layer)
    return model


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([], "has no module named `experts`, so there is nothing to distribute"),
        ([ListOfExperts()], "layers.0.experts .ListOfExperts. keeps its experts as separate modules"),
        ([Fused(bias=(4,))], "layers.0.experts .Fused. has parameters that are not expert-major.*'bias': .4,"),
        ([nn.Identity()], "parameters that are not expert-major"),
        ([TwoArguments()], r"is called with \['hidden', 'router_logits'\]; the cut needs"),
        ([Fused(shift=(7, 5))], "parameters disagree on the number of experts"),
        ([Fused(4), Fused(8)], r"layers have different numbers of experts \[4, 8\]"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_the_reason(modules: list[nn.Module], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        find_sites(model_with(*modules))


def test_a_family_without_experts_is_refused_by_name() -> None:
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    with pytest.raises(ModelError, match="llama: has no module named `experts`.*such as qwen3_moe"):
        inspect_model(Model(family="llama", config=sizes), VOCAB)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_site_in_every_sparse_layer(family: str) -> None:
    model: Any = build_on_meta(load_config(Model(family=family, config=config_values(family)), VOCAB))
    sites = find_sites(model)
    layers = {"longcat_flash": 2, "qwen3_next": 4}.get(family, 3)
    dense = 1 if family in ("deepseek_v3", "deepseek_v32", "glm4_moe") else 0
    assert [s.num_experts for s in sites] == [8] * (layers - dense)
    assert [s.name.split(".")[2] for s in sites] == [str(i) for i in range(dense, layers)]
    for site in sites:
        assert {n: (r, *site.shapes[n]) for n, r in site.num_rows.items()} == {
            n: tuple(p.shape) for n, p in site.module.named_parameters()
        }


def test_rows_of_experts_that_compute_nothing_are_tensors_of_their_own() -> None:
    model = build_on_meta(load_config(Model(family="longcat_flash", config=config_values("longcat_flash")), VOCAB))
    site = find_sites(model)[0]
    assert site.has_identity_experts and dict(site.num_rows) == {"gate_up_proj": 12, "down_proj": 8}
    assert site.tensors_of(7) == [(p, f"{site.name}.{p}[7]") for p in ("gate_up_proj", "down_proj")]
    assert site.tensors_of(11) == [("gate_up_proj", f"{site.name}.gate_up_proj[11]")]


@pytest.mark.parametrize("family", FAMILIES)
def test_one_expert_leaves_the_site_as_it_was(family: str) -> None:
    model = build_on_meta(load_config(Model(family=family, config=config_values(family)), VOCAB))
    site = find_sites(model)[0]
    before = {n: id(p) for n, p in site.module.named_parameters()}
    numbers = {n: v for n, v in vars(site.module).items() if n.startswith("num_")}
    copied = one_expert(site, {n: torch.ones(s) for n, s in site.shapes.items()})
    assert {p.shape[0] for _, p in copied._parameters.items() if p is not None} == {1}
    assert {n: id(p) for n, p in site.module.named_parameters()} == before
    assert {n: v for n, v in vars(site.module).items() if n.startswith("num_")} == numbers
