"""A process that measures one device: `python -m dougong.doctor.node.speeds PARENT`, a request as
JSON on standard input, the answer as the last line of standard output.

A window of a measurement is longer than the periods in which a control group is given its part of
a processor, and the best of several windows counts: what disturbs one of them does not decide.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter

from dougong.accelerators.base import enter_device
from dougong.accelerators.registry import get_accelerator
from dougong.control.processes import die_with_parent
from dougong.deadlines import DEADLINES
from dougong.doctor.facts import DeviceRequest, DeviceSpeed
from dougong.errors import DougongError
from dougong.fingerprint.record import PRECISIONS
from dougong.fingerprint.take import take_fingerprint

WINDOWS = 5
_SIDE_OF_HOST, _SIDE_OF_DEVICE = 512, 4096
_BYTES_OF_HOST, _BYTES_OF_DEVICE = 64 << 20, 1 << 30
"""More than the caches of a processor's core hold, as a rule more than all of them."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Window:
    """The best one: `times` calls a second, and which part of it this process had a processor."""

    times_per_s: float
    cpu_share: float


def measure_device(request: DeviceRequest) -> DeviceSpeed:
    """Its products, its memory and its bits. DeviceError where it does not open."""
    accelerator = get_accelerator(request.accelerator)
    device = accelerator.open(request.index)
    enter_device(device)
    product, memory = _product(device, request.precision), _copy(device)
    flops, moved = 2.0 * product[1] ** 3, 2.0 * memory[1]
    multiplied, copied = best_window(product[0]), best_window(memory[0])
    is_host = device.type == "cpu"
    return DeviceSpeed(
        accelerator=request.accelerator,
        index=request.index,
        name=accelerator.describe().get("name", ""),
        matmul_flops=flops * multiplied.times_per_s,
        memory_bytes_per_s=moved * copied.times_per_s,
        cpu_share=multiplied.cpu_share if is_host else None,
        fingerprint=_bits(device, request) if request.with_bits else {},
    )


def _bits(device: torch.device, request: DeviceRequest) -> dict[str, Any]:
    wanted = ("float32", request.precision)
    precisions = tuple(name for name in PRECISIONS if name in wanted)
    return take_fingerprint(device, precisions).to_json()


def _product(device: torch.device, precision: str) -> tuple[Callable[[], None], int]:
    """A product of two square matrices that waits for its end, and their side."""
    side = _SIDE_OF_HOST if device.type == "cpu" else _SIDE_OF_DEVICE
    one = torch.ones(side, side, dtype=_DTYPES[precision], device=device)
    other = one.clone()
    result = torch.empty_like(one)

    def multiply() -> None:
        torch.mm(one, other, out=result)
        result[0, 0].item()

    return multiply, side


def _copy(device: torch.device) -> tuple[Callable[[], None], int]:
    """A copy within a device's memory that waits for its end, and its bytes."""
    num_bytes = _BYTES_OF_HOST if device.type == "cpu" else _BYTES_OF_DEVICE
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)

    def copy() -> None:
        target.copy_(source)
        target[0].item()

    return copy, num_bytes


def best_window(work: Callable[[], None], window_s: float = DEADLINES.doctor_window_s) -> Window:
    """Of `WINDOWS` windows the one in which the work was done most often."""
    work()  # what is made once, is made
    windows = [_window(work, window_s) for _ in range(WINDOWS)]
    return max(windows, key=lambda window: window.times_per_s)


def _window(work: Callable[[], None], window_s: float) -> Window:
    begun, cpu, times = time.perf_counter(), time.process_time(), 0
    while True:
        work()
        times += 1
        elapsed = time.perf_counter() - begun
        if elapsed >= window_s:
            return Window(times / elapsed, (time.process_time() - cpu) / elapsed)


def main(arguments: list[str]) -> None:
    """Measure what standard input asks for."""
    die_with_parent(int(arguments[0]))
    request = TypeAdapter(DeviceRequest).validate_json(sys.stdin.read())
    try:
        found = measure_device(request)
    except DougongError as error:
        found = DeviceSpeed(request.accelerator, request.index, problem=str(error))
    print(TypeAdapter(DeviceSpeed).dump_json(found).decode(), flush=True)
    # A device's library may not survive the end of the interpreter, which proves nothing here.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
