"""A backend in a process of its own, as the controller has it: a fake one, that hangs, dies and raises."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest
from dougong.control.processes import process_exists
from dougong.deadlines import DEADLINES
from dougong.errors import CheckpointError, LaunchError, NoRoomError
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.backends.base import RayNews
from dougong.launcher.backends.process.proxy import BackendLostError, ProcessBackend
from dougong.launcher.backends.ray_choice import OWN_RAY, joining
from dougong.launcher.backends.submission import submission
from dougong.launcher.kept.keeping import Keeping
from dougong.planner.placement import AgentSpec
from dougong.records.directory import RunDir
from tests.launcher.backends.process.fake import ENTRY
from tests.launcher.toyrun import wait_for

EAST = AgentSpec("east", "east", "both", "cpu", 1, 0, 2)
SETTINGS = AgentSettings("east", "east", "cpu", 1, True, ("127.0.0.1", 7), "secret", "/run", (), "/")


class Launch:
    """The backend, what was told of its process's end, and what was said to be awaited."""

    def __init__(self, folder: Path, keeping: Keeping | None = None) -> None:
        self.folder = folder
        self.news: Queue[RayNews] = Queue()
        self.awaited: list[str] = []
        limits = dataclasses.replace(DEADLINES, backend_call_s=20, backend_end_s=20, agent_waits_s=2)
        self.backend = ProcessBackend(OWN_RAY, limits, RunDir(folder), self.news.put, keeping, ENTRY)

    def start(self) -> None:
        self.backend.start([EAST], lambda spec: SETTINGS, self.awaited.append)

    def pid(self, number: int = 1) -> int:
        return int((self.folder / f"opened-{number}").read_text())


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    made = Launch(tmp_path)
    assert made.backend.open() == "10.0.0.1"
    yield made
    made.backend.close()
    last = made.pid(len(list(tmp_path.glob("opened-*"))))
    wait_for(lambda: not process_exists(last), "nothing is left", 10)


def test_what_a_backend_does_comes_through(launch: Launch) -> None:
    backend = launch.backend
    assert (backend.phase, backend.shared_devices, backend.may_grow) == ("Ray", False, False)
    (node,) = backend.nodes(["npu", "cuda"])
    assert (node.title, node.free, node.resources) == ("alpha (10.0.0.1)", {"npu": 1}, {"npu", "cuda"})
    launch.start()
    assert launch.awaited == ["room for east at 7"]
    assert backend.ended() == {"east": "east ended"}
    backend.end(["east", "nobody"])
    assert backend.ended() == {}
    os.kill(launch.pid(), signal.SIGTERM)  # such as to all processes of a batch job: the controller decides
    os.kill(launch.pid(), signal.SIGINT)
    assert backend.ended() == {}
    backend.close()
    assert (launch.folder / "closed").exists() and launch.news.empty()


ERRORS = {
    "no checkpoint": CheckpointError("of the family"),
    "odd": NoRoomError("a class of its own", is_held=True),
    "foreign": LaunchError("ZeroDivisionError: not of the family"),
}


def test_an_error_keeps_its_class(launch: Launch) -> None:
    for kind, error in ERRORS.items():
        with pytest.raises(type(error)) as caught:
            launch.backend.nodes([kind])
        assert (type(caught.value), str(caught.value)) == (type(error), str(error))
        assert vars(caught.value) == vars(error)
    assert launch.backend.nodes(["npu"])


def test_what_is_to_be_typed_instead_is_the_command_itself_with_another_beginning(launch: Launch) -> None:
    with pytest.raises(LaunchError) as caught:
        launch.backend.nodes(["outsider"])
    assert str(caught.value) == submission("http://10.0.0.1:8265", None)


@pytest.mark.parametrize(
    ("way", "words"),
    [("dies", "was ended by SIGKILL"), pytest.param("leaves", "ended with status 3", marks=pytest.mark.slow)],
)
def test_a_process_that_ends_in_a_call_is_told_and_another_one_takes_its_place(
    launch: Launch, way: str, words: str
) -> None:
    launch.start()
    with pytest.raises(BackendLostError, match=words):
        launch.backend.nodes([way])
    lost = launch.news.get(timeout=10)
    assert (lost.part, lost.is_lost) == ("driver", True)
    assert words in lost.text and "Ray may give to others what it held" in lost.text
    assert launch.backend.ended() == {}, "nobody knows"
    launch.backend.end(["east"])
    assert launch.backend.nodes(["npu"])
    assert launch.news.get(timeout=10) == RayNews("driver", False, "Ray answers again")
    assert launch.pid(2) != launch.pid(1)


def test_the_end_that_follows_from_a_lost_head_is_told_once(launch: Launch) -> None:
    launch.backend.nodes(["loses its head"])
    assert launch.news.get(timeout=10) == RayNews("head", True, "no head")
    with pytest.raises(BackendLostError):
        launch.backend.nodes(["leaves"])
    assert launch.backend.nodes(["npu"])
    assert launch.news.get(timeout=10) == RayNews("head", False, "Ray answers again")


