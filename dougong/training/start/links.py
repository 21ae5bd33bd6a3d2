"""A look at the links between islands, before the first step of a generation."""

from __future__ import annotations

import time

import torch
from pydantic import TypeAdapter
from torch import Tensor

from dougong.control.worker_messages import LinksProbed
from dougong.errors import PeerError
from dougong.parallel.bridge.measured import CopyRates, MeasuredLink, pairs_to_probe
from dougong.parallel.bridge.staging import TorchDevice
from dougong.parallel.comm.route import UnderWay
from dougong.parallel.comm.threads import MessageThread
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import PeerWait
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.parallel.schedules.operation import MessageKind

SMALL_BYTES, LARGE_BYTES = 256 << 10, 4 << 20
_QUICK_RATE = 5e6
"""Bytes a second of a small message, above which a link is tried with a large one."""
_ROUND_TRIPS = 3
_KIND = MessageKind.ROWS
_LIMIT = "link_s"

_FOUND: TypeAdapter[LinksProbed] = TypeAdapter(LinksProbed)


def probe_links(world: World, plan: Plan) -> LinksProbed:
    """Latency and throughput of the links between islands, and of the copies at their ends; the
    same on all workers. Collective. Some ten milliseconds for a link; nothing where there is one
    island.

    Raises PeerError with the remedy where a link does not answer within `link_s`.
    """
    pairs = pairs_to_probe(plan.workers)
    if not pairs:
        return LinksProbed()
    thread = world.make_thread("probe")
    links = []
    # All in one order, so that no two wait for each other.
    for pair in pairs:
        if world.rank in pair:
            links += _Probe(world, plan, pair, thread).run()
    copies = {}
    if any(world.rank in pair for pair in pairs) and world.member.device.type != "cpu":
        copies[plan.workers[world.rank].name] = _copy_rates(world.member.device)
    return _of_all(world, LinksProbed(tuple(links), copies))


def _of_all(world: World, own: LinksProbed) -> LinksProbed:
    whole = LinksProbed()
    for payload in world.gather_bytes(_FOUND.dump_json(own), what="what links give"):
        found = _FOUND.validate_json(payload)
        whole = LinksProbed((*whole.links, *found.links), {**whole.copies, **found.copies})
    return whole


class _Probe:
    """Of one link, at one of its ends. The first one of the pair keeps the time."""

    def __init__(
        self, world: World, plan: Plan, pair: tuple[int, int], thread: MessageThread
    ) -> None:
        self._world, self._thread = world, thread
        self._one, self._other = (plan.workers[rank] for rank in pair)
        self._is_first = world.rank == pair[0]
        self._peer = pair[1] if self._is_first else pair[0]
        self._path = world.member.path_to(self._peer)
        what = f"the first bytes between islands, by {self._path.name}"
        # One wait for all: a link that is slow but alive takes no longer either.
        self._wait = PeerWait(world.member, [self._peer], what, _LIMIT)

    def run(self) -> list[MeasuredLink]:
        """What the first one has found; the other one has found nothing."""
        try:
            latency_s = min(self._round_trip(word()) for _ in range(_ROUND_TRIPS)) / 2
            self._round_trip(self._message(SMALL_BYTES))  # what is made once, is made
            bytes_per_s = self._throughput(SMALL_BYTES, latency_s)
            is_quick = torch.tensor([bytes_per_s > _QUICK_RATE])
            self._send(is_quick, from_first=True)
            if is_quick:
                bytes_per_s = self._throughput(LARGE_BYTES, latency_s)
        except PeerError as error:
            raise self._explained(error) from error
        if not self._is_first:
            return []
        islands = (self._one.island, self._other.island)
        names = (self._one.name, self._other.name)
        facts = self._world.route_of(_KIND).facts(self._peer)
        return [MeasuredLink(*names, islands, self._path.name, latency_s, bytes_per_s, facts)]

    def _message(self, num_bytes: int) -> Tensor:
        return torch.zeros(num_bytes, dtype=torch.uint8, device=self._world.member.device)

    def _throughput(self, num_bytes: int, latency_s: float) -> float:
        seconds = self._round_trip(self._message(num_bytes)) - latency_s
        return num_bytes / max(seconds, latency_s, 1e-9)

    def _round_trip(self, message: Tensor) -> float:
        """Seconds from the first one's message to the other one's word that it is there."""
        begun = time.perf_counter()
        self._send(message, from_first=True)
        self._send(word(), from_first=False)
        return time.perf_counter() - begun

    def _send(self, message: Tensor, from_first: bool) -> None:
        transfers = [Transfer(self._peer, message)]
        sends, receives = (transfers, []) if self._is_first == from_first else ([], transfers)
        under_way = self._world.route_of(_KIND).begin(sends, receives, self._wait)
        with self._wait as wait:
            wait.for_future(self._thread.submit(_wait_for_host, under_way, wait.anew()))

    def _explained(self, error: PeerError) -> PeerError:
        if not error.waited_for:
            return error
        one, other = (f"{worker.name} on {worker.node}" for worker in (self._one, self._other))
        explained = PeerError(
            f"{error}; too little comes through between {one} and {other}: look for a cable, or a "
            "firewall that drops what it has let begin; for a slow link, raise that limit"
        )
        explained.waited_for = error.waited_for
        return explained


def word() -> Tensor:
    """The smallest message."""
    return torch.zeros(1, dtype=torch.uint8)


def _wait_for_host(under_way: UnderWay, wait: PeerWait) -> None:
    with wait:
        under_way.wait_for_host(wait)


def _copy_rates(device: torch.device) -> CopyRates:
    """The better of two tries of each: the first one pays for what is made once."""
    memory = TorchDevice(device)
    copies = memory.copies()
    host = copies.memory(LARGE_BYTES)
    there = torch.zeros(LARGE_BYTES, dtype=torch.uint8, device=device)
    now = memory.now()

    def seconds(source: Tensor, target: Tensor) -> float:
        begun = time.perf_counter()
        copies.begin(source, target, now).wait()
        return time.perf_counter() - begun

    to_host = min(seconds(there, host) for _ in range(2))
    from_host = min(seconds(host, there) for _ in range(2))
    return CopyRates(LARGE_BYTES / to_host, LARGE_BYTES / from_host)
