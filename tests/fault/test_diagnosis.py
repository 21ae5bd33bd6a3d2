"""Who failed first, in which class, and why."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from dougong.fault.diagnosis import CONSEQUENCE_S, Fact, diagnose, first_failure, is_echo, settled
from dougong.launcher.agent.worker_process import describe_error


def raised(error: BaseException, worker: str = "east/0") -> Fact:
    return Fact(worker, error=asdict(describe_error(error)))


def own(name: str, message: str) -> dict[str, Any]:
    return {"type": name, "bases": [name, "DougongError", "Exception"], "message": message, "traceback": "..."}


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


@pytest.mark.parametrize(
    ("fact", "kind", "cause"),
    [
        (Fact("a/0", -9), "crash", "SIGKILL from outside"),
        (Fact("a/0", -9, oom=True), "out_of_memory", "killed by the kernel"),
        (Fact("a/0", -9, oom=True, drill=True), "crash", "as its drill said"),
        (Fact("a/0", -15), "preemption", "SIGTERM"),
        (
            Fact("a/0", -11, last_lines=("Fatal Python error", "")),
            "crash",
            "SIGSEGV; its last line: Fatal Python error",
        ),
        (Fact("a/0", -64), "crash", "SIGRTMAX"),
        (Fact("a/0", 3), "crash", "exit status 3"),
        (Fact("a/0", 0), "crash", "left before its work was done"),
        (Fact("a/0", 1, text="cannot fork"), "crash", "cannot fork"),
        (Fact("a/0", lost="agent a on n: no heartbeat"), "node_lost", "no heartbeat"),
        (Fact("a/0", hung="still at work"), "hang", "still at work"),
        (raised(ValueError("seven")), "exception", "ValueError: seven"),
        (raised(MemoryError()), "out_of_memory", "MemoryError"),
        (raised(OutOfMemoryError("CUDA")), "out_of_memory", "CUDA"),
        (raised(RuntimeError("DefaultCPUAllocator: can't allocate memory")), "out_of_memory", "DefaultCPUAllocator"),
        (raised(OSError(28, "No space left on device")), "storage", "No space left"),
        (Fact("a/0", error=own("CheckpointError", "torn")), "storage", "torn"),
        (Fact("a/0", error=own("DataError", "empty")), "data", "empty"),
        (Fact("a/0", error=own("ModelError", "no router")), "model", "no router"),
    ],
)
def test_every_kind_of_failure_has_its_class_and_cause(fact: Fact, kind: str, cause: str) -> None:
    diagnosis = diagnose(fact)
    assert (diagnosis.worker, diagnosis.kind) == (fact.worker, kind)
    assert cause in diagnosis.cause


def test_an_error_keeps_its_traceback() -> None:
    with pytest.raises(KeyError) as caught:
        {}["router"]
    assert '{}["router"]' in diagnose(raised(caught.value)).detail


@pytest.mark.parametrize(
    "text",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:4242",
        "Read error [10.0.0.2]:4242: Connection reset by peer",
        "Timed out waiting 1800000ms for recv operation to complete",
        "writev [127.0.0.1]:23: Broken pipe",
        "worker 1 of 2 could not join generation 3 at 10.0.0.1:4000",
    ],
)
def test_a_broken_connection_is_an_echo(text: str) -> None:
    assert is_echo(raised(RuntimeError(text)))
    assert is_echo(Fact("a/0", -6, last_lines=("terminate called after throwing", text)))


@pytest.mark.parametrize(
    "fact",
    [
        raised(ValueError("x")),
        Fact("a/0", -9),
        Fact("a/0", -11, last_lines=("Connection closed by peer",)),
        Fact("a/0", lost="its connection ended"),
    ],
)
def test_a_failure_of_its_own_is_no_echo(fact: Fact) -> None:
    assert not is_echo(fact)


ECHO = raised(RuntimeError("Connection closed by peer"), "east/0")
DEATH = Fact("east/1", -9)


def test_the_first_own_failure_comes_before_earlier_echoes() -> None:
    first, others = first_failure([ECHO, DEATH])
    assert first is DEATH
    assert others == (ECHO,)
    assert first_failure([ECHO])[0] is ECHO


@pytest.mark.parametrize(
    ("facts", "waited_s", "workers", "expected"),
    [
        ([], 9.0, 2, False),
        ([DEATH], 0.0, 2, True),
        ([ECHO], 0.0, 2, False),
        ([ECHO], CONSEQUENCE_S, 2, True),
        ([ECHO, DEATH], 0.0, 3, True),
        ([ECHO], 0.0, 1, True),
    ],
)
def test_an_echo_is_waited_out_and_nothing_else(
    facts: list[Fact], waited_s: float, workers: int, expected: bool
) -> None:
    assert (bool(facts) and settled(facts, waited_s, workers)) is expected
