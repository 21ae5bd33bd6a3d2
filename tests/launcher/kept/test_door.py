"""A door that a test opens, and who knocks at it."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.kept.door import Door, knock


def settings(folder: Path, name: str = "east") -> AgentSettings:
    return AgentSettings(name, "east", "cpu", 1, True, ("127.0.0.1", 1), "s", str(folder), (), str(folder))


def test_who_knocks_is_let_in_and_knows_whose_door_it_is(tmp_path: Path) -> None:
    door = Door(settings(tmp_path))
    assert knock(settings(tmp_path, "west")) is None and knock(settings(tmp_path / "other")) is None
    assert door.let_in() is None, "nobody is there"
    found = knock(settings(tmp_path))
    assert found is not None and found[1] == os.getpid()
    inside = door.let_in()
    assert inside is not None
    found[0].sendall(b"word")
    assert inside.recv(10) == b"word"
    for one in (inside, found[0], door):
        one.close()
    assert knock(settings(tmp_path)) is None


def test_there_is_one_door_of_a_name(tmp_path: Path) -> None:
    door = Door(settings(tmp_path))
    with pytest.raises(OSError, match="in use"):
        Door(settings(tmp_path))
    door.close()
    Door(settings(tmp_path)).close()


def test_another_path_to_the_run_leads_to_the_same_door(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    door = Door(settings(tmp_path / "run"))
    found = knock(settings(tmp_path / "link"))
    assert found is not None
    found[0].close()
    door.close()


def test_who_waits_is_told_when_the_door_is_shut(tmp_path: Path) -> None:
    door = Door(settings(tmp_path))
    found = knock(settings(tmp_path))
    assert found is not None
    door.close()
    with pytest.raises(ConnectionResetError):
        found[0].recv(1)
    found[0].close()


NOBODY = 65534


def as_nobody(what: Callable[[], int]) -> int:
    """What another user of this machine finds: a process's exit status."""
    pid = os.fork()
    if pid == 0:
        os.setuid(NOBODY)
        os._exit(what())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_another_user_is_not_let_in(tmp_path: Path) -> None:
    door = Door(settings(tmp_path))
    name = door.name

    def connect() -> int:
        """5 when the connection was closed on it without a word."""
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        line.connect(name)
        line.settimeout(10)
        try:
            return 5 if line.recv(1) == b"" else 1
        except ConnectionResetError:
            return 5

    with ThreadPoolExecutor(1) as pool:
        status = pool.submit(as_nobody, connect)
        select.select([door], [], [], 10)
        assert door.let_in() is None
        assert status.result(10) == 5
    door.close()


def test_a_door_that_another_user_has_made_is_not_entered(tmp_path: Path) -> None:
    """One of the name that the agent of this user would have."""
    door = Door(settings(tmp_path))
    name = door.name
    door.close()
    ready, go = os.pipe()

    def listen() -> int:
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        line.bind(name)
        line.listen(1)
        os.write(go, b"x")
        came, _ = line.accept()
        came.settimeout(10)
        return 5 if came.recv(10) == b"" else 1

    with ThreadPoolExecutor(1) as pool:
        status = pool.submit(as_nobody, listen)
        assert os.read(ready, 1) == b"x"
        assert knock(settings(tmp_path)) is None
        assert status.result(10) == 5
