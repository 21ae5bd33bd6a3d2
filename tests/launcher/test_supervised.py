"""A run whose controller dies goes on by itself, or ends with a sentence; nothing is left of either."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from dougong.cli.watch import standing_of
from dougong.records.lease import see_newest
from dougong.ui.formatting import duration
from dougong.ui.health import goodput_words, lost_words, percent
from dougong.ui.history import closing_words
from dougong.ui.report.page import write_report
from tests.launcher.toyrun import ToyRun, toy_job, wait_for

BESIDE = ("--beside",)


def controller_of(run: ToyRun, fence: int) -> int:
    """Its process, once it has this lease and can be asked."""

    def look() -> int | None:
        lease = see_newest(run.path)
        known = run.run_dir.read_controller()
        return known.pid if lease is not None and lease.fence == fence and known is not None else None

    return int(wait_for(look, f"controller {fence}: {run.text()}"))


def test_a_killed_controller_is_followed_by_another_that_ends_the_run(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(step_s=0.05), BESIDE).start()
    first = controller_of(run, 1)
    assert first != run.process.pid
    run.await_step(7)
    os.kill(first, signal.SIGKILL)
    assert run.finish() == 0, run.text()
    (diagnosis,) = run.events("diagnosis")
    assert (diagnosis["culprit"]["kind"], diagnosis["culprit"]["name"], diagnosis["class"]) == (
        "controller", "1", "crash",
    )  # fmt: skip
    assert diagnosis["cause"] == "signal 9 (SIGKILL)"
    assert [event["fence"] for event in run.events("created")] == [1, 2]
    (recovered,) = run.events("recovered")
    assert (recovered["failed"], recovered["step"], list(recovered["tiers"])) == (1, 5, ["checkpoint"])
    assert 0 < recovered["left_s"] <= recovered["begun_s"] <= recovered["formed_s"] <= recovered["first_step_s"]
    assert [event["resume"] for event in run.events("generation_started")] == [None, "step-000005"]
    before, after = run.events("agents_started")  # they have gone over, with their fork servers
    assert [agent["pid"] for agent in before["agents"]] == [agent["pid"] for agent in after["agents"]]
    (ended,) = run.events("finished")
    assert (ended["step"], ended["fence"]) == (20, 2)
    status = run.run_dir.read_status()
    assert status is not None and (status.state, status.fence) == ("FINISHED", 2)


def test_workers_go_over_with_the_step_that_they_hold(tmp_path: Path) -> None:
    """Nothing is computed again but the step that the controller's death has broken."""
    run = ToyRun(
        tmp_path / "run", toy_job(step_s=0.05, memory=True, steps=120, checkpoint={"every": 110}), BESIDE
    ).start()
    run.await_step(7)
    workers = wait_for(run.worker_pids, "workers in its status")
    for fence in (1, 2):
        os.kill(controller_of(run, fence), signal.SIGKILL)
        # Told a little after the step; a controller that is killed between the two tells it no more.
        wait_for(lambda n=fence: len(run.events("recovered")) >= n, f"training again: {run.text()}")
        wait_for(lambda: run.worker_pids() == workers, "the same workers in its status")
    assert run.finish() == 0, run.text()
    _, second, third = run.events("generation_started")
    assert second["in_memory"] and third["in_memory"] and second["resume"] is None
    assert [recovered["kept"] for recovered in run.events("recovered")] == [["east/0", "east/1"]] * 2
    steps = [row["step"] for row in run.run_dir.read_metrics()]
    assert steps == list(range(1, 121)), "each is told once"


