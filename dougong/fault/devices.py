"""What devices have told of themselves, what of it is worth a word, and which failures follow from
it. Pure: time is passed in.

A reading is no failure: a worker that goes on is let alone, whatever its device says, unless nobody
can use the device any more. But when a worker fails soon after its device has told of a fault, the
device is what failed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dougong.accelerators.telemetry.reading import DeviceFault, DeviceReading, Throttling
from dougong.deadlines import DEADLINES
from dougong.fault.culprit import Culprit
from dougong.fault.diagnosis import Diagnosis
from dougong.fault.observation import DeviceFailed, Exited, Failure, Raised, may_follow
from dougong.fault.suspicion import Sign, Suspicion

_OF_DEVICE = ("worker", "reset", "give_up")
"""Consequences of codes by which a worker fails through no fault of its own."""
_UNUSABLE = ("reset", "give_up")
_SLOWED: Mapping[Throttling, str] = {
    "thermal": "runs slower, as it is too hot",
    "hardware": "is slowed down by its board",
}
_AT_LIMIT = "runs at its limit of power, as is usual under load"
_MAY_FOLLOW = ("crash", "exception", "hang", "device")
"""Classes of a worker's failure that a device may have caused."""
_SIGNALS = (6, 7, 11)  # SIGABRT, SIGBUS, SIGSEGV: what a vendor's library ends a process with


@dataclass(frozen=True)
class Blame:
    """A device that has told of a fault. `facts`: what it has told, in words; `first_at`: when the
    first of them was told; `is_final`: nobody can use it any more."""

    device: Culprit
    worker: str
    facts: tuple[str, ...]
    first_at: float
    is_final: bool = False

    def failure(self, now: float) -> DeviceFailed:
        """That it has failed, by itself."""
        latency_s = round(now - self.first_at, 3)
        reason, *others = self.facts
        evidence = (f"{self.worker} computes on it", *others)
        return DeviceFailed(self.worker, self.device, reason, evidence, latency_s, self.is_final)


@dataclass
class _Told:
    """What one device has told. `faults`: when each code came last, of those that say something
    against it; `uncorrected_at`: when there was an uncorrectable error last; `slow_since`: since
    when it is slowed down by its state."""

    worker: str
    reading: DeviceReading
    seen_at: float
    faults: dict[DeviceFault, float] = field(default_factory=dict)
    uncorrected_at: float = -math.inf
    slow_since: float | None = None

    def take(self, worker: str, reading: DeviceReading, now: float) -> None:
        if reading.uncorrected > self.reading.uncorrected:
            self.uncorrected_at = now
        for fault in reading.faults:
            if fault.consequence in _OF_DEVICE:
                self.faults[fault] = now
        is_slow = any(reason in _SLOWED for reason in reading.throttling)
        if not is_slow:
            self.slow_since = None
        elif self.slow_since is None:
            self.slow_since = now
        self.worker, self.reading, self.seen_at = worker, reading, now

    def blame(self, device: Culprit, now: float) -> Blame | None:
        """What it can be blamed for now."""
        since = now - DEADLINES.device_blame_s
        times: list[float] = []
        facts: list[str] = []
        is_final = False
        for fault, at in self.faults.items():
            is_unusable = fault.consequence in _UNUSABLE
            if is_unusable or at >= since:  # what ends a device does not pass with time
                times.append(at)
                # The gravest first: it becomes the cause.
                facts.insert(0 if is_unusable else len(facts), str(fault))
                is_final |= is_unusable
        if self.uncorrected_at >= since:
            times.append(self.uncorrected_at)
            count = self.reading.uncorrected
            facts.append(f"uncorrectable errors of its memory: {count} since the run began")
        if not facts:
            return None
        return Blame(device, self.worker, tuple(facts), min(times), is_final)

    def suspicion(self, device: Culprit, now: float) -> Suspicion | None:
        evidence = [f"{self.worker} computes on it"]
        if self.reading.temperature_c is not None:
            evidence.append(f"{self.reading.temperature_c} C")
        slow = [_SLOWED[reason] for reason in self.reading.throttling if reason in _SLOWED]
        blame = self.blame(device, now)
        if blame is not None:
            why, *others = blame.facts
            limit = f"a failure of {self.worker}"
            told = (*others, *slow, *evidence)
            return _suspicion(device, why, now - blame.first_at, limit, told)
        if self.slow_since is not None:
            why, *others = slow
            return _suspicion(device, why, now - self.slow_since, "", (*others, *evidence))
        return None


def _suspicion(
    device: Culprit, why: str, since_s: float, limit: str, evidence: tuple[str, ...]
) -> Suspicion:
    return Suspicion(device, Sign.DEVICE, why, since_s, math.inf, limit, evidence)


