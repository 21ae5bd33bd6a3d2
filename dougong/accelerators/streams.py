"""Order between the streams of a device: who hands something to another thread marks how far its
stream has come, and who takes it waits for the mark. Neither holds up the host. On a processor
there are no streams, and a mark is None."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Mark: TypeAlias = "torch.Event | None"
"""A moment in a stream: all that it had been given by then."""


def enter_own_stream(device: torch.device) -> None:
    """Have this thread's work queue up by itself, not behind the computation."""
    import torch

    if device.type != "cpu":
        torch.accelerator.set_stream(torch.Stream(device=device))


def mark(device: torch.device) -> Mark:
    """All that this thread has given the device by now."""
    import torch

    if device.type == "cpu":
        return None
    return torch.accelerator.current_stream(device).record_event()


def wait_for(marked: Mark, device: torch.device) -> None:
    """What this thread gives the device from now on comes after a mark."""
    import torch

    if marked is not None:
        torch.accelerator.current_stream(device).wait_event(marked)


def use_here(tensors: Iterable[Tensor]) -> None:
    """Say that this thread's stream uses memory that another one has allocated: it is not given
    away before this stream is done with it."""
    import torch

    for tensor in tensors:
        if tensor.device.type != "cpu":
            tensor.record_stream(torch.accelerator.current_stream(tensor.device))
