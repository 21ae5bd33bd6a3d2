"""Scores and biases are recognised by what a router does with made-up tokens."""

from __future__ import annotations

import pytest
import torch
from dougong.errors import ModelError
from dougong.models.router_probe import SCORES, probe_router
from dougong.models.sites import find_sites
from torch import Tensor, nn

NUM_EXPERTS, HIDDEN = 6, 5


class Experts(nn.Module):
    """A module that is a site and computes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.up_proj = nn.Parameter(torch.empty(NUM_EXPERTS, 4, HIDDEN))

    def forward(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        return hidden


class Gate(nn.Module):
    """Chooses by `score` of its logits plus a bias, and weighs by `score`, with the bias or without."""

    def __init__(self, score: str, num_choices: int, leaks: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(NUM_EXPERTS, HIDDEN))
        self.register_buffer("balance", torch.zeros(NUM_EXPERTS))
        self.score, self.num_choices, self.leaks = SCORES[score], num_choices, leaks

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = hidden.reshape(-1, HIDDEN) @ self.weight.t()
        scores = self.score(logits)
        biased = scores + self.balance
        index = biased.topk(self.num_choices, -1).indices
        weights = (biased if self.leaks else scores).gather(-1, index)
        if self.num_choices > 1 and not self.leaks:
            weights = 2.5 * weights / weights.sum(-1, keepdim=True)
        return logits, weights, index


class Block(nn.Module):
    """What holds router and experts."""

    def __init__(self, score: str = "sigmoid", num_choices: int = 2, leaks: bool = False) -> None:
        super().__init__()
        self.gate = Gate(score, num_choices, leaks)
        self.experts = Experts()

    def forward(self, hidden: Tensor) -> Tensor:
        _, weights, index = self.gate(hidden)
        result: Tensor = self.experts(hidden, index, weights)
        return result


class Model(nn.Module):
    """A model of one block."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.mlp = block


@pytest.mark.parametrize("num_choices", [1, 2])
@pytest.mark.parametrize("score", sorted(SCORES))
def test_score_and_bias_are_recognised(score: str, num_choices: int) -> None:
    model = Model(Block(score, num_choices)).to("meta")
    found = probe_router(model.mlp, "gate", find_sites(model)[0], HIDDEN)
    assert (found.score, found.bias, found.by_vector) == (score, "gate.balance", True)
    assert (found.num_experts, found.num_choices, found.logits_at) == (NUM_EXPERTS, num_choices, 0)


def test_what_is_added_to_the_weights_too_is_no_balance_bias() -> None:
    model = Model(Block(leaks=True))
    assert probe_router(model.mlp, "gate", find_sites(model)[0], HIDDEN).bias is None


def test_the_block_itself_is_left_as_it_was() -> None:
    model = Model(Block())
    with torch.no_grad():
        model.mlp.gate.weight.fill_(3.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = dict(model.named_modules())
    probe_router(model.mlp, "gate", find_sites(model)[0], HIDDEN)
    assert dict(model.named_modules()) == modules
    assert before["mlp.gate.weight"].equal(model.mlp.gate.weight)
    assert before["mlp.gate.balance"].equal(model.mlp.gate.balance)


def test_a_block_that_cannot_be_called_says_why() -> None:
    model = Model(Block())
    with pytest.raises(ModelError, match="Block of mlp.experts cannot be watched at work"):
        probe_router(model.mlp, "gate", find_sites(model)[0], HIDDEN + 1)
