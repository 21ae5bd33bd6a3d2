"""The state of torch's random numbers, kept and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class RandomState:
    """Of the processor's own generator (`host`), and of that of a device's; None where the
    processor is the device. Both lie in host memory: to take them waits for nothing."""

    host: Tensor
    device: tuple[torch.device, Tensor] | None = None

    @staticmethod
    def now(device: torch.device = _CPU) -> RandomState:
        """As it is at this moment, where tensors of this device are computed."""
        host = torch.get_rng_state()
        if device.type == "cpu":
            return RandomState(host)
        return RandomState(host, (device, torch.get_device_module(device).get_rng_state()))

    def put_back(self) -> None:
        """The next random numbers are those that followed it."""
        torch.set_rng_state(self.host)
        if self.device is not None:
            device, state = self.device
            torch.get_device_module(device).set_rng_state(state)


@contextmanager
def chance_undisturbed(device: torch.device = _CPU) -> Iterator[None]:
    """Whatever is drawn inside: behind it the random numbers go on as if it had not been."""
    before = RandomState.now(device)
    try:
        yield
    finally:
        before.put_back()
