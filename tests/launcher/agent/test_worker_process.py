"""What runs in a forked process, and how it ends: each in a real fork of this test."""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
import threading
from pathlib import Path

import pytest
from dougong.control.fork_messages import ForkRequest
from dougong.control.messages import JoinGeneration, LeaveGeneration, Message
from dougong.control.run_sources import RunSources, digests_of
from dougong.control.tasks import FingerprintTask, InspectTask, Task, TrainTask
from dougong.control.worker_api import WorkerContext
from dougong.control.worker_messages import (
    FingerprintFound,
    ModelFound,
    WorkerDone,
    WorkerLeft,
    WorkerMessage,
    WorkerRaised,
    WorkerRests,
    WorkerWarning,
)
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import DeviceError, JobError, LaunchError, PeerError, RestError
from dougong.fingerprint.cache import Probing
from dougong.fingerprint.record import Fingerprint, JobShapes
from dougong.job.drills.drill import Drill
from dougong.job.schema import Job
from dougong.job.settled import is_settled
from dougong.launcher.agent.child import Child
from dougong.launcher.agent.worker_process import describe_error, resolve, run_child
from dougong.parallel.plan import Inventory, Seat, make_plan
from dougong.storage.worker_log import WorkerLog
from dougong.storage.writer import StorageWriter
from dougong.training.start.preflight import Inspection
from tests.launcher.toyrun import toy_job

JOB = Job.model_validate(toy_job(steps=7))
INVENTORY = Inventory("toy", (), (), 16, ())
PLAN = make_plan(4, INVENTORY, [Seat(f"east/{i}", "east", "both", "n", f"cpu:{i}") for i in range(2)])
HERE = "tests.launcher.agent.test_worker_process"
SHAPES = JobShapes(((2, 3),), (1, 7), 2, 8, 16, 16, 32, 4, 256)


