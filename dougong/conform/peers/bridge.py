"""The way between islands of unlike devices: through host memory, by gloo.

The first process computes on its device, the second on its processor alone, as an island of
another kind would.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from dougong.conform.check import CPU, Bed, Check, DevicePair, method, require
from dougong.conform.device.copies import patterns, views
from dougong.conform.judge import same_bits
from dougong.conform.peers.collectives import exchange

GROUP = "bridge"


def bridge_checks() -> Iterator[Check]:
    """A device's values to the host's island and back, bit by bit."""
    yield method("there and back by the host", GROUP, "bridge", _round_trip, num_processes=2)
    yield method("staged copies", GROUP, "bridge", _staged, num_processes=2)


def _round_trip(bed: Bed) -> None:
    """Values of every type, whole and with gaps: what comes back is what was sent."""
    pair = _pair(bed)
    wrong = []
    for values in patterns():
        for view in views(values):
            came = _echo(view.contiguous(), pair) if pair.rank else _there_and_back(view, bed)
            if not same_bits(came, view.contiguous()):
                wrong.append(str(values.dtype).removeprefix("torch."))
    require(not wrong, f"other bits have come over, of {', '.join(dict.fromkeys(wrong))}")


def _pair(bed: Bed) -> DevicePair:
    assert bed.pair is not None
    return bed.pair


def _there_and_back(view: Tensor, bed: Bed) -> Tensor:
    there = _laid_out_like(view, bed)
    return _by_host(there, _pair(bed)).to(bed.device).to(CPU)


def _laid_out_like(view: Tensor, bed: Bed) -> Tensor:
    """The same values on the device, with the same gaps."""
    there = torch.empty_strided(view.shape, view.stride(), dtype=view.dtype, device=bed.device)
    return there.copy_(view) if view.stride(0) else view.to(bed.device)


def _by_host(there: Tensor, pair: DevicePair) -> Tensor:
    """To the other island, and what it sends back, in host memory."""
    host = there.to(CPU).contiguous()
    back = torch.zeros_like(host)
    dist.send(host.view(torch.uint8), pair.other, group=pair.gloo)
    dist.recv(back.view(torch.uint8), pair.other, group=pair.gloo)
    return back


def _echo(expected: Tensor, pair: DevicePair) -> Tensor:
    """The other island: what has come, which it sends back."""
    came = torch.zeros_like(expected)
    dist.recv(came.view(torch.uint8), pair.other, group=pair.gloo)
    dist.send(came.view(torch.uint8), pair.other, group=pair.gloo)
    return came


def _staged(bed: Bed) -> None:
    """As messages of a run are staged: copied late into pinned memory, sent when an event says that
    they are there, and copied late onto the device again."""
    pair = _pair(bed)
    stages = _by_pinned_memory if bed.has_streams else _by_memory
    came = [stages(number, bed, pair) for number in range(3)]
    right = [same_bits(one, _numbers(number, bed).to(CPU)) for number, one in enumerate(came)]
    require(all(right), "other values have come over")


def _numbers(first: int, bed: Bed) -> Tensor:
    return torch.arange(1 << 14, device=bed.device).float() + first


def _by_memory(number: int, bed: Bed, pair: DevicePair) -> Tensor:
    sent = _numbers(number, bed)
    received = torch.zeros_like(sent)
    exchange(sent, received, pair, pair.gloo)
    return received


def _by_pinned_memory(number: int, bed: Bed, pair: DevicePair) -> Tensor:
    computed = _numbers(number, bed)
    sent, received = (torch.zeros(computed.shape).pin_memory() for _ in range(2))
    sent.copy_(computed, non_blocking=True)
    torch.accelerator.current_stream().record_event().synchronize()
    exchange(sent, received, pair, pair.gloo)
    return torch.empty_like(computed).copy_(received, non_blocking=True).to(CPU)
