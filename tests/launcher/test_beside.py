"""What another terminal is told of a controller that does not answer, and of the command beside it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest
from dougong.launcher.beside import silence_words, stopped_command, what_follows
from dougong.records.status import ControllerAddress
from tests.launcher.toyrun import wait_for
from tests.leases import GONE

HERE = socket.gethostname()
RESUME = "dougong resume R"


@pytest.fixture
def pids() -> Iterator[dict[str, int]]:
    """Two living processes, one of which is stopped."""
    processes = [subprocess.Popen(["sleep", "100"]) for _ in range(2)]
    stopped, runs = (process.pid for process in processes)
    os.kill(stopped, signal.SIGSTOP)
    os.waitpid(stopped, os.WUNTRACED)
    yield {"stopped": stopped, "runs": runs, "gone": GONE}
    for process in processes:
        process.kill()
        process.wait()


def address(controller: int, beside: int | None, machine: str = HERE) -> ControllerAddress:
    return ControllerAddress(host="127.0.0.1", port=1, pid=controller, token="t", machine=machine, beside=beside)


@pytest.mark.parametrize(
    ("controller", "beside", "machine", "said", "follows"),
    [
        ("stopped", "runs", HERE, "its controller (process C on M) is stopped",
         "wait: when it has been stopped for 20 s the command beside it (process B) goes on with another one; "
         "`kill -CONT C` on M wakes it before that"),
        ("stopped", "stopped", HERE, "its controller (process C on M) is stopped",
         "`kill -CONT B` on M, or `fg` in its terminal, wakes the command beside it; `kill -CONT C` on M wakes the "
         "controller"),
        ("stopped", "gone", HERE, "its controller (process C on M) is stopped",
         "`kill -CONT C` on M wakes it, `kill -9 C` ends it, then: dougong resume R"),
        ("stopped", None, HERE, "its controller (process C on M) is stopped",
         "`kill -CONT C` on M wakes it, `kill -9 C` ends it, then: dougong resume R"),
        ("runs", "runs", HERE, "its controller (process C on M) is there and does not answer: it hangs",
         "`kill -9 C` on M ends it, and the command beside it (process B) goes on with another one"),
        ("runs", "runs", "there",
         "its controller (process C on M) is there and does not answer: it is stopped or hangs",
         "when it has been stopped for 20 s the command beside it (process B) goes on with another one; where it "
         "hangs, `kill -9 C` on M ends it, and the command beside it (process B) goes on with another one"),
    ],
)  # fmt: skip
def test_what_is_advised_is_what_nobody_does_by_himself(
    pids: dict[str, int], controller: str, beside: str | None, machine: str, said: str, follows: str
) -> None:
    number = None if beside is None else pids[beside]
    known = address(pids[controller], number, machine)

    def short(text: str) -> str:
        """Numbers and names as above; the command first, whose number may be the controller's."""
        for words in ("kill -CONT {}`", "process {})"):
            text = text.replace(words.format(f"{number}"), words.format("B")) if number != known.pid else text
        text = text.replace(f" {known.pid}", " C")
        return text.replace(f"on {machine}", "on M")

    if number == known.pid:
        follows = follows.replace("CONT B", "CONT C").replace("process B", "process C")
    assert short(silence_words(known)) == said
    assert short(what_follows(known, RESUME)) == follows


def test_of_a_controller_that_has_left_no_address_little_is_known() -> None:
    assert silence_words(None) == "its controller is there and does not answer: it is stopped or hangs"
    assert what_follows(None, RESUME) == "end it, then: dougong resume R"


def test_a_stopped_command_beside_a_controller_that_answers_is_told(pids: dict[str, int]) -> None:
    me, stopped = os.getpid(), pids["stopped"]
    said = stopped_command(address(me, stopped))
    assert said.startswith(f"the command beside its controller (process {stopped}) is stopped: training goes on")
    assert f"`kill -CONT {stopped}` on {HERE}, or `fg`" in said
    for known in (None, address(me, None), address(me, pids["runs"]), address(me, stopped, "there")):
        assert stopped_command(known) == ""
    os.kill(stopped, signal.SIGCONT)
    wait_for(lambda: not stopped_command(address(me, stopped)), "it goes on")


def test_a_command_that_is_stopped_and_would_follow_a_dead_controller_is_named(pids: dict[str, int]) -> None:
    said = stopped_command(address(pids["gone"], pids["stopped"]), is_dead=True)
    assert f"(process {pids['stopped']}) is stopped, and goes on with the run when it is woken" in said
    assert f"`kill -CONT {pids['stopped']}` on {HERE}" in said
    assert not stopped_command(address(pids["gone"], pids["runs"]), is_dead=True)
    assert not stopped_command(address(pids["gone"], pids["gone"]), is_dead=True)
