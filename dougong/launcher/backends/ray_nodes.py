"""The nodes of a Ray cluster as they are now: which of them answer, what of them is free, and who
holds the rest.

Ray lists a node that died hard for half a minute, and beside it the one that its machine has
started anew. Ray must have been joined before anything here is called.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from dougong.accelerators.registry import accelerator_names, get_accelerator
from dougong.addresses import show_address
from dougong.deadlines import Deadlines
from dougong.launcher.backends.ray_holders import Holders
from dougong.launcher.backends.ray_path import narrow_words, takes_large
from dougong.planner.nodes import Node

_Place = tuple[str, int]
_AT_ONCE = 64
"""So many nodes are knocked at at the same time."""
_COMMON = ("CPU", "memory", "object_store_memory")
"""Resources that every node has."""


@dataclass(frozen=True)
class Listing:
    """A node as Ray lists it. `port`: its raylet's; `started_ms`, `ended_ms`: by the clock of the
    cluster's head, 0 where that is not known. `free`: None for one that has not said so yet."""

    id: str
    address: str
    port: int
    name: str
    given_name: str
    is_alive: bool
    total: Mapping[str, float]
    free: Mapping[str, float] | None
    labels: Mapping[str, str]
    started_ms: int = 0
    ended_ms: int = 0

    @property
    def place(self) -> _Place:
        """Where its raylet listens."""
        return self.address, self.port


def cluster_nodes(kinds: Sequence[str], deadlines: Deadlines, own_groups: set[str]) -> list[Node]:
    """The nodes that Ray lists, with their devices of these accelerators; of those that do not
    answer, since when. `own_groups`: ids of the placement groups that are this run's."""
    listings = without_earlier_lives(read_listings())
    silent = find_silent(listings, deadlines)
    holders = Holders.read(own_groups)
    return [describe(listing, kinds, silent.get(listing.id, ""), holders) for listing in listings]


def read_listings() -> list[Listing]:
    """What Ray says of its nodes, those that are dead included."""
    import ray

    state = ray._private.state
    free = state.state.available_resources_per_node()
    times = _times()
    listings = []
    for raw in ray.nodes():
        address = raw["NodeManagerAddress"]
        started_ms, ended_ms = times.get(raw["NodeID"], (0, 0))
        listing = Listing(
            id=raw["NodeID"],
            address=address,
            port=raw["NodeManagerPort"],
            name=str(raw.get("NodeManagerHostname") or address),
            given_name=str(raw.get("NodeName") or ""),
            is_alive=raw["Alive"],
            total=raw["Resources"],
            free=free.get(raw["NodeID"]),
            labels={str(key): str(value) for key, value in (raw.get("Labels") or {}).items()},
            started_ms=started_ms,
            ended_ms=ended_ms,
        )
        listings.append(listing)
    return listings


def _times() -> dict[str, tuple[int, int]]:
    """When each node started and ended, by its id; nothing where this Ray does not tell."""
    import ray

    worker: Any = ray._private.worker.global_worker
    try:
        infos = worker.gcs_client.get_all_node_info()
        return {node.hex(): (one.start_time_ms, one.end_time_ms) for node, one in infos.items()}
    except (AttributeError, TypeError):  # names of Ray's own, in another Ray
        return {}


def without_earlier_lives(listings: Sequence[Listing]) -> list[Listing]:
    """Without the dead of an address whose node has died again since: Ray lists every one."""
    last: dict[str, Listing] = {}
    for dead in (listing for listing in listings if not listing.is_alive):
        if dead.ended_ms >= last.setdefault(dead.address, dead).ended_ms:
            last[dead.address] = dead
    return [listing for listing in listings if listing.is_alive or last[listing.address] is listing]


def find_silent(listings: Sequence[Listing], deadlines: Deadlines) -> dict[str, str]:
    """The nodes that do not answer, by id, and how that shows. All are tried at the same time."""
    newest = _newest(listings)

    def answers(place: _Place) -> bool:
        try:
            with socket.create_connection(place, timeout=deadlines.node_probe_s):
                return True
        except OSError:
            return False

    there = _of_each(newest, answers)
    large = _of_each(
        [place for place in newest if there[place]], lambda place: takes_large(*place, deadlines)
    )

    def why(listing: Listing) -> str:
        place = listing.place
        if not listing.is_alive:
            return f"has left the cluster{_since(listing.ended_ms)}"
        if newest[place] is not listing:
            return "was started anew since"
        if not there[place]:
            return (
                f"does not answer at {show_address(*place)}, though the head lists it still: its "
                "Ray was killed, or its machine is down"
            )
        return "" if large[place] else narrow_words(*place, deadlines)

    reasons = {listing.id: why(listing) for listing in listings}
    return {node: reason for node, reason in reasons.items() if reason}


def _newest(listings: Sequence[Listing]) -> dict[_Place, Listing]:
    """The living node at each raylet's address: of two that are listed there the one that was
    started last, since both cannot be alive."""
    newest: dict[_Place, Listing] = {}
    for listing in listings:
        if not listing.is_alive:
            continue
        rival = newest.setdefault(listing.place, listing)
        if listing.started_ms > rival.started_ms:
            newest[listing.place] = listing
    return newest


def _of_each(places: Iterable[_Place], ask: Callable[[_Place], bool]) -> dict[_Place, bool]:
    """What is found at each of these, all of them asked at the same time."""
    asked = list(places)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(asked, pool.map(ask, asked), strict=True))


def _since(ended_ms: int) -> str:
    """` (dead since 13:05:07)`, by this machine's time zone."""
    if not ended_ms:
        return ""
    return time.strftime(" (dead since %H:%M:%S)", time.localtime(ended_ms / 1000))


def describe(listing: Listing, kinds: Sequence[str], gone: str, holders: Holders) -> Node:
    """A node for the planner."""
    free = listing.total if listing.free is None else listing.free
    resources = {kind: get_accelerator(kind).resource for kind in kinds}
    known = {kind: name for kind, name in resources.items() if name is not None}
    held = {name: listing.total.get(name, 0) - free.get(name, 0) for name in known.values()}
    return Node(
        id=listing.id,
        name=listing.name,
        address=listing.address,
        devices={kind: int(listing.total.get(name, 0)) for kind, name in known.items()},
        labels=listing.labels,
        given_name=listing.given_name,
        free={kind: int(free.get(name, 0)) for kind, name in known.items()},
        holders=holders.of(listing.id, held),
        cpus=listing.total.get("CPU", 0.0),
        free_cpus=free.get("CPU", 0.0),
        resources=_marks(listing.total),
        gone=gone,
    )


def _marks(total: Mapping[str, float]) -> frozenset[str]:
    """The names of a node's resources that its owner has given to it."""
    common = {*_COMMON, *(get_accelerator(name).resource for name in accelerator_names())}
    return frozenset(name for name in total if name not in common and not name.startswith("node:"))
