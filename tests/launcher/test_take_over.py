"""What a command does around its controller: the record of an earlier life, signals, a run that is alive."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from dougong.control.messages import Acknowledged
from dougong.control.server import Server
from dougong.deadlines import DEADLINES
from dougong.errors import AliveError, CheckpointError, DougongError, JobError, LaunchError, StorageError
from dougong.fault.culprit import Culprit
from dougong.fault.drill import FiredDrill
from dougong.fault.policy import Budget, decide
from dougong.job.load import load_job
from dougong.job.schema import Fault, Job
from dougong.launcher.alive import refuse_if_alive
from dougong.launcher.controller.config import FROM_START, ResumePoint
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.presence import Presence
from dougong.launcher.run import (
    Options,
    ResumeRequest,
    resume_run,
    start_run,
)
from dougong.launcher.take_over import beginning_words, lost_history_words, of_follower, take_over, with_memory
from dougong.records.directory import RunDir
from dougong.records.events import (
    CheckpointCommitted,
    CheckpointsSetAside,
    DeviceQuarantined,
    DrillFired,
    FailureDiagnosed,
    FirstStep,
    GenerationStarted,
    RecoveryDecided,
    RunCreated,
    StepSkipped,
)
from dougong.records.lease import take_lease
from dougong.records.status import ControllerAddress
from tests.launcher.toyrun import toy_job
from tests.leases import held, left
from tests.storage import REFUSED, read_only

QUICK = dataclasses.replace(DEADLINES, client_answer_s=0.3, status_fresh_s=0.3, poll_every_s=0.02)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run")


def committed(step: int) -> CheckpointCommitted:
    return CheckpointCommitted(generation=1, step=step, directory=f"step-{step:06d}", num_bytes=1, seconds=0.1)


def test_a_run_without_a_record_begins_at_its_beginning(run_dir: RunDir) -> None:
    assert take_over(run_dir) == FROM_START


def failed(generation: int, kind: str, name: str, at: float) -> FailureDiagnosed:
    culprit = Culprit(kind, name)  # type: ignore[arg-type]
    return FailureDiagnosed(generation=generation, culprit=culprit, failure="crash", cause="SIGKILL", monotonic_s=at)


def test_a_controller_that_follows_by_itself_counts_on() -> None:
    """What failed before the last command that a person typed does not count, nor does what was ignored."""
    typed, again = RunCreated(generation=1, job="toy"), RunCreated(generation=3, job="toy")
    first, dead = failed(3, "worker", "east/1", 5.0), failed(3, "controller", "2", 8.0)
    fork_server, own_pause = failed(3, "fork_server", "east", 6.0), failed(3, "controller", "0", 7.0)
    ignore = RecoveryDecided(generation=3, action="ignore", reason="x")
    record = [typed, failed(1, "worker", "east/0", 1.0), committed(5), again, FirstStep(generation=3, step=6), first,
              fork_server, ignore, own_pause, ignore, RunCreated(generation=4, job="toy"),
              dead, failed(4, "agent", "west", 9.0)]  # fmt: skip
    point = of_follower(FROM_START, record, (8.0, 8.1))
    assert [(past.generation, past.at_s, past.has_stepped) for past in point.failures] == [
        (3, 5.0, True),
        (4, 9.0, False),
    ]
    assert (point.died, point.committed_at) == ((8.0, 8.1), 0.0)
    facts, failure = RunFacts.at(point), point.failures[-1]
    decision = decide(failure, Fault(), facts.history, Budget(10.0, facts.checkpoints.committed_at))
    assert decision.reason == "recovery 3 of 3"
    one = Fault.model_validate({"per_hour": {"crash": 2}})
    assert decide(failure, one, facts.history, Budget(10.0)).reason == "fault.per_hour.crash is 2 and they are used up"


def test_a_resume_without_a_checkpoint_says_that_it_begins(run_dir: RunDir) -> None:
    assert beginning_words(take_over(run_dir)) == ""
    run_dir.append_event(GenerationStarted(generation=1, step=0, workers=(), resume=None))
    words = "the run had committed no checkpoint, so that it starts from the beginning"
    assert beginning_words(take_over(run_dir)) == words
    run_dir.append_event(committed(5))
    assert beginning_words(take_over(run_dir)) == ""


def skipped(generation: int, step: int) -> StepSkipped:
    return StepSkipped(generation=generation, step=step, loss=1.0, grad_norm=2.0, where="a loss")


def test_a_resume_leaves_out_the_same_steps_and_devices(run_dir: RunDir) -> None:
    """Steps of before the last change of what may change bits were left out of another computation."""
    aside = DeviceQuarantined(generation=2, worker="east/0", accelerator="cuda", key="GPU-1", node="a", why="Xid 79")
    for event in (skipped(1, 4), aside, skipped(2, 7), skipped(3, 7)):
        run_dir.append_event(event)
    point = take_over(run_dir)
    assert (point.quarantined, point.skipped) == ((aside.device,), {4, 7})
    run_dir.append_event(RunCreated(generation=4, job="toy", changed=("optimizer.lr",)))
    run_dir.append_event(FirstStep(generation=4, step=1))
    run_dir.append_event(skipped(4, 9))
    assert take_over(run_dir).skipped == {9}


def test_a_resume_takes_over_generation_checkpoint_and_drills(run_dir: RunDir) -> None:
    (run_dir.checkpoints / "step-000010").mkdir()
    for event in (
        GenerationStarted(generation=1, workers=("east/0",)),
        committed(10),
        committed(20),  # its directory is gone
        DrillFired(generation=2, worker="east/1", step=7, action="kill"),
    ):
        run_dir.append_event(event)
    assert take_over(run_dir) == ResumePoint(3, 10, frozenset({FiredDrill("kill", "east/1", 7)}), has_committed=True)


@pytest.mark.parametrize(("chosen", "step"), [(None, 20), (10, 10), (0, 0)])
def test_a_resume_goes_on_from_the_checkpoint_that_is_asked_for(run_dir: RunDir, chosen: int | None, step: int) -> None:
    for name in ("step-000010", "step-000020", "step-000020.g2"):
        (run_dir.checkpoints / name).mkdir()
    found = take_over(run_dir, chosen)
    assert (found.step, found.chosen, found.has_committed) == (step, chosen, True)
    with pytest.raises(CheckpointError, match=r"checkpoints: no checkpoint of step 15; there are: 10, 20$"):
        take_over(run_dir, 15)


def test_what_workers_hold_counts_for_a_resume_that_goes_on_alike(run_dir: RunDir) -> None:
    job = Job.model_validate(toy_job())
    other = Job.model_validate(toy_job(fault={"snapshots": {"every": 2}}))
    for event in (GenerationStarted(generation=2, workers=("east/0",)), committed(5)):
        run_dir.append_event(event)
    run_dir.append_metrics({"generation": 2, "step": 8, "loss": 1.0})
    point = ResumePoint(generation=3, step=5)
    found = with_memory(point, run_dir, job, job)
    assert (found.adopts_from, found.recorded) == (2, 8)
    assert (RunFacts.at(found).recorded, RunFacts.at(point).recorded) == (8, 5)
    for asked, after in ((replace(point, chosen=5), job), (replace(point, changed=("seed",)), job), (point, other)):
        assert with_memory(asked, run_dir, job, after) == asked


def test_checkpoints_that_were_set_aside_count_no_more(run_dir: RunDir) -> None:
    def aside(step: int) -> CheckpointsSetAside:
        return CheckpointsSetAside(generation=1, step=step, names=("step-000020",), folder="set-aside/1")

    for event in (committed(10), committed(20), aside(10)):
        run_dir.append_event(event)
    assert take_over(run_dir).has_committed  # that of step 10, wherever it is now
    run_dir.append_event(aside(0))
    assert take_over(run_dir) == ResumePoint(2)


def test_equal_bits_are_due_since_the_last_change_with_which_something_was_computed(run_dir: RunDir) -> None:
    sittings: list[tuple[int, tuple[str, ...]]] = [(1, ()), (2, ("numerics",)), (3, ())]
    for generation, changed in sittings:
        run_dir.append_event(RunCreated(generation=generation, job="toy", changed=changed))
        run_dir.append_event(FirstStep(generation=generation, step=1))
    run_dir.append_event(RunCreated(generation=4, job="toy", changed=("numerics",)))  # and was refused
    assert take_over(run_dir).same_since == 2


@pytest.mark.parametrize(
    ("seen", "written_by", "others", "first"),
    [
        (5, 1, [{}], 6),  # the one before is dead
        (5, 1, [{"ended": True, "machine": "node9"}], 6),
        (5, 1, [{"machine": "node9"}], 1001),  # it may only be asleep
        (5, 1, [{"machine": "node9"}, {}], 2001),  # dead, but may have begun as we do now
        (1001, 2, [{"machine": "node9"}, {}], 1002),  # the sleeper keeps to its thousand
        (950, 1, [{}], 1001),
        (1000, 1, [{"machine": "node9"}], 1001),
        (0, 0, [{"machine": "node9"}], 2001),
    ],
)
def test_no_generation_has_a_number_that_a_sleeping_controller_may_use(
    run_dir: RunDir, seen: int, written_by: int, others: list[dict[str, Any]], first: int
) -> None:
    for number, changes in enumerate(others, 1):
        written = left(run_dir, **changes)
        if number == written_by:
            written.append_event(GenerationStarted(generation=seen, workers=("east/0",)))
    with take_lease(run_dir.path, QUICK, takes_over=True) as lease:
        found = take_over(run_dir.of_writer(lease.fence))
    assert (found.generation, found.last_generation) == (first, (first // 1000 + 1) * 1000)


def test_a_run_that_answers_is_alive(run_dir: RunDir) -> None:
    assert refuse_if_alive(run_dir) is Presence.ABSENT
    server = Server("127.0.0.1", "secret", lambda _, channel: channel.send(Acknowledged()), print, DEADLINES)
    host, port = server.address
    machine = socket.gethostname()
    address = ControllerAddress(host=host, port=port, pid=1, token="secret", machine=machine)
    with held(run_dir) as written:
        written.write_controller(address)
        with pytest.raises(AliveError, match=f"is alive .*controller process 1 on {machine}.*dougong stop"):
            refuse_if_alive(run_dir)
        server.close()
        assert refuse_if_alive(run_dir) is Presence.SILENT


def resumable(run_dir: RunDir, **changes: Any) -> str:
    """A run that has come to step 10; what its job.yaml says."""
    run_dir.write_job(yaml.safe_dump(toy_job(**changes)))
    (run_dir.checkpoints / "step-000010").mkdir()
    run_dir.append_event(committed(10))
    return run_dir.read_job()


@pytest.mark.parametrize(
    ("overrides", "request_", "error", "words"),
    [
        (["seed=7"], ResumeRequest(), JobError, "seed: 0 then, 7 now"),
        (["steps=4"], ResumeRequest(step=10), JobError, r"step 10 of 4 is done already.*`-o steps=20`"),
        (
            ["steps=10"],
            ResumeRequest(step=10),
            JobError,
            r"step 10 of 10 is done already.*`--step N` \(there are: 10\)",
        ),
        (["steps=10"], ResumeRequest(), CheckpointError, r"no checkpoint is valid \(step-000010; `dougong verify"),
        ([], ResumeRequest(step=5), CheckpointError, "no checkpoint of step 5; there are: 10"),
        (["islands.0.node=nowhere"], ResumeRequest(), LaunchError, "pinned to node 'nowhere'"),
        (["islands.0.workers=64"], ResumeRequest(), JobError, "lanes"),
    ],
)
def test_a_resume_that_is_refused_leaves_the_run_as_it_was(
    run_dir: RunDir, overrides: list[str], request_: ResumeRequest, error: type[DougongError], words: str
) -> None:
    before = resumable(run_dir)
    with pytest.raises(error, match=words):
        resume_run(run_dir.path, overrides, Options(ray=False), request_)
    assert run_dir.read_job() == before
    assert [path.name for path in run_dir.checkpoints.iterdir()] == ["step-000010"]
    with held(run_dir):
        pass  # and whoever is right may come next


def test_two_resumes_at_once_are_not_two_controllers(run_dir: RunDir) -> None:
    resumable(run_dir)
    with held(run_dir), pytest.raises(LaunchError, match=rf"is alive \(controller process {os.getpid()} on"):
        resume_run(run_dir.path, [], Options(ray=False))


def test_a_job_that_another_release_has_written_is_told_as_such(run_dir: RunDir) -> None:
    resumable(run_dir, gravity=9.81)
    with pytest.raises(JobError, match=r"gravity: unknown key(.|\n)*go on with the release of dougong that wrote it"):
        resume_run(run_dir.path, [], Options(ray=False))


def test_a_file_where_the_run_was_to_be_is_named(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(toy_job()))
    for path in (job, job / "sub"):
        with pytest.raises(LaunchError, match=r"/job\.yaml: a file lies there; pass another --run-dir$"):
            start_run(load_job(job), path, Options(ray=False))


def test_a_read_only_directory_is_a_sentence(tmp_path: Path) -> None:
    folder, job = tmp_path / "readonly", tmp_path / "job.yaml"
    folder.mkdir()
    job.write_text(yaml.safe_dump(toy_job()))
    with read_only(folder):
        for path in (folder, folder / "new"):
            with pytest.raises(StorageError, match=rf"{REFUSED}; .*pass another"):
                start_run(load_job(job), path, Options(ray=False))


def test_a_resume_where_a_file_lies_in_the_place_of_the_checkpoints_says_so(run_dir: RunDir) -> None:
    resumable(run_dir)
    shutil.rmtree(run_dir.checkpoints)
    run_dir.checkpoints.write_text("mine")
    words = f"{run_dir.checkpoints}: a file lies where a folder must be; move it away and put the folder back"
    with pytest.raises(CheckpointError, match=words):
        resume_run(run_dir.path, [], Options(ray=False))
    assert run_dir.checkpoints.read_text() == "mine"


def test_a_run_whose_events_are_lost_goes_on_under_a_number_of_its_own(run_dir: RunDir) -> None:
    assert lost_history_words(run_dir, take_over(run_dir)) == "", "nothing has been recorded yet"
    (run_dir.checkpoints / "step-000010").mkdir()
    run_dir.append_metrics({"generation": 3, "step": 10, "loss": 1.0})
    log = run_dir.log_file(4, "east/0")
    log.parent.mkdir(parents=True)
    log.write_text("")
    with held(run_dir) as written:
        point = take_over(written)
        told = lost_history_words(written, point)
    assert (point.generation, point.step, point.has_committed) == (5, 10, True)
    assert told.startswith(
        f"{run_dir.events_file} holds nothing of this run: its history is lost (faults, times, goodput"
    )
    assert told.endswith("what it has trained is whole, and it goes on from step 10")
    run_dir.events_file.unlink()
    assert lost_history_words(run_dir, point).startswith(f"{run_dir.events_file} is gone: its history is lost")
    run_dir.append_event(RunCreated(generation=5, job="toy"))
    assert lost_history_words(run_dir, point) == "", "once"
