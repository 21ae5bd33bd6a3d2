"""NVIDIA GPUs read by NVML (package nvidia-ml-py).

Xid codes come as events, so within milliseconds; the other figures are asked for. Written against
the interface of nvidia-ml-py 13; not run on a GPU yet.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dougong.accelerators.telemetry.reading import (
    DeviceFault,
    DeviceReading,
    ErrorCounts,
    Telemetry,
    Throttling,
)
from dougong.accelerators.telemetry.xid import xid
from dougong.errors import DeviceError

_MOST_EVENTS = 64
"""So many codes are taken at one look; a storm of them goes on at the next."""
_SLOWED_BY: tuple[tuple[Throttling, tuple[str, ...]], ...] = (
    ("power", ("SwPowerCap",)),
    ("thermal", ("SwThermalSlowdown", "HwThermalSlowdown")),
    ("hardware", ("HwSlowdown", "HwPowerBrakeSlowdown")),
)
"""NVML's names of the reasons, behind `nvmlClocksThrottleReason`."""


@dataclass(frozen=True)
class _Gpu:
    number: int
    handle: Any
    key: str
    counts: ErrorCounts


class NvidiaTelemetry(Telemetry):
    """All GPUs of this machine. `nvml`: the module pynvml, started, which is this object's from
    then on."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        try:
            self._gpus = [self._open(number) for number in range(nvml.nvmlDeviceGetCount())]
            self._events = nvml.nvmlEventSetCreate()
            for gpu in self._gpus:
                self._listen_to(gpu)
        except nvml.NVMLError as error:
            raise DeviceError(f"NVML: {error}") from error

    def read(self, wait_s: float) -> tuple[DeviceReading, ...]:
        faults = self._faults(wait_s)
        return tuple(self._read(gpu, faults.get(gpu.number, ())) for gpu in self._gpus)

    def close(self) -> None:
        self._nvml.nvmlShutdown()

    def _open(self, number: int) -> _Gpu:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(number)
        key = str(nvml.nvmlDeviceGetUUID(handle))
        return _Gpu(number, handle, key, ErrorCounts(*self._errors(handle)))

    def _listen_to(self, gpu: _Gpu) -> None:
        nvml = self._nvml
        known = int(self._ask(nvml.nvmlDeviceGetSupportedEventTypes, gpu.handle, default=0))
        if known & nvml.nvmlEventTypeXidCriticalError:
            kind = nvml.nvmlEventTypeXidCriticalError
            nvml.nvmlDeviceRegisterEvents(gpu.handle, kind, self._events)

    def _faults(self, wait_s: float) -> dict[int, tuple[DeviceFault, ...]]:
        """The codes that have come, by the GPU's number. The first one is waited for."""
        found: dict[int, tuple[DeviceFault, ...]] = {}
        wait_ms = round(1000 * wait_s)
        for _ in range(_MOST_EVENTS):
            try:
                event = self._nvml.nvmlEventSetWait_v2(self._events, wait_ms)
            except self._nvml.NVMLError_Timeout:
                break
            except self._nvml.NVMLError as error:
                raise DeviceError(f"NVML: {error}") from error
            wait_ms = 0
            for number in self._numbers_of(event.device):
                found[number] = (*found.get(number, ()), xid(int(event.eventData)))
        return found

    def _numbers_of(self, handle: Any) -> Sequence[int]:
        """Of the GPU that an event is about: one that is lost has no index any more, but the handle
        that it had."""
        address = _address(handle)
        return [gpu.number for gpu in self._gpus if _address(gpu.handle) == address]

    def _read(self, gpu: _Gpu, faults: tuple[DeviceFault, ...]) -> DeviceReading:
        nvml = self._nvml
        rows = self._ask(nvml.nvmlDeviceGetRemappedRows, gpu.handle, default=(0, 0, 0, 0))
        corrected_rows, uncorrected_rows, awaits_reset, _ = rows
        uncorrected, corrected = gpu.counts.since(*self._errors(gpu.handle))
        kind = nvml.NVML_TEMPERATURE_GPU
        return DeviceReading(
            gpu.number,
            gpu.key,
            faults,
            uncorrected,
            corrected,
            int(corrected_rows) + int(uncorrected_rows),
            bool(awaits_reset),
            self._throttling(gpu.handle),
            self._ask(nvml.nvmlDeviceGetTemperature, gpu.handle, kind, default=None),
        )

    def _errors(self, handle: Any) -> tuple[int, int]:
        """Uncorrected and corrected ones of its memory, since it was last reset."""
        nvml, counts = self._nvml, []
        ask, volatile = nvml.nvmlDeviceGetTotalEccErrors, nvml.NVML_VOLATILE_ECC
        for name in ("UNCORRECTED", "CORRECTED"):
            kind = getattr(nvml, f"NVML_MEMORY_ERROR_TYPE_{name}")
            counts.append(int(self._ask(ask, handle, kind, volatile, default=0)))
        return counts[0], counts[1]

    def _throttling(self, handle: Any) -> tuple[Throttling, ...]:
        nvml = self._nvml
        reasons = int(self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle, default=0))
        found: list[Throttling] = []
        for name, causes in _SLOWED_BY:
            bits = [getattr(nvml, f"nvmlClocksThrottleReason{cause}") for cause in causes]
            if any(reasons & bit for bit in bits):
                found.append(name)
        return tuple(found)

    def _ask(self, question: Callable[..., Any], *details: Any, default: Any) -> Any:
        """The answer, or `default` where the GPU has no such figure, or is not there any more: that
        is told by a code."""
        try:
            return question(*details)
        except self._nvml.NVMLError:
            return default


def _address(handle: Any) -> Any:
    """By which two handles of one GPU are known to be the same."""
    return ctypes.cast(handle, ctypes.c_void_p).value if not isinstance(handle, int) else handle
