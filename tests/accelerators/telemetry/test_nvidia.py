"""GPUs by NVML: against the interface of nvidia-ml-py, with a library of our own in its place. No GPU has been read."""

from __future__ import annotations

import types
from typing import Any

import pynvml
import pytest
from dougong.accelerators.telemetry.nvidia import NvidiaTelemetry
from dougong.accelerators.telemetry.reading import DeviceReading
from dougong.accelerators.telemetry.xid import xid
from dougong.errors import DeviceError


class Library:
    """Two GPUs with handles 100 and 101. `events`: (handle, code) that have come; `errors`, `reasons`: by handle."""

    def __init__(self) -> None:
        self.events: list[tuple[int, int]] = []
        self.waits: list[int] = []
        self.errors = {100: [7, 0], 101: [0, 0]}
        self.reasons = {100: 0, 101: 0}
        self.rows = {100: (0, 0, 0, 0), 101: (0, 0, 0, 0)}
        self.lost: set[int] = set()
        self.is_closed = False

    def __getattr__(self, name: str) -> Any:
        """The vendor's own numbers and errors."""
        return getattr(pynvml, name)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:  # noqa: N802
        return 100 + number

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{handle}"

    def nvmlEventSetCreate(self) -> str:  # noqa: N802
        return "the set"

    def nvmlDeviceGetSupportedEventTypes(self, handle: int) -> int:  # noqa: N802
        return int(pynvml.nvmlEventTypeAll)

    def nvmlDeviceRegisterEvents(self, handle: int, kinds: int, events: str) -> None:  # noqa: N802
        assert (kinds, events) == (pynvml.nvmlEventTypeXidCriticalError, "the set")

    def nvmlEventSetWait_v2(self, events: str, wait_ms: int) -> Any:  # noqa: N802
        self.waits.append(wait_ms)
        if not self.events:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        handle, code = self.events.pop(0)
        return types.SimpleNamespace(device=handle, eventData=code)

    def nvmlDeviceGetTotalEccErrors(self, handle: int, kind: int, counter: int) -> int:  # noqa: N802
        assert counter == pynvml.NVML_VOLATILE_ECC
        self.refuse(handle)
        return self.errors[handle][kind != pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED]

    def nvmlDeviceGetRemappedRows(self, handle: int) -> tuple[int, int, int, int]:  # noqa: N802
        self.refuse(handle)
        return self.rows[handle]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:  # noqa: N802
        self.refuse(handle)
        return self.reasons[handle]

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:  # noqa: N802
        self.refuse(handle)
        return 61

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.is_closed = True

    def refuse(self, handle: int) -> None:
        if handle in self.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)


def test_figures_of_every_gpu() -> None:
    library = Library()
    telemetry = NvidiaTelemetry(library)
    assert telemetry.read(0.25) == (
        DeviceReading(0, "GPU-100", temperature_c=61),
        DeviceReading(1, "GPU-101", temperature_c=61),
    )
    library.errors[100], library.rows[100] = [9, 3], (1, 2, 1, 0)
    first, _ = telemetry.read(0.25)
    assert (first.uncorrected, first.corrected, first.remapped_rows, first.awaits_reset) == (2, 3, 3, True)
    telemetry.close()
    assert library.is_closed


def test_codes_come_as_events_and_the_first_one_alone_is_waited_for() -> None:
    library = Library()
    telemetry = NvidiaTelemetry(library)
    library.events = [(101, 94), (100, 31), (101, 95)]
    first, second = telemetry.read(0.5)
    assert (first.faults, second.faults) == ((xid(31),), (xid(94), xid(95)))
    assert library.waits == [500, 0, 0, 0]
    assert all(reading.faults == () for reading in telemetry.read(0.5))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["GpuIdle"], ()),
        (["SwPowerCap"], ("power",)),
        (["SwThermalSlowdown"], ("thermal",)),
        (["HwSlowdown", "HwThermalSlowdown"], ("thermal", "hardware")),
        (["HwPowerBrakeSlowdown", "SwPowerCap"], ("power", "hardware")),
    ],
)
def test_why_a_gpu_is_slow(names: list[str], found: tuple[str, ...]) -> None:
    library = Library()
    telemetry = NvidiaTelemetry(library)
    library.reasons[101] = sum(getattr(pynvml, f"nvmlClocksThrottleReason{name}") for name in names)
    assert telemetry.read(0.0)[1].throttling == found


def test_a_gpu_that_is_lost_leaves_the_others_readable_and_its_code_is_told() -> None:
    library = Library()
    telemetry = NvidiaTelemetry(library)
    library.lost, library.events = {101}, [(101, 79)]
    first, second = telemetry.read(0.0)
    assert first == DeviceReading(0, "GPU-100", temperature_c=61)
    assert (second.faults, second.temperature_c) == ((xid(79),), None)


def test_a_library_that_refuses_is_an_error_of_ours() -> None:
    class Refusing(Library):
        def nvmlEventSetWait_v2(self, events: str, wait_ms: int) -> Any:  # noqa: N802
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)

        def nvmlEventSetCreate(self) -> str:  # noqa: N802
            if self.lost:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)
            return "the set"

    library = Refusing()
    with pytest.raises(DeviceError, match="NVML: Unknown Error"):
        NvidiaTelemetry(library).read(0.0)
    library.lost.add(7)
    with pytest.raises(DeviceError, match="NVML"):
        NvidiaTelemetry(library)


@pytest.mark.gpu
def test_the_gpus_of_this_machine_are_read() -> None:
    pynvml.nvmlInit()
    telemetry = NvidiaTelemetry(pynvml)
    readings = telemetry.read(0.1)
    assert readings and all(reading.key.startswith("GPU-") and not reading.faults for reading in readings)
    assert all(reading.temperature_c is not None for reading in readings)
    telemetry.close()
