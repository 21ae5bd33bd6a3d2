"""The controller's store as torch's libraries use one: by our own calls, and by gloo when it makes a group."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from dougong.control.worker_messages import StoreReply, StoreRequest
from dougong.deadlines import Deadlines
from dougong.errors import PeerError
from dougong.parallel.comm import gloo
from dougong.training.start.channel_store import ChannelStore
from tests.stores import HandStore

QUICK = Deadlines(rendezvous_s=0.2)


def test_it_holds_what_any_worker_has_set() -> None:
    hand = HandStore()
    east, west = (ChannelStore(hand.asker(name), QUICK) for name in ("east/0", "west/0"))
    east.set("address", "10.0.0.1")
    assert west.get("address") == b"10.0.0.1" and west.check(["address"]) and not west.check(["address", "other"])
    assert (east.add("count", 2), west.add("count", 3)) == (2, 5)
    assert west.delete_key("address") and not east.delete_key("address")
    assert west.clone() is west and not west.has_extended_api()


def test_who_comes_first_waits_for_the_others() -> None:
    hand = HandStore()
    store, found = ChannelStore(hand.asker("east/0"), Deadlines()), []
    waiting = threading.Thread(target=lambda: found.append(store.get("late")))
    waiting.start()
    ChannelStore(hand.asker("west/0"), QUICK).set("late", b"\x00\xff")
    waiting.join(20)
    assert found == [b"\x00\xff"]


def test_a_key_that_does_not_come_is_named_with_the_limit() -> None:
    store = ChannelStore(HandStore().asker("east/0"), QUICK)
    with pytest.raises(dist.DistStoreError, match=r"late: not there after 0\.2 s \(fault\.deadlines\.rendezvous_s\)"):
        store.get("late")
    with pytest.raises(dist.DistStoreError, match=r"late, later: not there after 0\.1 s"):
        store.wait(["late", "later"], timedelta(seconds=0.1))


def test_a_refusal_and_the_end_of_the_generation_are_the_callers_errors() -> None:
    def refuse(question: Any, timeout_s: float, limit: str = "") -> StoreReply:
        request = question(1)
        if request == StoreRequest(1, "set", ("key",), "dmFsdWU="):
            return StoreReply(1, error="full")
        raise PeerError("generation 3 has been ended")

    store = ChannelStore(refuse, QUICK)
    with pytest.raises(dist.DistStoreError, match="key: full"):
        store.set("key", "value")
    with pytest.raises(PeerError, match="generation 3 has been ended"):
        dist.PrefixStore("group", store).get("key")  # through the library


def test_gloo_makes_a_group_over_it() -> None:
    hand = HandStore()

    def live(rank: int) -> list[float]:
        channel = ChannelStore(hand.asker(f"east/{rank}"), Deadlines())
        store = dist.PrefixStore("group", channel)
        made = gloo.options(gloo.listen("127.0.0.1"), timedelta(seconds=20))
        group = dist.ProcessGroupGloo(store, rank, 2, made)
        outputs = [[torch.zeros(1), torch.zeros(1)]]
        group.allgather(outputs, [torch.tensor([rank + 1.0])]).wait()
        return [float(value) for value in outputs[0]]

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(live, range(2))) == [[1.0, 2.0], [1.0, 2.0]]
