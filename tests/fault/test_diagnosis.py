"""Who failed first, in which class, and why."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from dougong import errors
from dougong.control.worker_messages import WorkerRaised
from dougong.deadlines import DEADLINES
from dougong.errors import CorruptionError, PeerError
from dougong.fault.culprit import Culprit
from dougong.fault.diagnosis import diagnose, first_failure, settled
from dougong.fault.observation import AgentLost, Exited, Failure, Hung, LinkCut, NotStarted, Raised
from dougong.launcher.agent.worker_process import describe_error


def raised(error: BaseException, worker: str = "east/0") -> Raised:
    return Raised(worker, describe_error(error))


def own(name: str, message: str) -> Raised:
    known = getattr(errors, name, None)
    bases = tuple(one.__name__ for one in known.__mro__) if known else (name, "DougongError", "Exception")
    return Raised("a/0", WorkerRaised(name, bases, message, "..."))


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


TWO = ("a/0", "a/1")
LOST = AgentLost(Culprit("agent", "a"), "agent a on n: its connection ended", TWO)
CUT = LinkCut(Culprit("link", "n1 - n2"), "n1 and n2 do not reach each other", TWO, ("a", "b"), 0.7)


@pytest.mark.parametrize(
    ("failure", "kind", "cause"),
    [
        (Exited("a/0", -9), "crash", "SIGKILL from outside"),
        (Exited("a/0", -9, oom=True), "out_of_memory", "killed by the kernel"),
        (Exited("a/0", -9, oom=True, drill=True), "crash", "as its drill said"),
        (Exited("a/0", -15), "preemption", "SIGTERM"),
        (
            Exited("a/0", -11, last_lines=("Fatal Python error", "")),
            "crash",
            "SIGSEGV; its last line: Fatal Python error",
        ),
        (Exited("a/0", -64), "crash", "SIGRTMAX"),
        (Exited("a/0", 3), "crash", "exit status 3"),
        (Exited("a/0", 0), "crash", "left before its work was done"),
        (NotStarted("a/0", "cannot fork"), "crash", "cannot fork"),
        (LOST, "crash", "its connection ended"),
        (replace(LOST, is_silent=True), "hang", "its connection ended"),
        (replace(LOST, is_preempted=True), "preemption", "its connection ended"),
        (replace(LOST, culprit=Culprit("fork_server", "a")), "crash", "its connection ended"),
        (replace(LOST, culprit=Culprit("node", "n")), "node_lost", "its connection ended"),
        (CUT, "partition", "do not reach each other"),
        (Hung("a/0", "still at work"), "hang", "still at work"),
        (raised(ValueError("seven")), "exception", "ValueError: seven"),
        (raised(MemoryError()), "out_of_memory", "MemoryError"),
        (raised(OutOfMemoryError("CUDA")), "out_of_memory", "CUDA"),
        (raised(RuntimeError("DefaultCPUAllocator: can't allocate memory")), "out_of_memory", "DefaultCPUAllocator"),
        (raised(OSError(errno.ENOMEM, "Cannot allocate memory")), "out_of_memory", "allocate"),
        (raised(OSError(errno.ENOSPC, "No space left on device")), "storage", "No space left"),
        (raised(OSError(errno.EDQUOT, "quota")), "storage", "quota"),
        (raised(OSError(errno.ENOENT, "no space left of that name")), "exception", "that name"),
        (raised(RuntimeError("PytorchStreamWriter: No space left on device")), "storage", "No space left"),
        (raised(ValueError("the model is out of memory of its youth")), "exception", "youth"),
        (raised(torch.AcceleratorError("CUDA error: an illegal memory access was encountered")), "device", "illegal"),
        (raised(torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")), "device", "ECC"),
        (raised(torch.AcceleratorError("CUDA error: out of memory")), "out_of_memory", "memory"),
        (raised(torch.AcceleratorError("CUDA error: device-side assert triggered")), "exception", "assert"),
        (own("CheckpointError", "torn"), "storage", "torn"),
        (own("MisfitError", "another shape"), "model", "another shape"),
        (own("DataError", "empty"), "data", "empty"),
        (own("ModelError", "no router"), "model", "no router"),
        (own("NumericsError", "step 7: loss nan"), "numerics", "step 7: loss nan"),
    ],
)
def test_every_kind_of_failure_has_its_class_and_cause(failure: Failure, kind: str, cause: str) -> None:
    diagnosis = diagnose(failure)
    assert (diagnosis.culprit, diagnosis.kind) == (failure.culprit, kind)
    assert cause in diagnosis.cause


@pytest.mark.parametrize(
    ("failure", "known_by"),
    [
        (raised(ValueError("seven")), "ValueError"),
        (raised(MemoryError()), "MemoryError"),
        (Exited("a/0", -9, oom=True), "SIGKILL"),
        (raised(torch.AcceleratorError("CUDA error: an illegal memory access")), "AcceleratorError"),
        # What comes from outside may come twice by chance.
        (raised(torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")), None),
        (raised(RuntimeError("wait timeout after 120000ms, keys: a")), None),
        (Exited("a/0", -9), None),
        (Exited("a/0", -15), None),
        (Exited("a/0", -11), None),
        (Exited("a/0", -9, oom=True, drill=True), None),
        (LOST, None),
        (CUT, None),
        (Hung("a/0", "still at work"), None),
        (raised(PeerError("closed")), None),
        (raised(ConnectionResetError("closed")), None),
        (raised(TimeoutError("no answer")), None),
        (raised(OSError(errno.ENOSPC, "No space left on device")), None),
        (own("CheckpointError", "torn"), None),
    ],
)
def test_what_is_known_when_it_comes_again(failure: Failure, known_by: str | None) -> None:
    origin = diagnose(failure).origin
    assert (origin.type if origin else None) == known_by


def test_what_was_seen_and_since_when_stays_with_the_name() -> None:
    assert (diagnose(CUT).evidence, diagnose(CUT).latency_s) == (("a", "b"), 0.7)
    hung = Hung("a/0", "stopped", ("state T",), 3.1)
    assert (diagnose(hung).evidence, diagnose(hung).latency_s) == (("state T",), 3.1)


def test_an_error_keeps_its_traceback() -> None:
    with pytest.raises(KeyError) as caught:
        {}["router"]
    assert '{}["router"]' in diagnose(raised(caught.value)).detail


ECHO = raised(PeerError("Connection closed by peer"), "east/0")
ABORT = Exited("west/0", -6)
DEATH = Exited("east/1", -9)


@pytest.mark.parametrize(
    ("observed", "first", "others"),
    [
        ([ECHO, DEATH], DEATH, (ECHO,)),
        ([ECHO, ABORT, DEATH], DEATH, (ECHO, ABORT)),
        ([ECHO, ABORT], ABORT, (ECHO,)),
        ([ABORT, ECHO], ABORT, (ECHO,)),
        ([ECHO], ECHO, ()),
        ([DEATH, Exited("west/1", -11)], DEATH, (Exited("west/1", -11),)),
    ],
)
def test_the_first_of_its_own_comes_before_an_abort_and_that_before_a_lost_peer(
    observed: Sequence[Failure], first: Failure, others: tuple[Failure, ...]
) -> None:
    assert first_failure(observed) == (first, others)


def late(worker: str, *waited_for: str) -> Raised:
    error = PeerError(f"waited for {', '.join(waited_for)}")
    error.waited_for = waited_for
    return raised(error, worker)


@pytest.mark.parametrize(
    ("observed", "first"),
    [
        ([late("east/0", "east/1", "west/0"), late("east/1", "west/0")], "west/0"),
        ([late("east/0", "west/0"), late("west/0", "east/0")], "east/0"),  # nobody is left to be named
        ([late("east/0", "west/0"), ECHO], "east/0"),
        ([late("east/0", "west/0"), DEATH], "east/1"),
    ],
)
def test_where_all_have_waited_in_vain_the_culprit_is_who_has_waited_for_nobody(
    observed: list[Failure], first: str
) -> None:
    named, others = first_failure(observed)
    assert named.culprit.name == first
    if first == "west/0":
        assert diagnose(named).kind == "hang" and others == tuple(observed)


@pytest.mark.parametrize(
    ("failures", "waited_s", "workers", "expected"),
    [
        ([DEATH], 0.0, 2, True),
        ([ECHO], 0.0, 2, False),
        ([ABORT], 0.0, 2, False),
        ([ECHO], DEADLINES.consequence_s, 2, True),
        ([ABORT], DEADLINES.consequence_s, 2, True),
        ([ECHO, DEATH], 0.0, 3, True),
        ([ABORT, DEATH], 0.0, 3, True),
        ([ECHO, ABORT], 0.0, 3, False),
        ([ECHO], 0.0, 1, True),
        ([replace(LOST, workers=TWO)], 0.0, 2, True),
    ],
)
def test_what_may_be_a_consequence_is_waited_out_and_nothing_else(
    failures: list[Failure], waited_s: float, workers: int, expected: bool
) -> None:
    assert settled(failures, waited_s, workers, DEADLINES) is expected


def test_who_is_accused_of_wrong_numbers_is_named_and_not_who_tells() -> None:
    one, two = CorruptionError("step 3: x", ("a/1",)), CorruptionError("step 3: x", ("a/1", "a/0"))
    found = diagnose(raised(one))
    assert (found.culprit, found.kind, found.origin) == (Culprit("worker", "a/1"), "corruption", None)
    assert diagnose(raised(two)).culprit == Culprit("link", "a/1 and a/0"), "between which it happened"