class Forked:
    """A worker process as its agent sees it, without a fork server."""

    def __init__(self, task: Task, log: Path, deadlines: Deadlines = DEADLINES) -> None:
        self._logs = StorageWriter("logs")
        self.child = Child.open("east/1", 3, task, WorkerLog(log, self._logs), DEADLINES)
        self.log = log
        pid = os.fork()
        if pid == 0:
            os.close(self.child.channel.fileno())
            request = ForkRequest(1, 3, "east/1", "10.0.0.2", task)
            try:
                run_child(request, list(self.child.worker_ends), deadlines)
            finally:
                os._exit(99)
        self.child.close_worker_ends()
        self.pid = pid

    def printed(self) -> str:
        """What its log holds by now."""
        self.child.read_output()
        assert self._logs.settle(10) is None
        return self.log.read_text()

    def status(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def messages(self) -> list[Message]:
        found = []
        while True:
            try:
                found.append(self.child.channel.receive(30))
            except EOFError:
                return found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "0.log"


def train_task(entry: str, **changes: object) -> TrainTask:
    drills = (Drill(at_step=2, kill="east/0"), Drill(at_step=4, kill="east/1"))
    fields = {"resume": "/runs/toy/checkpoints/step-000005", "drills": drills, **changes}
    return TrainTask(f"{HERE}:{entry}", JOB, PLAN, "/runs/toy", console="east/0", **fields)  # type: ignore[arg-type]


def report_context(context: WorkerContext) -> None:
    """Say all that one was given."""
    words = [
        context.worker.name,
        str(context.generation),
        str(context.run_dir),
        str(context.resume),
        context.address,
        ",".join(str(drill.at_step) for drill in context.drills),
        str(context.job == JOB and context.plan == PLAN),
    ]
    context.control.progress(5, "update", 2)
    context.control.send(WorkerWarning(" ".join(words)))
    print("printed")


@pytest.mark.parametrize("resume", ["/runs/toy/checkpoints/step-000005", None])
def test_a_training_worker_is_given_its_own_share(log: Path, resume: str | None) -> None:
    forked = Forked(train_task("report_context", resume=resume), log)
    words = f"east/1 3 /runs/toy {resume} 10.0.0.2 4 True"
    assert forked.messages() == [WorkerWarning(words), WorkerDone()]
    assert forked.status() == 0
    progress = forked.child.vector.read()
    assert (progress.step, progress.phase, progress.operation) == (5, "update", 2)
    assert forked.printed() == "printed\n"


def stop_when_asked(context: WorkerContext) -> None:
    while not context.control.stop_requested:
        pass


def test_a_stop_reaches_a_training_worker(log: Path) -> None:
    forked = Forked(train_task("stop_when_asked"), log)
    forked.child.vector.request_stop()
    assert forked.messages() == [WorkerDone()]
    assert forked.status() == 0


def inspect(job: Job, known: RunSources | None = None) -> Inspection:
    return Inspection(INVENTORY, {"name": job.data.text, "digest": "d"}, SHAPES)


def test_a_look_answers_with_what_it_found(log: Path) -> None:
    forked = Forked(InspectTask(f"{HERE}:inspect", JOB), log)
    (found,) = forked.messages()
    assert isinstance(found, ModelFound)
    assert (found.inventory, found.data) == (INVENTORY, {"name": "stdlib", "digest": "d"})
    assert found.shapes is not None
    assert JobShapes.from_json(found.shapes) == SHAPES


def report_job(context: WorkerContext) -> None:
    context.control.send(WorkerWarning(f"{is_settled(context.job.model)} {context.job.data.tokenizer}"))


@pytest.mark.parametrize(("is_there", "used"), [(True, "{file}"), (False, "/run/tokenizer/t.json")])
def test_a_worker_of_a_run_that_has_begun_reads_what_the_run_has_kept(log: Path, is_there: bool, used: str) -> None:
    file = log.with_name("t.json")
    file.write_text("{}")
    sources = RunSources({"hidden_size": 8}, "a.B", "d", tokenizer=digests_of([file]))
    if not is_there:
        file.unlink()
    job = JOB.model_copy(update={"data": JOB.data.model_copy(update={"tokenizer": str(file)})})
    task = train_task("report_job", sources=sources, tokenizer="/run/tokenizer/t.json")
    told = Forked(dataclasses.replace(task, job=job), log).messages()[0]
    assert told == WorkerWarning(f"True {used.format(file=file)}")


def probe(probing: Probing) -> Fingerprint:
    words = f"{probing.accelerator} {probing.index} {probing.worker} {probing.shapes == SHAPES}"
    return Fingerprint({"adding": words}, "toy", {})


def test_a_probe_is_told_its_device(log: Path) -> None:
    devices = {"east/0": "cuda:0", "east/1": "cuda:7"}
    (looked,) = Forked(InspectTask(f"{HERE}:inspect", JOB), log).messages()
    assert isinstance(looked, ModelFound)
    forked = Forked(FingerprintTask(f"{HERE}:probe", JOB, devices, looked.shapes), log)
    (found,) = forked.messages()
    assert isinstance(found, FingerprintFound)
    assert Fingerprint.from_json(found.fingerprint).probes == {"adding": "cuda 7 east/1 True"}


def raise_error(context: WorkerContext) -> None:
    raise LaunchError("east/0: sent what nobody expects")


def make_mistake(context: WorkerContext) -> None:
    raise JobError("job.yaml:3: steps: 0 is not positive")


def miss_a_device(context: WorkerContext) -> None:
    raise DeviceError("accelerator npu: torch_npu does not load; install CANN")


def leave(context: WorkerContext) -> None:
    sys.exit(3)


def test_an_exception_is_told_with_all_its_classes(log: Path) -> None:
    forked = Forked(train_task("raise_error"), log)
    (raised,) = forked.messages()
    assert isinstance(raised, WorkerRaised)
    assert (raised.type, raised.message, raised.errno) == ("LaunchError", "east/0: sent what nobody expects", None)
    assert raised.bases[:3] == ("LaunchError", "DougongError", "Exception")
    assert "in raise_error" in raised.traceback and not raised.stays
    assert forked.status() == 1


def lose_peer(context: WorkerContext) -> None:
    """In its first generation; in the next one it says what it finds."""
    if context.generation == 3:
        context.kept.keep("kept")

        def leave() -> int:
            context.control.send(WorkerWarning("never"))
            return 12

        context.control.at_leaving(lambda: None, leave)
        raise PeerError("east/0: connection reset")
    kept = context.kept.get(str)
    context.control.send(WorkerWarning(f"{os.getpid()} {context.generation} {context.address} {kept}"))


def test_a_worker_that_has_lost_a_peer_goes_over_to_the_next_generation(log: Path) -> None:
    """In one process, with what it keeps; what a thread of the old generation says by then is heard by nobody."""
    forked = Forked(train_task("lose_peer"), log)
    agent = forked.child.channel
    raised = agent.receive(30)
    assert isinstance(raised, WorkerRaised) and (raised.type, raised.stays) == ("PeerError", True)
    agent.send(LeaveGeneration(3))
    assert agent.receive(30) == WorkerLeft(12)
    progress = forked.child.vector.read()
    assert (progress.step, progress.phase) == (0, "start")
    agent.send(JoinGeneration(5, train_task("lose_peer"), "10.0.0.9"))
    assert forked.messages() == [WorkerWarning(f"{forked.pid} 5 10.0.0.9 kept"), WorkerDone()]
    assert forked.status() == 0
    assert forked.printed() == "PeerError: east/0: connection reset\n"


def rest_once(context: WorkerContext) -> None:
    """As a worker whose generation is to end after a step."""
    if context.generation == 3:
        context.control.at_leaving(lambda: None, lambda: 7)
        raise RestError("generation 3 ends after step 7")


def test_a_worker_that_rests_has_failed_nothing_and_goes_on(log: Path) -> None:
    forked = Forked(train_task("rest_once"), log)
    agent = forked.child.channel
    assert agent.receive(30) == WorkerRests()
    agent.send(LeaveGeneration(3))
    assert agent.receive(30) == WorkerLeft(7)
    agent.send(JoinGeneration(4, train_task("rest_once"), "10.0.0.9"))
    assert forked.messages() == [WorkerDone()]
    assert (forked.status(), forked.printed()) == (0, "")


def wait_to_be_freed(context: WorkerContext) -> None:
    """As a worker that hangs in a call of a library."""
    freed = threading.Event()
    context.control.at_leaving(freed.set, lambda: 0)
    context.control.send(WorkerWarning("waits"))
    freed.wait()
    raise PeerError("the connection has been ended")


def test_a_worker_that_hangs_is_freed_by_order_and_then_has_nothing_to_tell(log: Path) -> None:
    forked = Forked(train_task("wait_to_be_freed"), log)
    agent = forked.child.channel
    assert agent.receive(30) == WorkerWarning("waits")
    agent.send(LeaveGeneration(3))
    assert agent.receive(30) == WorkerLeft(0)
    agent.send(JoinGeneration(4, train_task("make_mistake"), "10.0.0.9"))
    assert isinstance(agent.receive(30), WorkerRaised)
    assert forked.status() == 1
    assert forked.printed() == "JobError: job.yaml:3: steps: 0 is not positive\n"


@pytest.mark.parametrize(
    ("entry", "limits", "said"),
    [
        ("lose_peer", {"await_leave_s": 0.05}, "waited 0.05 s for word to leave generation 3"),
        ("wait_to_be_freed", {"rejoin_s": 0.05}, "waited 0.05 s for a generation after 3"),
    ],
)
def test_a_worker_of_which_nobody_wants_anything_more_ends(
    log: Path, entry: str, limits: dict[str, float], said: str
) -> None:
    forked = Forked(train_task(entry), log, dataclasses.replace(DEADLINES, **limits))
    forked.child.channel.receive(30)
    if "rejoin_s" in limits:
        forked.child.channel.send(LeaveGeneration(3))
    assert forked.status() == 1
    assert f"this worker ends: {said}" in forked.printed()


def leave_badly(context: WorkerContext) -> None:
    def leave() -> int:
        raise PeerError("its threads do not end")

    context.control.at_leaving(lambda: None, leave)
    raise PeerError("east/0: connection reset")


def test_a_generation_that_cannot_be_left_ends_its_worker(log: Path) -> None:
    forked = Forked(train_task("leave_badly"), log)
    assert isinstance(forked.child.channel.receive(30), WorkerRaised)
    forked.child.channel.send(LeaveGeneration(3))
    assert forked.messages() == []
    assert forked.status() == 1
    assert "this worker ends: its threads do not end" in forked.printed()


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ("make_mistake", "JobError: job.yaml:3: steps: 0 is not positive"),
        ("miss_a_device", "DeviceError: accelerator npu: torch_npu does not load; install CANN"),
    ],
)
def test_what_is_raised_on_purpose_is_one_line_in_the_log(log: Path, entry: str, line: str) -> None:
    forked = Forked(train_task(entry), log)
    assert isinstance(forked.messages()[0], WorkerRaised)
    assert forked.status() == 1
    assert forked.printed() == f"{line}\n"


