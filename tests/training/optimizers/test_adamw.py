"""AdamW over owned tensors: torch's own bits, whoever the neighbours are, before and after a resume."""

from __future__ import annotations

import pytest
import torch
from dougong.job.optimizers.adamw import AdamW
from dougong.training.optimizers.adamw import OwnedAdamW
from torch import Tensor

SETTINGS = AdamW(lr=1e-2, weight_decay=0.3, betas=(0.8, 0.95), eps=1e-6)
SHAPES = {"head": (9, 7), "experts[0]": (5, 3, 2), "norm": (7,), "bias": (11,), "scalar": ()}


def masters() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()}


def gradients(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()}


def run(optimizer: OwnedAdamW, names: list[str], steps: range) -> None:
    for step in steps:
        optimizer.step({n: g for n, g in gradients(step).items() if n in names}, 1e-2 / step)


def trained(steps: int) -> tuple[dict[str, Tensor], OwnedAdamW]:
    values = masters()
    optimizer = OwnedAdamW(SETTINGS, values)
    run(optimizer, list(SHAPES), range(1, steps + 1))
    return values, optimizer


@pytest.mark.parametrize("name", SHAPES)
def test_one_tensor_at_a_time_is_torchs_adamw_with_decay_on_matrices_only(name: str) -> None:
    """Bit by bit; so no tensor's update depends on who is updated beside it."""
    values, optimizer = trained(4)
    parameter = torch.nn.Parameter(masters()[name])
    decay = SETTINGS.weight_decay if parameter.dim() >= 2 else 0.0
    torchs = torch.optim.AdamW(
        [parameter], lr=1.0, betas=SETTINGS.betas, eps=SETTINGS.eps, weight_decay=decay, fused=True
    )
    for step in range(1, 5):
        torchs.param_groups[0]["lr"] = 1e-2 / step
        parameter.grad = gradients(step)[name]
        torchs.step()
    assert torch.equal(values[name], parameter)
    state = {kind: value for kind, n, value in optimizer.state() if n == name}
    assert state.keys() == {kind.name for kind in OwnedAdamW.declaration.state_kinds}
    assert all(torch.equal(value, torchs.state[parameter][kind]) for kind, value in state.items())


def test_the_update_is_the_papers() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, in float64: 1e-6 covers float32's rounding of one step."""
    values, _ = trained(1)
    beta1, beta2 = SETTINGS.betas
    for name, start in masters().items():
        gradient, before = gradients(1)[name].double(), start.double()
        first, second = (1 - beta1) * gradient / (1 - beta1), (1 - beta2) * gradient**2 / (1 - beta2)
        decay = SETTINGS.weight_decay if start.dim() >= 2 else 0.0
        expected = before - 1e-2 * (first / (second.sqrt() + SETTINGS.eps) + decay * before)
        torch.testing.assert_close(values[name].double(), expected, rtol=1e-6, atol=1e-6)


def test_resuming_from_the_state_gives_the_unbroken_runs_bits() -> None:
    whole, _ = trained(6)
    halfway, first = trained(3)
    saved = [(kind, name, value.clone()) for kind, name, value in first.state()]
    resumed = OwnedAdamW(SETTINGS, halfway)
    for kind, name, value in saved:
        resumed.load(kind, name, value)
    run(resumed, list(SHAPES), range(4, 7))
    assert all(torch.equal(halfway[n], whole[n]) for n in SHAPES)
    # Negative control: without the moments the bits are others.
    forgetful, _ = trained(3)
    run(OwnedAdamW(SETTINGS, forgetful), list(SHAPES), range(4, 7))
    assert not torch.equal(forgetful["head"], whole["head"])


def test_loading_copies_so_that_what_was_read_stays_as_it_is() -> None:
    values, first = trained(1)
    saved = {kind: value.clone() for kind, name, value in first.state() if name == "head"}
    resumed = OwnedAdamW(SETTINGS, values)
    for kind, value in saved.items():
        resumed.load(kind, "head", value)
    before = saved["exp_avg"].clone()
    resumed.step({"head": gradients(2)["head"]}, 1e-2)
    assert torch.equal(saved["exp_avg"], before)


def test_a_tensor_without_a_gradient_is_left_alone_and_has_no_state() -> None:
    values, names = masters(), [n for n in SHAPES if n != "head"]
    optimizer = OwnedAdamW(SETTINGS, values)
    run(optimizer, names, range(1, 3))
    assert torch.equal(values["head"], masters()["head"]), "no decay either"
    assert {n for _, n, _ in optimizer.state()} == set(names)
    assert all(t.grad is None for t in values.values())


def test_a_worker_may_own_nothing() -> None:
    optimizer = OwnedAdamW(SETTINGS, {})
    optimizer.step({}, 1e-2)
    assert optimizer.names == () and list(optimizer.state()) == []