@pytest.mark.slow
def test_a_drill_that_kills_the_controller_comes_once(tmp_path: Path) -> None:
    """It is on storage that it has come before it does: the next controller computes the same step again."""
    drill = [{"at_step": 8, "fault": "kill_controller"}]
    run = ToyRun(tmp_path / "run", toy_job(step_s=0.05, drill=drill), BESIDE).start()
    assert run.finish() == 0, run.text()
    assert [event["culprit"]["kind"] for event in run.events("diagnosis")] == ["controller"]
    (fired,) = run.events("drill")
    assert (fired["action"], fired["worker"], fired["step"]) == ("kill_controller", "", 8)
    assert "drill: kill_controller as step 8 begins" in run.text(), "told before it comes, on the screen too"
    assert run.run_dir.read_metrics()[-1]["step"] == 20


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_command_stops_its_run_once(tmp_path: Path, number: signal.Signals, status: int) -> None:
    run = ToyRun(tmp_path / "run", toy_job(step_s=0.2, steps=200), BESIDE).start()
    run.await_step(2)
    controller = controller_of(run, 1)
    os.killpg(run.process.pid, number)  # as a terminal's Ctrl-C does
    if number == signal.SIGTERM:
        os.kill(controller, number)  # as a batch system does, to all processes of a job
    assert run.finish() == status, run.text()
    (stop,) = run.events("stop_requested")
    assert not stop["now"]


def test_with_the_command_its_controller_ends_and_all_that_is_below(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(step_s=0.2, steps=200), BESIDE).start()
    run.await_step(2)
    run.process.kill()
    assert run.finish() == -signal.SIGKILL


def test_controllers_that_die_again_and_again_are_an_end_with_a_diagnosis(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(step_s=0.2, steps=200, faults={}), BESIDE).start()
    for fence in (1, 2, 3):
        os.kill(controller_of(run, fence), signal.SIGKILL)
    assert run.finish() == 1, run.text()
    end = run.text().splitlines()[-3:]
    assert any("3 controllers have died with no step between" in line for line in end), run.text()
    assert len(run.events("diagnosis")) == 3
    (failed,) = run.events("failed")
    assert failed["cause"] == "signal 9 (SIGKILL); 3 controllers have died with no step between"
    status = run.run_dir.read_status()
    assert status is not None and status.state == "FAILED"


def test_of_two_that_resume_at_once_one_goes_on_and_the_other_ends_with_a_sentence(tmp_path: Path) -> None:
    job = toy_job(step_s=0.1)
    run = ToyRun(tmp_path / "run", job).start()
    run.await_step(6)
    run.process.kill()
    run.finish()
    one, other = ToyRun(tmp_path / "run", job).start("resume"), ToyRun(tmp_path / "run", job)
    other.path = tmp_path / "other"  # where its own output goes
    other.path.symlink_to(run.path)
    other.start("resume")
    ended = {one.finish(): one, other.finish(): other}
    assert sorted(ended) == [0, 3], (one.text(), other.text())
    assert "this run" in ended[3].text() and "Traceback" not in ended[3].text()
    assert [event["fence"] for event in run.events("created")] == [1, 2]
    assert len(run.events("finished")) == 1


@pytest.mark.slow
def test_one_that_is_stopped_and_followed_ends_with_a_sentence_when_it_goes_on(tmp_path: Path) -> None:
    """Stopped for longer than its lease, and continued while its successor trains."""
    job = toy_job(step_s=0.3, steps=60)
    first = ToyRun(tmp_path / "run", job).start()
    first.await_step(6)
    os.kill(first.process.pid, signal.SIGSTOP)
    second = ToyRun(tmp_path / "run", job)
    second.path = tmp_path / "second"
    second.path.symlink_to(first.path)
    second.start("resume")
    controller_of(second, 2)
    wait_for(lambda: any(e.fence == 2 for e in second.run_dir.read_events() if e.kind == "first_step"), "a step")
    os.kill(first.process.pid, signal.SIGCONT)
    assert first.finish() == 3, first.text()
    assert "controller 2 (process" in first.text() and "has taken this run over" in first.text()
    assert second.finish(120) == 0, second.text()
    assert "does not renew its lease; it runs out in" in second.text()
    assert [e["generation"] for e in second.events("generation_started")] == [1, 1001]
    (ended,) = second.events("finished")
    assert (ended["fence"], ended["step"]) == (2, 60)
    rows = second.run_dir.read_metrics()
    assert {row["fence"] for row in rows if row["generation"] == 1001} == {2}


