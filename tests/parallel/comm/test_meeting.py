"""Where workers meet: what they ask of nobody. What they say when they wait in vain is in `test_world`."""

from __future__ import annotations

import ctypes
import dataclasses
import socket
import threading

import pytest
import torch
from dougong.deadlines import Deadlines
from dougong.errors import PeerError
from dougong.parallel.comm.arrival import Arrival
from dougong.parallel.comm.meeting import ask_no_name_server, meet
from dougong.parallel.comm.membership import Membership
from torch.distributed import TCPStore  # type: ignore[attr-defined]


def tries() -> int:
    """How often this thread's resolver would ask a name server."""
    state = ctypes.CDLL(None).__res_state
    state.restype = ctypes.POINTER(ctypes.c_int * 2)
    return int(state().contents[1])


def test_a_thread_that_asks_no_name_server_knows_the_machines_own_names_alone() -> None:
    seen: list[object] = []

    def look() -> None:
        ask_no_name_server()
        seen.append(tries())
        seen.append(socket.getaddrinfo("localhost", 80)[0][4][1])
        with pytest.raises(OSError, match="resolution|not known|no address"):
            socket.getaddrinfo("a-machine-that-nobody-has.example", 80)
        seen.append(tries())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [0, 80, 0]
    ctypes.CDLL(None).__res_init()
    assert tries() > 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_worker_comes_to_a_store_of_ipv4_and_ipv6_and_says_so(host: str) -> None:
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    alone = Membership(0, 1, 3, "east", (), torch.device("cpu"), (0,), ("east/0",))
    said: list[Arrival] = []
    meet(alone, (host, store.port), said.append).set("key", "value")
    assert said == [Arrival.AT_STORE]
    assert store.get("generation-3/key") == b"value"
    waiting = dataclasses.replace(alone, size=2, names=("east/0", "east/1"), deadlines=Deadlines(rendezvous_s=0.2))
    place = f"[::1]:{store.port}" if ":" in host else f"127.0.0.1:{store.port}"
    with pytest.raises(PeerError) as caught:
        meet(waiting, (host, store.port), said.append)
    assert f"could not join generation 3 at {place}: it waited 0.2 s" in str(caught.value)
