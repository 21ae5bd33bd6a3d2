"""The store where workers meet."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from dougong.control.ports import listen
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.launcher.controller.inbound.rendezvous import RendezvousStore
from torch.distributed import TCPStore  # type: ignore[attr-defined]


def children(log: Path) -> list[psutil.Process]:
    """The processes of the store whose log this is: its standard error."""
    own = psutil.Process().children()
    return [child for child in own if os.path.realpath(f"/proc/{child.pid}/fd/2") == str(log)]


@pytest.fixture(params=["127.0.0.1", "::1"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RendezvousStore]:
    listener = listen(request.param, None)
    for _ in range(3):  # the path to it is tried before anybody takes connections there
        socket.create_connection(listener.getsockname()[:2]).close()
    made = RendezvousStore(listener, tmp_path / "logs" / "store.log", DEADLINES)
    assert made.address[0] == request.param
    made.await_ready()
    yield made
    made.close()
    assert not children(tmp_path / "logs" / "store.log")


def test_workers_meet_there_until_it_has_ended(
    store: RendezvousStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store.check()
    workers = [TCPStore(*store.address, is_master=False, timeout=timedelta(seconds=20)) for _ in range(2)]
    workers[0].set("generation-1/east", "here")
    assert workers[1].get("generation-1/east") == b"here"
    assert capfd.readouterr().out == ""
    (child,) = children(tmp_path / "logs" / "store.log")
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    place = "127.0.0.1:" if store.address[0] == "127.0.0.1" else "[::1]:"
    with pytest.raises(LaunchError) as caught:
        store.check()
    assert f"the store where workers meet, at {place}" in str(caught.value)
    assert "has ended with status -9; see " in str(caught.value)


def test_one_that_does_not_come_up_is_told_with_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('a broken torch')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    broken = RendezvousStore(listen("127.0.0.1", None), tmp_path / "store.log", DEADLINES)
    with pytest.raises(LaunchError, match="ended with status 1: ImportError: a broken torch; see "):
        broken.await_ready()
    broken.close()


def test_it_is_ended_before_it_is_there(tmp_path: Path) -> None:
    short = dataclasses.replace(DEADLINES, agents_ready_s=0.01)
    slow = RendezvousStore(listen("127.0.0.1", None), tmp_path / "store.log", short)
    with pytest.raises(LaunchError, match=r"is not there after 0\.01 s \(fault\.deadlines\.agents_ready_s\)"):
        slow.await_ready()
    slow.close()
    assert not children(tmp_path / "store.log")
