"""What is found of a router by watching it, and what cannot be balanced."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dougong.errors import ModelError
from dougong.job.parts.router import Router
from dougong.job.schema import Model
from dougong.models.build import build_on_meta
from dougong.models.configs.load import load_config
from dougong.models.inventory import inspect_model
from dougong.models.router_probe import Chooser
from dougong.models.routers import find_choosers, watch
from dougong.models.sites import find_sites
from dougong.parallel.segments.flight import Flight, Forward
from tests.families import FAMILIES, config_values
from tests.jobs import VOCAB
from torch import Tensor, nn

BIAS, LOSS = Router(bias_rate=0.001), Router(global_loss=0.001)
BIASED = ("deepseek_v3", "deepseek_v32", "deepseek_v4", "glm4_moe", "minimax_m2", "longcat_flash")
BY_TOKEN_ID = ["hash_moe"] * 3
"""`mlp_layer_types` of a deepseek_v4 that chooses by token id alone; our tiny one does so in its first layer."""


def choosers(family: str, settings: Router, **changes: Any) -> list[Chooser]:
    config = config_values(family, **changes)
    model = build_on_meta(load_config(Model(family=family, config=config), VOCAB))
    return find_choosers(model, find_sites(model), settings)


def settings_for(family: str) -> Router:
    if family == "longcat_flash":
        return Router(bias_rate=0.001, computing_choices=1.5)
    return BIAS if family in BIASED else LOSS


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_router_is_understood(family: str) -> None:
    """Expected values were read in the families' sources."""
    found = choosers(family, settings_for(family))
    scores = dict.fromkeys(("deepseek_v3", "deepseek_v32", "glm4_moe", "minimax_m2"), "sigmoid")
    scores |= {"deepseek_v4": "sqrtsoftplus"}
    by_vector = [c for c in found if c.by_vector]
    assert {c.score for c in by_vector} == {scores.get(family, "softmax")}
    assert {c.num_choices for c in found} == {2} and {c.logits_at for c in found} == {0}
    assert {c.num_experts for c in found} == {12 if family == "longcat_flash" else 8}
    assert all((c.bias is not None) == (family in BIASED) for c in by_vector)
    assert [c.by_vector for c in found] == ([False, True, True] if family == "deepseek_v4" else [True] * len(found))


def test_a_bias_is_named_as_the_model_names_it() -> None:
    assert [c.bias for c in choosers("deepseek_v3", BIAS)] == [
        f"model.layers.{i}.mlp.gate.e_score_correction_bias" for i in (1, 2)
    ]
    assert choosers("minimax_m2", BIAS)[1].bias == "model.layers.1.mlp.e_score_correction_bias"


