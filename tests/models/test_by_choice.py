"""A block that computes every expert on every token has the chosen ones computed, to the same bits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from dougong.errors import ModelError
from dougong.models.build import build_on_meta
from dougong.models.by_choice import call_by_choice
from dougong.models.configs.load import load_config
from dougong.models.sites import find_sites
from tests.families import tiny_config
from tests.jobs import VOCAB, make_job, make_rig
from tests.reference import plain_step, reference_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM


class AllExperts(nn.Module):
    """As Llama-4's: rows of all experts, one expert's after the other's."""

    def __init__(self, num_experts: int = 4) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(num_experts, 8, 6))
        self.down = nn.Parameter(torch.randn(num_experts, 6, 8))

    def forward(self, rows: Tensor) -> Tensor:
        return torch.bmm(torch.bmm(rows.view(len(self.up), -1, 8), self.up).relu(), self.down).view(-1, 8)


class Router(nn.Linear):
    """Scores of the chosen experts, zeros for the others."""

    def __init__(self, top_k: int = 1) -> None:
        super().__init__(8, 4, bias=False)
        self.top_k = top_k

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        logits = super().forward(hidden)
        values, index = logits.topk(self.top_k, dim=-1)
        return torch.full_like(logits, -torch.inf).scatter(1, index, values).sigmoid(), logits


class Block(nn.Module):
    """As Llama-4's, under other names."""

    def __init__(self, router: nn.Module) -> None:
        super().__init__()
        self.experts = AllExperts()
        self.switch = router
        self.beside = nn.Linear(8, 8)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        hidden = hidden.reshape(-1, 8)
        scores, logits = self.switch(hidden)
        rows = hidden.repeat(4, 1) * scores.t().reshape(-1, 1)
        return self.beside(hidden) + self.experts(rows).view(4, -1, 8).sum(0), logits


class HalfABlock(Block):
    """Its experts see half of each token, which the forward that takes its place does not know of."""

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        out, logits = super().forward(hidden / 2)
        return out, logits * 2


@pytest.mark.parametrize("top_k", [1, 2])
def test_such_a_block_is_found_by_what_it_does(top_k: int) -> None:
    torch.manual_seed(0)
    block = Block(Router(top_k))
    hidden = torch.randn(2, 5, 8)
    expected, logits = block(hidden)
    model = nn.ModuleDict({"layer": copy.deepcopy(block)})
    names = list(model.state_dict())
    call_by_choice(model)
    (site,) = find_sites(model)
    assert site.num_experts == 4 and list(model.state_dict()) == names
    actual, same_logits = model["layer"](hidden)
    assert torch.equal(same_logits, logits)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def test_a_block_that_does_more_is_left_alone_and_refused() -> None:
    model = nn.ModuleDict({"layer": HalfABlock(Router())})
    call_by_choice(model)
    assert type(model["layer"]) is HalfABlock
    with pytest.raises(ModelError, match=r"layer\.experts .* is called with \['rows'\]; the cut needs"):
        find_sites(model)


def test_llama_4_trains_from_the_loss_of_the_unmodified_model() -> None:
    job = make_job("llama4_text")
    ours = reference_model(job)
    theirs: Any = AutoModelForCausalLM.from_config(tiny_config("llama4_text"))
    theirs.load_state_dict(ours.state_dict())
    losses = make_rig(job).run(3)
    step = plain_step(job, theirs)
    assert losses == pytest.approx([step(number) for number in (1, 2, 3)], rel=1e-6)


def test_llama_4_is_found_on_meta() -> None:
    model = build_on_meta(load_config(make_job("llama4_text").model, VOCAB))
    assert [site.num_experts for site in find_sites(model)] == [8, 8, 8]
