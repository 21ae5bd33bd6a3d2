"""The cut itself: what the model's calls become, and which calls are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dougong.errors import ModelError
from dougong.job.schema import Model
from dougong.models.build import build_on_meta, materialise
from dougong.models.configs.load import load_config
from dougong.models.cut import cut
from dougong.models.sites import Site, find_sites
from dougong.parallel.segments.cut import Cut
from dougong.parallel.segments.flight import Flight, Forward
from tests.families import config_values
from tests.jobs import VOCAB
from torch import Tensor, nn


def cut_model(family: str = "qwen3_moe", **changes: Any) -> tuple[nn.Module, list[Site], Cut]:
    model = build_on_meta(load_config(Model(family=family, config=config_values(family, **changes)), VOCAB))
    materialise(model, torch.device("cpu"), 7)
    sites = find_sites(model)
    return model, sites, cut(model, sites)


HIDDEN, INDEX, WEIGHTS = torch.zeros(6, 64), torch.zeros(6, 2, dtype=torch.int64), torch.zeros(6, 2)


@pytest.mark.parametrize(
    "arguments",
    [
        (HIDDEN, WEIGHTS, INDEX),  # in another order
        (HIDDEN, INDEX, WEIGHTS, torch.zeros(6)),
        (HIDDEN, INDEX, WEIGHTS, 3),
        (HIDDEN, INDEX, WEIGHTS[:, :1]),
        (HIDDEN[:5], INDEX, WEIGHTS),
        (HIDDEN, INDEX, None),
    ],
)
def test_a_call_with_other_arguments_is_refused(arguments: tuple[Any, ...]) -> None:
    _, sites, _ = cut_model()
    with pytest.raises(ModelError, match=r"layers.0.mlp.experts \(Qwen3MoeExperts\) is called with .*the cut needs"):
        sites[0].module(*arguments)


@pytest.mark.parametrize("rest", [{}, {"padding_mask": None}])
def test_a_call_pauses_with_tokens_flat_and_the_answer_returns_in_the_callers_shape(rest: dict[str, Any]) -> None:
    _, sites, _ = cut_model()
    hidden, weights = torch.randn(2, 3, 64), torch.rand(2, 3, 2)
    index = torch.randint(8, (2, 3, 2))
    flight = Flight(Forward(lambda: sites[2].module(hidden, index, weights, **rest)), True)
    flight.start()
    call = flight.calls[-1]
    assert call.site == 2 and torch.equal(call.hidden, hidden.view(6, 64))
    assert torch.equal(call.index, index.view(6, 2)) and torch.equal(call.weights, weights.view(6, 2))
    answer = torch.randn(6, 64)
    flight.resume(answer)
    assert flight.loss is not None and torch.equal(flight.loss, answer.view(2, 3, 64)) and flight.loss.requires_grad


@pytest.mark.parametrize(("family", "identity"), [("qwen3_moe", False), ("longcat_flash", True)])
def test_the_description_says_what_the_executor_must_know(family: str, identity: bool) -> None:
    _, sites, described = cut_model(family)
    assert described.names == tuple(s.name for s in sites)
    assert (described.num_experts, described.has_identity) == (8, identity)


def test_nothing_but_the_experts_call_and_the_rule_for_ties_around_it_is_replaced() -> None:
    model, sites, _ = cut_model()
    replaced = {n for n, m in model.named_modules() if "forward" in vars(m)}
    assert replaced == {n for s in sites for n in (s.name, s.name.removesuffix(".experts"))}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_without_gradients_the_answer_is_no_leaf_of_a_graph() -> None:
    _, sites, _ = cut_model()
    flight = Flight(Forward(lambda: sites[0].module(HIDDEN, INDEX, WEIGHTS)), False)
    flight.start()
    flight.resume(torch.ones(6, 64))
    result: Tensor | None = flight.loss
    assert result is not None and not result.requires_grad
