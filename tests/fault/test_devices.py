"""From what devices tell to suspicions, and to who has failed."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.accelerators.telemetry.reading import DeviceFault, DeviceReading
from dougong.accelerators.telemetry.xid import xid
from dougong.control.worker_messages import WorkerRaised
from dougong.deadlines import DEADLINES
from dougong.fault.culprit import Culprit
from dougong.fault.devices import DeviceWatch, blamed, may_be_the_device_s
from dougong.fault.diagnosis import Diagnosis, Origin, diagnose
from dougong.fault.observation import DeviceFailed, Exited, Failure, Hung, Raised
from dougong.fault.suspicion import Sign

GPU = Culprit("device", "GPU-1", "node1")
WORKER = "east/1"


def reading(*codes: int, **more: Any) -> DeviceReading:
    return DeviceReading(1, "GPU-1", tuple(xid(code) for code in codes), **more)


def watch(*readings: DeviceReading, every_s: float = 1.0) -> DeviceWatch:
    """One that has been told these, from second 0 on."""
    made = DeviceWatch()
    for number, one in enumerate(readings):
        made.note(GPU, WORKER, one, number * every_s)
    return made


def test_a_fault_of_the_device_is_suspected_with_its_evidence() -> None:
    made = watch(reading(), reading(94, temperature_c=71), reading(temperature_c=72))
    (suspicion,) = made.suspicions(2.5)
    assert (suspicion.culprit, suspicion.sign, suspicion.since_s) == (GPU, Sign.DEVICE, 1.5)
    assert suspicion.why.startswith("Xid 94 (an uncorrectable error")
    assert suspicion.evidence == ("east/1 computes on it", "72 C")
    assert suspicion.limit == "a failure of east/1"
    assert not suspicion.is_due, "a worker that goes on is let alone"


def test_it_is_forgotten_when_nothing_has_come_of_it() -> None:
    made = watch(reading(94))
    late = DEADLINES.device_blame_s + 1.0
    made.note(GPU, WORKER, reading(), late)
    assert made.suspicions(late) == () and made.blame(WORKER, late) is None


def test_a_device_that_says_nothing_any_more_is_not_suspected_of_what_it_was() -> None:
    made = watch(reading(94))
    assert made.suspicions(DEADLINES.telemetry_silence_s + 1.0) == ()


def test_new_uncorrectable_errors_of_its_memory() -> None:
    made = watch(reading(), reading(uncorrected=2))
    blame = made.blame(WORKER, 1.0)
    assert blame is not None and blame.facts == ("uncorrectable errors of its memory: 2 since the run began",)
    assert not blame.is_final
    assert watch(reading(corrected=900)).blame(WORKER, 0.0) is None


@pytest.mark.parametrize(
    ("reasons", "why"),
    [
        (("thermal",), "runs slower, as it is too hot"),
        (("hardware",), "is slowed down by its board"),
        (("power",), None),
        ((), None),
    ],
)
def test_a_slow_device_is_suspected_as_long_as_it_is_and_never_acted_on(reasons: Any, why: str | None) -> None:
    made = watch(reading(), reading(throttling=reasons), reading(throttling=reasons))
    found = made.suspicions(3.0)
    assert [(one.why, one.since_s, one.limit) for one in found] == ([(why, 2.0, "")] if why else [])
    assert not any(one.is_due for one in found)
    assert made.blame(WORKER, 3.0) is None
    made.note(GPU, WORKER, reading(), 3.0)
    assert made.suspicions(3.0) == ()


def test_remarks_are_told_once() -> None:
    made = DeviceWatch()
    said = made.note(GPU, WORKER, reading(31, 63, throttling=("power",), awaits_reset=True), 0.0)
    assert [text.partition(": ")[2].partition(" (")[0] for text in said] == [
        "Xid 31",
        "Xid 63",
        "rows of its memory are replaced at its next reset",
        "runs at its limit of power, as is usual under load",
    ]
    assert said[0].startswith("device GPU-1 on node1 (east/1): ")
    assert made.note(GPU, WORKER, reading(31, 63, throttling=("power",), awaits_reset=True), 1.0) == ()
    assert made.suspicions(1.0) == () and made.blame(WORKER, 1.0) is None
    assert made.note_problem("east", "no driver") and not made.note_problem("east", "no driver")


@pytest.mark.parametrize("code", [79, 48, 95, 119])
def test_a_device_that_nobody_can_use_has_failed_by_itself(code: int) -> None:
    made = watch(reading(94), reading(code))
    (blame,) = made.unusable(1.5)
    failure = blame.failure(1.5)
    assert (failure.culprit, failure.workers, failure.is_final) == (GPU, (WORKER,), True)
    diagnosis = diagnose(failure)
    assert (diagnosis.kind, diagnosis.is_final, diagnosis.origin) == ("device", True, None)
    assert diagnosis.cause == str(xid(code)), "the gravest is the cause, whatever came before"
    assert diagnosis.evidence == ("east/1 computes on it", str(xid(94)))
    assert diagnosis.latency_s == 1.5
    late = made.unusable(9 * DEADLINES.device_blame_s)
    assert [one.device for one in late] == [GPU], "that does not pass with time"
    made.forget(WORKER)
    assert made.unusable(1.5) == () and made.worker_on(GPU) is None


def test_a_failure_soon_after_is_the_devices() -> None:
    made = watch(reading(94))
    origin = Origin("AcceleratorError", "step.py:9")
    error = Diagnosis(Culprit("worker", WORKER), "exception", "AcceleratorError: CUDA error", "traceback", origin)
    found = blamed(error, made.blame(WORKER, 1.0))
    assert (found.culprit, found.kind, found.is_final, found.origin) == (GPU, "device", False, None)
    assert found.cause == f"{xid(94)}; east/1 ended of it: AcceleratorError: CUDA error"
    assert (found.detail, found.evidence) == ("traceback", ("east/1 computes on it",))
    assert made.worker_on(GPU) == WORKER


@pytest.mark.parametrize("kind", ["data", "model", "numerics", "preemption", "out_of_memory", "storage"])
def test_what_a_device_cannot_have_caused_stays_as_it_is(kind: Any) -> None:
    diagnosis = Diagnosis(Culprit("worker", WORKER), kind, "cause")
    assert blamed(diagnosis, watch(reading(94)).blame(WORKER, 1.0)) == diagnosis


def test_a_program_error_is_not_the_devices() -> None:
    diagnosis = Diagnosis(Culprit("worker", WORKER), "exception", "cause")
    assert blamed(diagnosis, watch(reading(13, 31, 43)).blame(WORKER, 1.0)) == diagnosis
    agent = Diagnosis(Culprit("agent", "east"), "crash", "cause")
    assert blamed(agent, watch(reading(94)).blame(WORKER, 1.0)) == agent


def raised(*bases: str) -> Raised:
    return Raised(WORKER, WorkerRaised(bases[0], bases, "CUDA error: unspecified launch failure"))


@pytest.mark.parametrize(
    ("failure", "may_be"),
    [
        (raised("AcceleratorError", "RuntimeError"), True),
        (raised("PeerError", "DougongError", "RuntimeError"), False),
        (raised("ValueError"), False),
        (Exited(WORKER, -6), True),
        (Exited(WORKER, -11), True),
        (Exited(WORKER, -9), False),
        (Exited(WORKER, -11, drill=True), False),
        (Exited(WORKER, 1), False),
        (Hung(WORKER, "stands still"), False),
        (DeviceFailed(WORKER, GPU, "Xid 79"), False),
    ],
)
def test_whose_device_is_asked_before_a_failure_is_named(failure: Failure, may_be: bool) -> None:
    assert may_be_the_device_s(failure) is may_be


def test_the_devices_word_is_awaited_for_a_moment() -> None:
    made = watch(reading(), reading())
    assert not made.has_word_on(WORKER, failed_at=1.2, now=1.3)
    made.note(GPU, WORKER, reading(94), 1.4)
    assert made.has_word_on(WORKER, failed_at=1.2, now=1.4)
    assert made.has_word_on(WORKER, failed_at=2.0, now=2.1 + DEADLINES.device_word_s)
    assert made.has_word_on("west/0", failed_at=1.2, now=1.2), "nobody reads its device"


def test_words_of_the_vendors_library_for_a_device_that_is_broken() -> None:
    error = WorkerRaised("AcceleratorError", ("AcceleratorError", "RuntimeError"), "", place="step.py:9")
    for words in ("CUDA error: uncorrectable ECC error encountered", "CUDA error: hardware stack error"):
        found = diagnose(Raised(WORKER, WorkerRaised(error.type, error.bases, words, place=error.place)))
        assert (found.kind, found.origin) == ("device", None)


def test_a_code_of_another_vendor_counts_by_what_follows_from_it() -> None:
    fault = DeviceFault("80E18402", "no more rows", "give_up")
    (blame,) = watch(DeviceReading(0, "NPU-1", (fault,))).unusable(0.0)
    assert blame.facts == ("80E18402 (no more rows)",)