def test_leaving_is_an_exception_too(log: Path) -> None:
    forked = Forked(train_task("leave"), log)
    (raised,) = forked.messages()
    assert isinstance(raised, WorkerRaised)
    assert (raised.type, forked.status()) == ("SystemExit", 1)


def test_an_entry_that_is_not_there_is_told(log: Path) -> None:
    forked = Forked(train_task("no_such_function"), log)
    (raised,) = forked.messages()
    assert isinstance(raised, WorkerRaised)
    assert raised.type == "AttributeError"


@pytest.mark.parametrize(
    ("error", "message", "number"),
    [
        (ValueError("x"), "x", None),
        (KeyError(), "KeyError", None),
        (OSError(errno.ENOSPC, "no space left"), "[Errno 28] no space left", errno.ENOSPC),
    ],
)
def test_errors_are_described(error: Exception, message: str, number: int | None) -> None:
    told: WorkerMessage = describe_error(error)
    assert isinstance(told, WorkerRaised)
    assert (told.type, told.message, told.errno) == (type(error).__name__, message, number)


def test_the_place_of_an_error_is_the_last_line_of_ours() -> None:
    with pytest.raises(AttributeError) as caught:
        resolve("os.path:no_such_name")
    file, _, line = describe_error(caught.value).place.rpartition(":")
    assert file.endswith("dougong/launcher/agent/worker_process.py") and line.isdecimal()
    with pytest.raises(ZeroDivisionError) as elsewhere:
        _ = 1 / 0
    assert describe_error(elsewhere.value).place.startswith(f"{__file__}:")
    assert describe_error(ValueError("never raised")).place == ""


def test_an_entry_is_resolved() -> None:
    assert resolve("os.path:join") is os.path.join