@pytest.mark.slow
def test_a_command_or_a_controller_that_is_stopped_for_a_while_costs_nothing_and_is_told(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(step_s=0.05, steps=100_000), BESIDE).start()
    run.await_step(3)
    controller = controller_of(run, 1)
    workers = wait_for(lambda: len(run.worker_pids()) == 2 and run.worker_pids(), "status.json names both")
    os.kill(run.process.pid, signal.SIGSTOP)
    remark = wait_for(lambda: standing_of(run.run_dir).remark, "the command is seen to be stopped")
    assert f"(process {run.process.pid}) is stopped: training goes on" in remark
    assert f"`kill -CONT {run.process.pid}`" in remark
    time.sleep(3.5)
    run.await_step(run.run_dir.read_metrics()[-1]["step"] + 20)
    os.kill(run.process.pid, signal.SIGCONT)
    wait_for(lambda: "this command was stopped, or held up, for " in run.text(), "it says so")
    assert "its run went on" in run.text() and not standing_of(run.run_dir).remark
    os.kill(controller, signal.SIGSTOP)
    found = standing_of(run.run_dir)
    assert found.remark.endswith("is stopped") and found.next_command.startswith("wait: when it has been stopped")
    time.sleep(4.0)
    os.kill(controller, signal.SIGCONT)
    (diagnosis,) = wait_for(lambda: run.events("diagnosis"), "the controller tells that it was stopped")
    assert (diagnosis["class"], diagnosis["culprit"]["kind"]) == ("hang", "controller") and diagnosis["latency_s"] > 4
    (decision,) = wait_for(lambda: run.events("decision"), "nothing is done")
    assert decision["action"] == "ignore" and run.worker_pids() == workers
    run.process.terminate()
    assert run.finish() == 143 and len(run.events("generation_started")) == 1


@pytest.mark.slow
def test_a_stopped_controller_is_killed_by_its_command_and_followed(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(step_s=0.3, steps=40), BESIDE).start()
    run.await_step(6)
    os.kill(controller_of(run, 1), signal.SIGSTOP)
    assert run.finish(120) == 0, run.text()
    (diagnosis,) = run.events("diagnosis")
    assert (diagnosis["class"], diagnosis["culprit"]["kind"]) == ("hang", "controller")
    assert diagnosis["latency_s"] >= 20
    assert diagnosis["cause"].startswith("stopped for 2"), "and the signal that ended it is evidence"


@pytest.mark.slow
def test_status_screen_last_words_and_report_tell_the_same_of_what_faults_have_cost(tmp_path: Path) -> None:
    """A worker dies, then its controller; it is stopped, resumed, lost with its command and resumed again."""
    faults = [{"do": "kill", "worker": "east/1", "step": 8}]
    job = toy_job(step_s=0.05, steps=40, faults=faults, memory=True)
    run = ToyRun(tmp_path / "run", job, BESIDE).start()
    run.await_step(12)
    os.kill(controller_of(run, 1), signal.SIGKILL)
    run.await_step(18)
    os.kill(run.process.pid, signal.SIGINT)
    assert run.finish() == 130
    assert "recovered from the failure of generation 2: went on from step " in run.text()
    agree(run, 2)
    lost = ToyRun(run.path, job, BESIDE).start("resume")
    lost.await_step(28)
    os.killpg(lost.process.pid, signal.SIGKILL)
    lost.finish()
    agree(lost, 3)
    last = ToyRun(run.path, job, BESIDE).start("resume")
    assert last.finish() == 0, last.text()
    agree(last, 3)


def agree(run: ToyRun, failures: int) -> None:
    """What four places tell of a run that nobody leads now."""
    found = standing_of(run.run_dir)
    goodput = found.status.goodput
    assert goodput is not None and goodput.share is not None
    share, whole = percent(goodput.share), duration(goodput.wall_s)
    words = closing_words(run.run_dir)
    assert f"{whole} (goodput {share})" in words and f"{failures} failures" in words
    if found.status.state != "LOST":
        assert words.partition("\n")[0] in run.text(), "as on its screen"
    assert f"goodput {goodput_words(goodput)}" in found.lines()
    page = " ".join(write_report(run.run_dir).read_text().split())
    assert f'Goodput {share} <span class="unit">of {whole}, {lost_words(goodput)}</span>' in page
    assert f'Failures</div> <div class="value">{failures}</div>' in page
    assert found.status.recoveries == failures
    fault = found.fault
    assert fault is not None and fault.who.startswith("controller")
    assert ("training again at step" in fault.outcome) is (found.status.state != "LOST")