def test_nothing_is_looked_at_when_nothing_is_asked() -> None:
    assert choosers("qwen3_moe", Router()) == []


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("qwen3_moe", BIAS, "bias_rate: qwen3_moe has no bias that moves.*use router.global_loss"),
        ("mixtral", BIAS, "bias_rate: mixtral has no bias"),
        ("gpt_oss", BIAS, "bias_rate: gpt_oss has no bias"),
        ("longcat_flash", BIAS, "say in router.computing_choices how many of a token's 2 choices"),
        ("longcat_flash", Router(bias_rate=0.1, computing_choices=2.5), "2.5, but a token has 2 choices"),
        ("longcat_flash", LOSS, "global_loss: longcat_flash has experts that compute nothing.*use router.bias_rate"),
        ("deepseek_v3", Router(bias_rate=0.1, computing_choices=1.0), "all experts of deepseek_v3 compute; remove it"),
    ],
)
def test_what_a_family_cannot_do_is_refused_before_workers_start(family: str, settings: Router, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        inspect_model(Model(family=family, config=config_values(family)), VOCAB, settings)


def test_a_loss_that_could_move_no_choice_is_refused() -> None:
    with pytest.raises(ModelError, match="global_loss: no router of deepseek_v4, configured so, looks at"):
        choosers("deepseek_v4", LOSS, mlp_layer_types=BY_TOKEN_ID)


class Experts(nn.Module):
    """The usual shape: 4 experts, 5 wide."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(4, 6, 5))
        self.down_proj = nn.Parameter(torch.empty(4, 5, 3))

    def forward(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        return hidden


class Gate(nn.Module):
    """A router with an untrained vector of four."""

    def __init__(self, choose: Callable[[Gate, Tensor], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, 5))
        self.bias = nn.Buffer(torch.zeros(4))
        self.choose = choose

    def forward(self, hidden: Tensor) -> Any:
        return self.choose(self, hidden)


def hand_made(choose: Callable[[Gate, Tensor], Any], name: str = "gate") -> nn.Module:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, name, Gate(choose))
            self.experts = Experts()

        def forward(self, hidden: Tensor) -> Tensor:
            _, weights, index = getattr(self, name)(hidden)
            return self.experts(hidden, index, weights)

    model = nn.Module()
    model.block = Block()
    config = SimpleNamespace(model_type="made_up", hidden_size=5)
    config.get_text_config = lambda: config
    model.config = config  # type: ignore[assignment]
    return model


def by(score: Callable[[Tensor], Tensor], with_bias: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable:
    def choose(gate: Gate, hidden: Tensor) -> Any:
        logits = hidden @ gate.weight.t()
        choice, weight = with_bias(score(logits), gate.bias)
        index = choice.topk(2).indices
        return logits, weight.gather(-1, index), index

    return choose


BIASES = {
    "moves the choice": (lambda scores, bias: (scores + bias, scores), True),
    "is not used": (lambda scores, bias: (scores, scores), False),
    "enters the weights": (lambda scores, bias: (scores + bias, scores + bias), False),
    "moves the weights alone": (lambda scores, bias: (scores, scores + bias), False),
}


@pytest.mark.parametrize("how", BIASES)
def test_a_bias_is_known_by_what_it_does_and_not_by_its_name(how: str) -> None:
    with_bias, usable = BIASES[how]
    model = hand_made(by(torch.sigmoid, with_bias))
    if usable:
        assert find_choosers(model, find_sites(model), BIAS)[0].bias == "block.gate.bias"
    else:
        with pytest.raises(ModelError, match="made_up has no bias"):
            find_choosers(model, find_sites(model), BIAS)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            hand_made(by(torch.tanh, BIASES["is not used"][0])),
            r"how block.gate \(made_up\) makes scores .* none of soft",
        ),
        (
            hand_made(by(torch.sigmoid, BIASES["is not used"][0]), "chooser"),
            "0 modules called gate or router beside it",
        ),
        (
            hand_made(lambda gate, hidden: 1 / 0),
            "cannot be watched at work: division by zero; this family's load cannot",
        ),
    ],
    ids=["unknown scores", "no router", "an error"],
)
def test_a_router_that_is_not_understood_is_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        find_choosers(model, find_sites(model), LOSS)


@pytest.mark.parametrize("score", ["softmax", "sigmoid", "sqrtsoftplus"])
def test_scores_are_those_that_the_choice_is_made_of(score: str) -> None:
    logits = torch.randn(7, 5, dtype=torch.float64)
    raw = {
        "softmax": logits.softmax(-1),
        "sigmoid": 1 / (1 + (-logits).exp()),
        "sqrtsoftplus": logits.exp().log1p().sqrt(),
    }
    scores = Chooser("gate", 5, 2, 0, score, None, True).scores(logits.to(torch.float32))
    torch.testing.assert_close(scores, raw[score].float(), rtol=1e-5, atol=1e-7)


def test_looking_leaves_the_model_as_it_was_and_watching_notes_logits_with_gradients_only() -> None:
    model: Any = hand_made(by(torch.sigmoid, BIASES["moves the choice"][0]))
    with torch.no_grad():
        model.block.gate.weight.copy_(torch.arange(20.0).view(4, 5))
    before = {n: t.clone() for n, t in model.state_dict().items() if "gate.weight" in n or "bias" in n}
    found = find_choosers(model, find_sites(model), BIAS)
    assert all(torch.equal(model.state_dict()[n], t) for n, t in before.items())
    assert not model.block.gate._forward_hooks
    watch(model, found)
    hidden = torch.randn(2, 3, 5)
    for with_gradients in (True, False):
        flight = Flight(Forward(lambda: model.block(hidden).sum()), with_gradients)
        flight.start()
        if with_gradients:
            ((site, logits),) = flight.notes
            assert site == 0 and logits.requires_grad
            torch.testing.assert_close(logits, hidden.view(6, 5) @ model.block.gate.weight.t())
        else:
            assert flight.notes == []
