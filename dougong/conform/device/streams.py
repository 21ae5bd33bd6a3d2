"""Streams and events: who waits for whom, and what a block of memory waits for."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from dougong.accelerators.base import enter_device
from dougong.conform.check import CPU, Bed, CannotTry, Check, method, need_streams, require

GROUP = "streams"
MANY = 1 << 16
_SMALL, _LARGE, _LINKS = 64, 2048, 20
_FAST_BYTES = 8 << 30


def stream_checks() -> Iterator[Check]:
    """Each makes the second stream busy first, so that what does not wait is seen."""
    yield method("a stream waits for an event", GROUP, "torch.Stream.wait_event", _wait_event)
    yield method("a stream waits for a stream", GROUP, "torch.Stream.wait_stream", _wait_stream)
    yield method("the host waits for an event", GROUP, "torch.Event.synchronize", _event)
    yield method("the host asks an event", GROUP, "torch.Event.query", _query)
    yield method("the host waits for a stream", GROUP, "torch.Stream.synchronize", _stream)
    yield method("the host waits for the device", GROUP, "torch.accelerator.synchronize", _device)
    yield method("copy to a late reader", GROUP, "Tensor.copy_", _late_to_host)
    yield method("copy from pinned memory", GROUP, "Tensor.copy_", _late_to_device)
    yield method("memory waits for its readers", GROUP, "Tensor.record_stream", _record_stream)
    yield method("events tell time", GROUP, "torch.Event.elapsed_time", _elapsed)
    yield method("each thread has a device", GROUP, "torch.accelerator.set_device_index", _threads)
    yield method(
        "each thread has a stream", GROUP, "torch.accelerator.current_stream", _own_streams
    )


def busy(bed: Bed) -> Tensor:
    """Give the current stream some milliseconds of work: a chain of products, larger ones on a
    device that has the memory of a fast one."""
    _, total = torch.accelerator.get_memory_info()
    size = _LARGE if total >= _FAST_BYTES else _SMALL
    link = torch.full((size, size), 1 / size, device=bed.device)
    held = link
    for _ in range(_LINKS):
        held = held @ link
    return held


def _three(bed: Bed, stream: torch.Stream, ones: Tensor) -> Tensor:
    """Threes, computed behind work on another stream."""
    with stream:
        busy(bed)
        return ones * 3


def _ones(bed: Bed) -> Tensor:
    ones = torch.ones(MANY, device=bed.device)
    torch.accelerator.synchronize()
    return ones


def _wait_event(bed: Bed) -> None:
    need_streams(bed)
    stream = torch.Stream(device=bed.device)
    threes = _three(bed, stream, _ones(bed))
    torch.accelerator.current_stream().wait_event(stream.record_event())
    require(bool((threes + 0).to(CPU).eq(3).all()), "what followed ran before the event")


def _wait_stream(bed: Bed) -> None:
    need_streams(bed)
    stream = torch.Stream(device=bed.device)
    threes = _three(bed, stream, _ones(bed))
    torch.accelerator.current_stream().wait_stream(stream)
    require(bool((threes + 0).to(CPU).eq(3).all()), "what followed ran before the stream's work")


def _sent(bed: Bed, stream: torch.Stream) -> Tensor:
    """Pinned memory that a copy on another stream fills with threes."""
    host = torch.zeros(MANY).pin_memory()
    ones = _ones(bed)
    with stream:
        busy(bed)
        host.copy_(ones * 3, non_blocking=True)
    return host


def _event(bed: Bed) -> None:
    need_streams(bed)
    stream = torch.Stream(device=bed.device)
    host = _sent(bed, stream)
    stream.record_event().synchronize()
    require(bool(host.eq(3).all()), "it returned before what was recorded had been done")


def _query(bed: Bed) -> None:
    need_streams(bed)
    stream = torch.Stream(device=bed.device)
    host = _sent(bed, stream)
    event = stream.record_event()
    for _ in range(1 << 20):
        if event.query():
            break
    require(bool(host.eq(3).all()), "it said that work was done which was not")


def _stream(bed: Bed) -> None:
    need_streams(bed)
    stream = torch.Stream(device=bed.device)
    host = _sent(bed, stream)
    stream.synchronize()
    require(bool(host.eq(3).all()), "it returned before the stream's work had been done")


def _device(bed: Bed) -> None:
    need_streams(bed)
    host = _sent(bed, torch.Stream(device=bed.device))
    torch.accelerator.synchronize()
    require(bool(host.eq(3).all()), "it returned before the work of every stream had been done")


def _record_stream(bed: Bed) -> None:
    """Memory that is let go of while another stream still reads it is not given out again."""
    need_streams(bed)
    stream = torch.Stream(device=bed.device)
    target = torch.empty(MANY, device=bed.device)
    values = _ones(bed)
    with stream:
        busy(bed)
        target.copy_(values, non_blocking=True)
    values.record_stream(stream)
    del values
    held = [torch.zeros(MANY, device=bed.device) for _ in range(2)]
    torch.accelerator.synchronize()
    require(bool(target.to(CPU).eq(1).all()), "memory was given out again that a stream still read")
    del held


def _elapsed(bed: Bed) -> None:
    need_streams(bed)
    begun, ended = (torch.Event(bed.device, enable_timing=True) for _ in range(2))
    begun.record()
    busy(bed)
    ended.record()
    torch.accelerator.synchronize()
    require(begun.elapsed_time(ended) > 0, "no time has passed between two events")


def _threads(bed: Bed) -> None:
    """A thread that enters another device leaves this one where it is."""
    need_streams(bed)
    if torch.accelerator.device_count() < 2:
        raise CannotTry("one device is here, and two are needed")
    other = torch.device(bed.device.type, 1 - (bed.device.index or 0))
    enter_device(bed.device)
    seen: list[int] = []

    def enter() -> None:
        enter_device(other)
        seen.append(torch.ones(2, device=bed.device.type).get_device())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    here = torch.accelerator.current_device_index()
    enter_device(bed.device)
    require(seen == [other.index], f"a thread that entered {other} computes on device {seen}")
    require(here == (bed.device.index or 0), f"another thread has moved this one to device {here}")


def _own_streams(bed: Bed) -> None:
    need_streams(bed)
    before = torch.accelerator.current_stream()
    seen: list[torch.Stream] = []
    with torch.Stream(device=bed.device) as stream:
        require(torch.accelerator.current_stream() == stream, "an entered stream is not current")
        thread = threading.Thread(target=lambda: seen.append(torch.accelerator.current_stream()))
        thread.start()
        thread.join()
    require(seen[0] != stream, "a stream that one thread has entered is another's, too")
    require(torch.accelerator.current_stream() == before, "a left stream is current still")


def _late_to_host(bed: Bed) -> None:
    """A copy that does not block is there once an event behind it has been waited for."""
    need_streams(bed)
    for count in (5, MANY):
        host = torch.zeros(count).pin_memory()
        host.copy_(torch.full((count,), 3.0, device=bed.device), non_blocking=True)
        torch.accelerator.current_stream().record_event().synchronize()
        require(bool(host.eq(3).all()), "it was not there after its event")


def _late_to_device(bed: Bed) -> None:
    """What follows in the stream reads what such a copy brings."""
    need_streams(bed)
    host = torch.full((MANY,), 5.0).pin_memory()
    there = torch.zeros(MANY, device=bed.device)
    there.copy_(host, non_blocking=True)
    doubled = there * 2
    torch.accelerator.synchronize()
    require(bool(doubled.to(CPU).eq(10).all()), "an operator behind it has read older values")
