"""The process that measures a device, on the processor."""

from __future__ import annotations

import time

from dougong.doctor.facts import DeviceRequest
from dougong.doctor.node.speeds import best_window, measure_device
from dougong.fingerprint.record import Fingerprint


def test_the_processor_has_figures_and_bits() -> None:
    found = measure_device(DeviceRequest("cpu", 0, "float32"))
    assert found.matmul_flops > 1e8 and found.memory_bytes_per_s > 1e7
    assert found.cpu_share is not None and found.cpu_share > 0
    assert Fingerprint.from_json(found.fingerprint).kernel_class
    again = measure_device(DeviceRequest("cpu", 0, "float32", with_bits=False))
    assert again.fingerprint == {} and again.matmul_flops > 1e8


def test_a_window_tells_how_much_of_a_processor_there_was() -> None:
    asleep = best_window(lambda: time.sleep(0.005), 0.02)
    assert asleep.times_per_s <= 200 and asleep.cpu_share < 0.5
