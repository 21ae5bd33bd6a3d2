"""Random numbers of a device: they follow from seed and state, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dougong.conform.check import CPU, Bed, Check, method, require
from dougong.conform.judge import same_bits

GROUP = "chance"
COUNT = 4099


def chance_checks() -> Iterator[Check]:
    """A generator of one's own, the device's, and what is kept of it."""
    yield method("a generator of one's own", GROUP, "torch.Generator", _own)
    yield method("the seed of all devices", GROUP, "torch.manual_seed", _seed)
    yield method("the state of chance", GROUP, "set_rng_state", _state)
    yield method("even numbers", GROUP, "aten::uniform_", _even)
    yield method("normal numbers", GROUP, "aten::normal_", _normal)


def _draw(bed: Bed, generator: torch.Generator | None = None) -> Tensor:
    return torch.rand(COUNT, generator=generator, device=bed.device).to(CPU)


def _own(bed: Bed) -> None:
    first, again, other = (torch.Generator(bed.device) for _ in range(3))
    drawn = _draw(bed, first.manual_seed(7))
    require(same_bits(drawn, _draw(bed, again.manual_seed(7))), "one seed gave two answers")
    require(not same_bits(drawn, _draw(bed, first)), "it gave the same numbers twice in a row")
    require(not same_bits(drawn, _draw(bed, other.manual_seed(8))), "two seeds gave one answer")


def _seed(bed: Bed) -> None:
    torch.manual_seed(3)
    drawn = _draw(bed)
    torch.manual_seed(3)
    require(same_bits(drawn, _draw(bed)), "one seed gave two answers")


def _state(bed: Bed) -> None:
    module = torch.random if bed.device.type == "cpu" else torch.get_device_module(bed.device)
    _draw(bed)
    state = module.get_rng_state()
    drawn = _draw(bed)
    module.set_rng_state(state)
    require(same_bits(drawn, _draw(bed)), "another answer after its state was put back")


def _even(bed: Bed) -> None:
    drawn = _draw(bed, torch.Generator(bed.device).manual_seed(5)).double()
    require(bool(((drawn >= 0) & (drawn < 1)).all()), "numbers outside of 0 to 1")
    require(abs(float(drawn.mean()) - 0.5) < 0.03, f"a mean of {float(drawn.mean()):.3f}, not 0.5")


def _normal(bed: Bed) -> None:
    generator = torch.Generator(bed.device).manual_seed(5)
    drawn = torch.empty(COUNT, device=bed.device).normal_(generator=generator).to(CPU).double()
    spread = float(drawn.std())
    require(abs(float(drawn.mean())) < 0.1, f"a mean of {float(drawn.mean()):.3f}, not 0")
    require(abs(spread - 1) < 0.1, f"a deviation of {spread:.3f}, not 1")
