"""Ascend NPUs read by `npu-smi`, which the driver brings along.

A code stands in its answer for as long as the fault does. What follows from a code is that for
which the levels of Huawei's MindCluster stand (Container Manager, `faultCode.json`: RestartRequest
and RestartBusiness, FreeRestartNPU and RestartNPU, SeparateNPU); of one that is not in our short
list the chip's own health decides. The answers' forms are those that the npu-smi command reference
and MindCluster's guide to collecting logs show; not run on an NPU yet.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dougong.accelerators.telemetry.reading import (
    Consequence,
    DeviceFault,
    DeviceReading,
    ErrorCounts,
    Telemetry,
)
from dougong.deadlines import DEADLINES
from dougong.errors import DeviceError

CODES: Mapping[str, DeviceFault] = {
    fault.code: fault
    for fault in (
        DeviceFault("80C98009", "an AI core met an error of the bus", "worker"),
        DeviceFault("80CB8009", "a vector core met an error of the bus", "worker"),
        DeviceFault("80E01801", "an uncorrectable error of its memory (several bits)", "worker"),
        DeviceFault("81078603", "its network port is down", "note"),
        DeviceFault("80E18402", "64 rows of its memory have been replaced: no more can", "give_up"),
        DeviceFault("80818C05", "it has failed its stress test", "give_up"),
    )
}
_BY_HEALTH: Mapping[str, Consequence] = {
    "OK": "note",
    "WARNING": "note",
    "ALARM": "worker",
    "CRITICAL": "give_up",
}
"""DCMI's states of health, in npu-smi's words. Of any other word nothing follows."""

Ask = Callable[[Sequence[Sequence[str]]], list[str]]
"""ask(words of several commands): what each of them prints; empty where it fails."""


def run_npu_smi(commands: Sequence[Sequence[str]]) -> list[str]:
    """All of them at the same time. DeviceError where there is no npu-smi."""
    processes: list[subprocess.Popen[str]] = []
    try:
        for words in commands:
            processes.append(_begin(words))
        deadline = time.monotonic() + DEADLINES.telemetry_tool_s
        return [_text(process, deadline) for process in processes]
    finally:
        for process in processes:
            process.kill()  # one that hangs in the driver is left behind


def _begin(words: Sequence[str]) -> subprocess.Popen[str]:
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    try:
        return subprocess.Popen(
            ["npu-smi", *words], stdin=nothing, stdout=pipe, stderr=nothing, text=True
        )
    except OSError as error:
        raise DeviceError(f"npu-smi cannot be run: {error}") from error


def _text(process: subprocess.Popen[str], deadline: float) -> str:
    try:
        text, _ = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return ""
    return "" if process.returncode else text


@dataclass
class _Chip:
    """`number`: its logical one, by which ASCEND_RT_VISIBLE_DEVICES means it; `present`: codes
    that stood in the last answer."""

    number: int
    npu: str
    chip: str
    key: str
    counts: ErrorCounts | None = None
    present: set[str] = field(default_factory=set)

    @property
    def place(self) -> tuple[str, ...]:
        return "-i", self.npu, "-c", self.chip


def memory_sizes(ask: Ask = run_npu_smi) -> list[int]:
    """Bytes of each chip's memory, as far as npu-smi says it. DeviceError where there is no
    npu-smi."""
    (text,) = ask([("info", "-m")])
    chips = [("info", "-t", "usages", "-i", npu, "-c", chip) for _, npu, chip in chips_in(text)]
    told = [_whole(fields_in(answer), "HBM Capacity(MB)") for answer in ask(chips)]
    return [megabytes << 20 for megabytes in told if megabytes]


class AscendTelemetry(Telemetry):
    """All chips of this machine. `ask`: runs npu-smi."""

    def __init__(self, ask: Ask = run_npu_smi) -> None:
        self._ask = ask
        (text,) = ask([("info", "-m")])
        chips = chips_in(text)
        if not chips:
            raise DeviceError("npu-smi info -m names no chip")
        boards = ask([("info", "-t", "board", "-i", npu, "-c", chip) for _, npu, chip in chips])
        self._chips = []
        for (number, npu, chip), board in zip(chips, boards, strict=True):
            bus = fields_in(board).get("PCIe Bus Info", f"{npu}.{chip}")
            self._chips.append(_Chip(number, npu, chip, f"NPU-{bus}"))

    @property
    def keys(self) -> tuple[str, ...]:
        """By number."""
        return tuple(chip.key for chip in sorted(self._chips, key=lambda chip: chip.number))

    def read(self, wait_s: float) -> tuple[DeviceReading, ...]:
        time.sleep(wait_s)  # nothing tells of a fault before it is asked
        commands: list[tuple[str, ...]] = []
        for chip in self._chips:
            commands += [("info", "-t", what, *chip.place) for what in ("health", "ecc", "temp")]
        texts = iter(self._ask(commands))
        readings = []
        for chip in self._chips:
            readings.append(_reading(chip, next(texts), next(texts), next(texts)))
        return tuple(readings)


def _reading(chip: _Chip, health: str, ecc: str, temperature: str) -> DeviceReading:
    uncorrected, corrected = _errors(chip, fields_in(ecc))
    faults = faults_in(health)
    new = tuple(fault for fault in faults if fault.code not in chip.present)
    chip.present = {fault.code for fault in faults}
    warmth = fields_in(temperature)
    degrees = warmth.get("NPU Temperature (C)", warmth.get("Temperature (C)", ""))
    return DeviceReading(
        chip.number,
        chip.key,
        new,
        uncorrected,
        corrected,
        _whole(fields_in(ecc), "HBM Double Bit Isolated Pages Count"),
        temperature_c=int(degrees) if degrees.isdigit() else None,
    )


def _errors(chip: _Chip, told: Mapping[str, str]) -> tuple[int, int]:
    uncorrected = _whole(told, "HBM Double Bit Error Count")
    corrected = _whole(told, "HBM Single Bit Error Count")
    if chip.counts is None:
        chip.counts = ErrorCounts(uncorrected, corrected)
    return chip.counts.since(uncorrected, corrected)


def _whole(told: Mapping[str, str], name: str) -> int:
    value = told.get(name, "")
    return int(value) if value.isdigit() else 0


def chips_in(text: str) -> list[tuple[int, str, str]]:
    """(logical number, NPU's, chip's) from `npu-smi info -m`; a chip that computes nothing, such as
    the board's own controller, has no logical number."""
    chips = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 3 and all(word.isdigit() for word in words[:3]):
            chips.append((int(words[2]), words[0], words[1]))
    return chips


def fields_in(text: str) -> dict[str, str]:
    """`NAME : VALUE` a line; the first line of a name counts."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(" :")
        if colon:
            found.setdefault(name.strip(), value.strip())
    return found


def faults_in(text: str) -> tuple[DeviceFault, ...]:
    """From `npu-smi info -t health`: its codes; where there is none, a state that is not as it
    should be."""
    told = fields_in(text)
    state = told.get("Health Status", "")
    consequence = _BY_HEALTH.get(state.upper(), "note")
    codes = [code for code in told.get("Error Code", "NA").split() if code != "NA"]
    if not codes:
        is_well = state in ("", "OK", "NA")
        return () if is_well else (DeviceFault(f"health {state}", "", consequence),)
    meaning = told.get("Error Information", "") if len(codes) == 1 else ""
    faults = []
    for code in codes:
        known = CODES.get(code.upper())
        faults.append(known or DeviceFault(code, meaning.removeprefix("NA"), consequence))
    return tuple(faults)
