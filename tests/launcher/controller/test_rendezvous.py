"""The store where workers meet."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest
from dougong.control.ports import listen
from dougong.launcher.controller.rendezvous import RendezvousStore, load_torch


def test_workers_meet_at_its_address_and_nowhere_else(capfd: pytest.CaptureFixture[str]) -> None:
    listener = listen("127.0.0.1", None)
    for _ in range(3):  # the path to it is tried before anybody takes connections there
        socket.create_connection(listener.getsockname()).close()
    load_torch()
    from torch.distributed import TCPStore

    store = RendezvousStore(listener, 5.0)
    host, port = store.address
    assert host == "127.0.0.1"
    workers = [TCPStore(host, port, is_master=False, timeout=timedelta(seconds=20)) for _ in range(2)]
    workers[0].set("generation-1/east", "here")
    assert workers[1].get("generation-1/east") == b"here"
    assert capfd.readouterr().err == ""