def test_a_call_that_hangs_ends_at_its_deadline_and_a_close_does_not_wait_for_it(tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    launch.backend.open()
    errors: Queue[Exception] = Queue()

    def ask() -> None:
        try:
            launch.backend.nodes(["hangs"])
        except LaunchError as error:
            errors.put(error)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for((tmp_path / "hangs").exists, "the call is under way", 20)
    launch.backend.close()
    asking.join(20)
    assert isinstance(errors.get(timeout=1), BackendLostError)
    assert (tmp_path / "closed").exists() and launch.news.empty()
    assert not process_exists(launch.pid())
    with pytest.raises(LaunchError, match="ended before"):
        launch.backend.nodes(["npu"])


def test_one_that_does_not_open_is_tried_anew(launch: Launch) -> None:
    (launch.folder / "refuses").touch()
    os.kill(launch.pid(), signal.SIGKILL)
    assert launch.news.get(timeout=10).is_lost
    for _ in range(2):
        with pytest.raises(LaunchError, match="it does not open"):
            launch.backend.nodes(["npu"])
    (launch.folder / "refuses").unlink()
    assert launch.backend.nodes(["npu"])
    assert not launch.news.get(timeout=10).is_lost and launch.news.empty()


def test_a_cluster_whose_head_is_away_costs_no_process(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "{}:{}".format(*taken.getsockname())
    backend = ProcessBackend(joining(address), DEADLINES, RunDir(tmp_path), print, entry="nowhere:to_be_found")
    with pytest.raises(LaunchError, match="nobody answers"):
        backend.open()
    assert backend.may_grow
    backend.close()


def test_the_limit_of_a_call_is_named(tmp_path: Path) -> None:
    limits = dataclasses.replace(DEADLINES, backend_call_s=0.1, backend_end_s=0.1)
    backend = ProcessBackend(OWN_RAY, limits, RunDir(tmp_path), print, entry=ENTRY)
    backend.open()
    with pytest.raises(BackendLostError, match=r"does not answer: waited 0\.1 s"):
        backend.nodes(["hangs"])
    backend.close()
    assert not process_exists(int((tmp_path / "opened-1").read_text()))


def dead_controller(folder: Path, keeping: Keeping, *kinds: str) -> None:
    """One that has opened its backend, started an agent, and asked for these nodes; then it was killed."""
    pid = os.fork()
    if not pid:
        try:
            launch = Launch(folder, keeping)
            launch.backend.open()
            launch.start()
            if kinds:
                threading.Thread(target=launch.backend.nodes, args=(kinds,)).start()
                wait_for((folder / "hangs").exists, "the call is under way", 20)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    keeping.collect()


@pytest.fixture
def keeping() -> Iterator[Keeping]:
    made = Keeping(dataclasses.replace(DEADLINES, agent_end_s=10.0))
    yield made
    made.close()


def test_the_next_controller_takes_the_process_over(tmp_path: Path, keeping: Keeping) -> None:
    dead_controller(tmp_path, keeping)
    launch = Launch(tmp_path, keeping)
    assert launch.backend.open() == "10.0.0.1"
    assert launch.backend.ended() == {"east before": "east before ended"}
    process = launch.pid()
    assert process_exists(process) and not (tmp_path / "opened-2").exists()
    os.kill(process, signal.SIGKILL)
    assert launch.news.get(timeout=10).text.startswith(f"the process that speaks with Ray (pid {process}) has ended")
    assert launch.backend.nodes(["npu"]) and launch.pid(2) != process
    launch.backend.close()


@pytest.mark.slow
def test_a_process_at_which_a_call_hangs_is_ended_and_another_begun(tmp_path: Path, keeping: Keeping) -> None:
    dead_controller(tmp_path, keeping, "hangs")
    launch = Launch(tmp_path, keeping)
    assert launch.backend.open() == "10.0.0.2"
    assert not process_exists(launch.pid(1)) and launch.news.empty()
    launch.backend.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_is_dead_or_stopped_by_then_is_none_to_take_over(
    tmp_path: Path, keeping: Keeping, number: signal.Signals
) -> None:
    dead_controller(tmp_path, keeping)
    launch = Launch(tmp_path, keeping)
    os.kill(launch.pid(), number)
    assert launch.backend.open() == "10.0.0.2"
    assert not process_exists(launch.pid(1)) and launch.news.empty()
    launch.backend.close()


@pytest.mark.slow
def test_with_the_command_it_ends(tmp_path: Path) -> None:
    keeping = Keeping(DEADLINES)
    dead_controller(tmp_path, keeping)
    keeping.close()
    assert not process_exists(int((tmp_path / "opened-1").read_text()))
