"""Connections of this process: which are ended, and which are left alone."""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dougong.control.worker.sockets import NewSockets


def connection(family: socket.AddressFamily = socket.AF_INET) -> tuple[socket.socket, socket.socket, socket.socket]:
    """A listener and both ends of a connection to it."""
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    listener = socket.create_server((host, 0), family=family)
    near = socket.create_connection(listener.getsockname()[:2])
    far, _ = listener.accept()
    return listener, near, far


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_who_waits_on_a_new_connection_is_told_of_its_end(family: socket.AddressFamily) -> None:
    sockets = NewSockets()
    listener, near, far = connection(family)
    with listener, near, far:
        read = ThreadPoolExecutor(1).submit(near.recv, 1)
        assert sockets.shut() == 2
        assert read.result(10) == b""
        with pytest.raises(OSError):
            far.send(b"x")


def test_a_listener_still_listens_and_older_and_later_connections_live() -> None:
    older = connection()
    sockets = NewSockets()
    ours = connection()
    sockets.settle()
    later = connection()
    assert sockets.shut() == 2
    for _, near, far in (older, later):
        near.sendall(b"x")
        assert far.recv(1) == b"x"
    again = socket.create_connection(ours[0].getsockname())
    assert sockets.shut() == 0, "they have been ended already"
    for sock in (*older, *ours, *later, again):
        sock.close()


def test_a_pair_of_this_machine_and_other_files_are_left_alone(tmp_path: Path) -> None:
    sockets = NewSockets()
    near, far = socket.socketpair()
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.connect(("127.0.0.1", 9))
    with near, far, datagrams, (tmp_path / "file").open("w"):
        assert sockets.shut() == 0
        near.sendall(b"x")
        assert far.recv(1) == b"x"


def test_connections_that_come_and_go_meanwhile_do_no_harm() -> None:
    """Numbers of descriptors are given to other files all the time: none of those is touched."""
    other_near, other_far = socket.socketpair()
    sockets, is_over = NewSockets(), threading.Event()

    def churn() -> None:
        while not is_over.is_set():
            for sock in connection():
                sock.close()
            os.close(os.dup(other_near.fileno()))

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(200):
            sockets.settle()
            sockets.shut()
    finally:
        is_over.set()
        thread.join(10)
    with other_near, other_far:
        other_near.sendall(b"x")
        assert other_far.recv(1) == b"x"


def test_no_descriptor_is_left_open() -> None:
    sockets = NewSockets()
    listener, near, far = connection()
    before = len(os.listdir("/dev/fd"))
    sockets.shut()
    assert len(os.listdir("/dev/fd")) == before
    for sock in (listener, near, far):
        sock.close()
