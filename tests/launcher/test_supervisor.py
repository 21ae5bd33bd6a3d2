"""What is said of a controller that has ended, and whether another follows it; the controllers are children of ours."""

from __future__ import annotations

import dataclasses
import faulthandler
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from dougong.deadlines import DEADLINES
from dougong.errors import DeviceError, LaunchError
from dougong.launcher.supervisor import MOST_IN_A_ROW, ControllerDeath, Supervisor
from dougong.records.directory import RunDir
from dougong.records.lease import take_lease

QUICK = dataclasses.replace(DEADLINES, controller_silence_s=0.3, poll_every_s=0.02)


def holding(path: Path, work: Callable[[], int]) -> Callable[[], int]:
    """A controller that takes the run's lease, works, and gives it back."""

    def attempt() -> int:
        with take_lease(path):
            return work()

    return attempt


def by_signal(number: signal.Signals) -> Callable[[], int]:
    def work() -> int:
        faulthandler.disable()
        os.kill(os.getpid(), number)
        return 0

    return work


def leave() -> int:
    os._exit(7)


def told(path: Path, begin: Callable[[], int]) -> tuple[int, str]:
    """The exit status of a run whose first controller is this, and what the one after it was told."""

    def follow(death: ControllerDeath) -> int:
        diagnosis = death.diagnosis
        latency = "late" if diagnosis.latency_s else "at once"
        (path / "told").write_text(f"{diagnosis}; {'; '.join(diagnosis.evidence)}; {latency}; {death.in_vain}")
        with take_lease(path) as lease:
            return 40 + lease.fence

    status = Supervisor(path, QUICK).run(begin, follow)
    said = path / "told"
    return status, said.read_text() if said.exists() else ""


def test_a_run_directory_that_is_away_is_waited_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A mount that is gone for a moment when the controller dies: the next one goes on when it is back."""
    path, away = tmp_path / "run", tmp_path / "away"
    path.mkdir()

    def die() -> int:
        path.rename(away)
        if os.fork() == 0:
            time.sleep(1.0)
            away.rename(path)
            os._exit(0)
        return by_signal(signal.SIGKILL)()

    status, said = told(path, holding(path, die))
    assert status == 42 and "SIGKILL" in said
    assert f"the controller was killed by SIGKILL, and {path} cannot be read" in capfd.readouterr().err


@pytest.mark.parametrize("status", [0, 3, 130])
def test_the_end_of_a_controller_is_that_of_its_command(tmp_path: Path, status: int) -> None:
    assert told(tmp_path, holding(tmp_path, lambda: status)) == (status, "")


def test_an_error_is_a_sentence_with_its_status(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def refuse() -> int:
        raise LaunchError("no such run")

    def break_down() -> int:
        raise ValueError("our own mistake")

    assert told(tmp_path, refuse) == (1, "")
    assert told(tmp_path, holding(tmp_path, break_down)) == (1, "")
    said = capfd.readouterr().err
    assert said.startswith("no such run\n") and "ValueError: our own mistake" in said


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (by_signal(signal.SIGKILL), "crash: signal 9 (SIGKILL); ; at once; "),
        (by_signal(signal.SIGSEGV), "crash: signal 11 (SIGSEGV); ; at once; "),
        (leave, "crash: left with status 7 before the run's end; ; at once; "),
        (by_signal(signal.SIGSTOP),
         "hang: stopped for 0 s, then killed by the command beside it; signal 9 (SIGKILL); late; "),
    ],
    ids=["killed", "crashed", "left", "stopped"],
)  # fmt: skip
def test_one_that_dies_is_followed_by_another(tmp_path: Path, work: Callable[[], int], words: str) -> None:
    status, said = told(tmp_path, holding(tmp_path, work))
    assert status == 42  # the second lease
    assert said == f"controller 1 on {os.uname().nodename}: {words}"


def test_one_that_had_no_lease_began_nothing_to_go_on_with(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert told(tmp_path, by_signal(signal.SIGKILL)) == (137, "")
    assert capfd.readouterr().err == "the controller was killed by SIGKILL\n"


def test_one_that_is_stopped_for_a_while_goes_on(tmp_path: Path) -> None:
    def nap() -> int:
        parent = os.getppid()
        if os.fork() == 0:
            os.kill(os.getppid(), signal.SIGSTOP)
            os.kill(os.getppid(), signal.SIGCONT)
            os._exit(0)
        os.wait()
        return 5 if os.getppid() == parent else 6

    assert told(tmp_path, holding(tmp_path, nap)) == (5, "")


@pytest.mark.parametrize("dies", [False, True])
def test_a_command_that_was_stopped_says_what_has_become_of_its_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], dies: bool
) -> None:
    def work() -> int:
        command = os.getppid()
        os.kill(command, signal.SIGSTOP)
        time.sleep(0.4)
        if dies and os.fork():
            os.kill(os.getpid(), signal.SIGKILL)  # the other one wakes the command
        time.sleep(0.3)
        os.kill(command, signal.SIGCONT)
        if dies:
            os._exit(0)
        return 0

    command = os.fork()
    if command == 0:
        quick = dataclasses.replace(QUICK, hang_s=0.3)

        def follow(death: ControllerDeath) -> int:
            (tmp_path / "told").write_text("; ".join(death.diagnosis.evidence))
            return 0

        os._exit(Supervisor(tmp_path, quick).run(holding(tmp_path, work), follow))
    ended = os.waitpid(command, 0)[1]
    said = re.sub("[0-9]+ s", "1 s", capfd.readouterr().err)
    assert ended == 0, said
    assert "this command was stopped, or held up, for 1 s; its " in said
    if not dies:
        assert said.endswith("its run went on\n")
        return
    assert said.endswith("its controller has ended meanwhile: signal 9 (SIGKILL)\n")
    assert (tmp_path / "told").read_text().startswith("nobody had looked for ")


def test_what_the_next_one_cannot_go_on_by_is_a_failure_of_the_run(tmp_path: Path) -> None:
    """The run has begun: a kind of device that is gone meanwhile was no bad input."""

    def follow(death: ControllerDeath) -> int:
        raise DeviceError("accelerator acme: not known")

    assert Supervisor(tmp_path, QUICK).run(holding(tmp_path, by_signal(signal.SIGKILL)), follow) == 1


def test_after_so_many_deaths_without_a_step_the_next_is_told_to_end_the_run(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    count = tmp_path / "count"
    count.write_text("0")

    def follow(death: ControllerDeath) -> int:
        number = int(count.read_text()) + 1
        count.write_text(str(number))
        if death.in_vain:
            return 1
        with take_lease(tmp_path):
            if number == 1:
                run.append_metrics({"generation": 1, "step": 1})  # progress: counted anew
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert Supervisor(tmp_path, QUICK).run(holding(tmp_path, by_signal(signal.SIGKILL)), follow) == 1
    assert int(count.read_text()) == MOST_IN_A_ROW + 1
