"""Where a model breaks ties by index: in its routers and indexers, in every family, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dougong.models.sites import find_sites
from dougong.models.ties import break_ties_by_index
from dougong.parallel.segments.flight import Flight, Forward
from tests.families import FAMILIES
from tests.jobs import make_job, make_rig, tokens
from tests.reference import compute_experts_alike, reference_model
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Watch(TorchFunctionMode):
    """Notes the dtype of what every topk is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.dtype] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.topk, Tensor.topk):
            self.seen.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_asks_torch_about_scores(family: str) -> None:
    """What reaches `torch.topk` below the rule are integer keys without ties; without the rule, the same calls are seen
    with the scores themselves."""
    job = make_job(family)
    ids = tokens(job, 1, 0, 0)
    seen: list[list[torch.dtype]] = []
    for rule in (True, False):
        model: Any = reference_model(job)
        if rule:
            break_ties_by_index(model, find_sites(model))
        with Watch() as watch, torch.no_grad():
            model(input_ids=ids, use_cache=False)
        seen.append(watch.seen)
    assert len(seen[0]) == len(seen[1]) >= 2
    assert set(seen[0]) == {torch.int64}
    assert all(dtype.is_floating_point for dtype in seen[1])


def tie_the_router(model: nn.Module) -> None:
    """All experts score the same for every token."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate.weight"):
                parameter.zero_()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_tied_router_takes_the_lowest_experts(precision: str) -> None:
    rig = make_rig(make_job(precision=precision))
    tie_the_router(rig.replica.model)
    ids = tokens(rig.job, 1, 0, 0)
    flight = Flight(Forward(lambda: rig.replica.model(input_ids=ids, labels=ids).loss), False)
    flight.start()
    assert flight.calls[-1].index.unique(dim=0).tolist() == [[0, 1]]
    assert torch.topk(torch.zeros(1, 8), 2)[1].tolist() != [[0, 1]], "outside of the model topk is torch's"


def gradients(model: Any, rule: bool) -> dict[str, Tensor]:
    """Of one batch."""
    job = make_job()
    if rule:
        compute_experts_alike(model, find_sites(model))
    ids = tokens(job, 1, 0, 0)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_whoever_breaks_ties_otherwise_trains_other_experts() -> None:
    """Negative control: torch's own choice leaves experts 0 and 1, which the rule takes, without any gradient."""
    trained = []
    for rule in (True, False):
        model = reference_model(make_job())
        tie_the_router(model)
        found = gradients(model, rule)["model.layers.0.mlp.experts.down_proj"]
        trained.append([e for e, gradient in enumerate(found) if gradient.any()])
    assert trained[0] == [0, 1] and not set(trained[1]) & {0, 1}


def test_a_sparse_attentions_ties_move_the_loss() -> None:
    """Negative control: its scores are rectified, so that many keys are exactly 0; which of them are attended to is
    seen in the loss's fourth digit."""
    job = make_job("deepseek_v32")
    ids = tokens(job, 1, 0, 0)
    losses = []
    for rule in (True, False):
        model: Any = reference_model(job)
        if rule:
            break_ties_by_index(model, find_sites(model))
        with torch.no_grad():
            losses.append(float(model(input_ids=ids, labels=ids, use_cache=False).loss))
    assert abs(losses[0] - losses[1]) > 1e-5


def test_an_error_in_the_router_leaves_topk_as_it_was() -> None:
    rig = make_rig(make_job())

    def broken(*_: Any, **__: Any) -> Tensor:
        raise ZeroDivisionError("in the router")

    rig.replica.model.model.layers[1].mlp.gate.forward = broken  # type: ignore[union-attr]
    with pytest.raises(ZeroDivisionError, match="in the router"):
        rig.run(1)
    assert torch.topk(torch.zeros(1, 8), 2)[1].tolist() != [[0, 1]]