@dataclass
class DeviceWatch:
    """All devices that have told anything, by what they are called as culprits. Outlives
    generations."""

    _told: dict[Culprit, _Told] = field(default_factory=dict)
    _device_of: dict[str, Culprit] = field(default_factory=dict)
    _remarks: set[tuple[str, str]] = field(default_factory=set)

    def note(
        self, device: Culprit, worker: str, reading: DeviceReading, now: float
    ) -> tuple[str, ...]:
        """Take a reading in; what a person is told of it once."""
        told = self._told.get(device)
        if told is None:
            told = self._told[device] = _Told(worker, DeviceReading(reading.number, ""), now)
        told.take(worker, reading, now)
        self._device_of[worker] = device
        texts = [text for text in _remarks(reading) if self._is_new(str(device), text)]
        return tuple(f"{device} ({worker}): {text}" for text in texts)

    def note_problem(self, agent: str, text: str) -> bool:
        """Nobody reads the devices of an agent; whether that is news."""
        return self._is_new(agent, text)

    def _is_new(self, who: str, text: str) -> bool:
        is_new = (who, text) not in self._remarks
        self._remarks.add((who, text))
        return is_new

    def forget(self, worker: str) -> None:
        """A worker's device is not used any more."""
        device = self._device_of.pop(worker, None)
        if device is not None:
            self._told.pop(device, None)

    def absolve(self, device: Culprit) -> None:
        """It has failed of what it has told: that counts no second time."""
        told = self._told.get(device)
        if told is not None:
            told.faults.clear()
            told.uncorrected_at = -math.inf

    def device_of(self, worker: str) -> Culprit | None:
        """On which it computes; None where nobody reads its device."""
        return self._device_of.get(worker)

    def worker_on(self, device: Culprit) -> str | None:
        """Who computes on it."""
        users = self._device_of.items()
        return next((worker for worker, used in users if used == device), None)

    def suspicions(self, now: float) -> tuple[Suspicion, ...]:
        """What is suspected of devices that are still heard of."""
        found = []
        for device, told in self._told.items():
            is_fresh = now - told.seen_at <= DEADLINES.telemetry_silence_s
            suspicion = told.suspicion(device, now) if is_fresh else None
            if suspicion is not None:
                found.append(suspicion)
        return tuple(found)

    def unusable(self, now: float) -> tuple[Blame, ...]:
        """Devices that nobody can use any more, and that are in use."""
        found = []
        for worker in self._device_of:
            blame = self.blame(worker, now)
            if blame is not None and blame.is_final:
                found.append(blame)
        return tuple(found)

    def blame(self, worker: str, now: float) -> Blame | None:
        """What a worker's device can be blamed for now."""
        device = self._device_of.get(worker)
        return None if device is None else self._told[device].blame(device, now)

    def has_word_on(self, worker: str, failed_at: float, now: float) -> bool:
        """Whether its device has had the time to say why a worker has failed; yes where none says
        anything."""
        device = self._device_of.get(worker)
        if device is None or now - failed_at > DEADLINES.device_word_s:
            return True
        told = self._told[device]
        return told.seen_at > failed_at or told.blame(device, now) is not None


def unusable(reading: DeviceReading) -> DeviceFault | None:
    """Why nobody can use the device any more; None where it can be used."""
    told = (fault for fault in reading.faults if fault.consequence in _UNUSABLE)
    return next(told, None)


def may_be_the_device_s(failure: Failure) -> bool:
    """Whether a device may have caused it, so that its word is awaited."""
    match failure:
        case Raised(_, error):
            return "RuntimeError" in error.bases and not may_follow(failure)
        case Exited(_, code, drill=False):
            return -code in _SIGNALS
        case _:
            return False


def blamed(diagnosis: Diagnosis, blame: Blame | None) -> Diagnosis:
    """The diagnosis of a worker's failure, with the device as its culprit where that has told of a
    fault."""
    if blame is None or diagnosis.kind not in _MAY_FOLLOW or not diagnosis.worker:
        return diagnosis
    first, *others = blame.facts
    evidence = (f"{diagnosis.worker} computes on it", *others, *diagnosis.evidence)
    return Diagnosis(
        blame.device,
        "device",
        f"{first}; {diagnosis.worker} ended of it: {diagnosis.cause}",
        diagnosis.detail,
        evidence=evidence,
        latency_s=diagnosis.latency_s,
        is_final=blame.is_final,
    )


def pointed_at(diagnosis: Diagnosis, device: Culprit | None) -> Diagnosis:
    """The diagnosis of numbers that are wrong on a worker, with its device as the culprit where
    that is known by a name."""
    if device is None:
        return diagnosis
    evidence = (f"{diagnosis.worker} computes on it", *diagnosis.evidence)
    return replace(diagnosis, culprit=device, evidence=evidence)


def _remarks(reading: DeviceReading) -> list[str]:
    """What is told of a reading once, and asks for nothing."""
    texts = []
    for fault in reading.faults:
        if fault.consequence == "program":
            texts.append(f"{fault}: as a rule the program's doing, not the device's")
        elif fault.consequence == "note":
            texts.append(str(fault))
    if reading.awaits_reset:
        texts.append("rows of its memory are replaced at its next reset")
    if "power" in reading.throttling:
        texts.append(_AT_LIMIT)
    return texts
