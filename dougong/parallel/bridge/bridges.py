"""A worker's ends of all bridges of its generation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from torch.distributed import PrefixStore, ProcessGroup, Store  # type: ignore[attr-defined]

from dougong.parallel.bridge.base import BridgeEnd, Opening
from dougong.parallel.bridge.host import HostBridge
from dougong.parallel.bridge.registry import get_bridge
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.threads import MessageThread
from dougong.parallel.comm.wait import PeerWait


class Bridges:
    """A worker's ends of all bridges of its generation."""

    def __init__(self, member: Membership, store: Store | None = None) -> None:
        """`store`: the generation's."""
        self._member, self._store = member, store
        self._opened: list[BridgeEnd] = []

    def open(
        self,
        purpose: str,
        connections: Sequence[ProcessGroup],
        among: Collection[int],
        make_thread: Callable[[str], MessageThread],
    ) -> dict[int, BridgeEnd]:
        """The ends to the workers on the other side of a bridge, by rank, for messages of one kind
        between `among`. Called on all workers for the same kinds in the same order.

        Raises DeviceError where a bridge lacks something here, and PeerError where a peer takes no
        part; then none is open any more.
        """
        try:
            return self._open(purpose, connections, among, make_thread)
        except BaseException:
            self.abort()
            self.close()
            raise

    def abort(self) -> None:
        """Have whoever waits for a peer beyond a bridge raise PeerError soon. Any thread may call
        this."""
        for end in list(self._opened):
            end.abort()

    def close(self) -> None:
        """Give back what the ends hold; nothing is under way."""
        while self._opened:
            self._opened.pop().close()

    def _open(
        self,
        purpose: str,
        connections: Sequence[ProcessGroup],
        among: Collection[int],
        make_thread: Callable[[str], MessageThread],
    ) -> dict[int, BridgeEnd]:
        ends: dict[int, BridgeEnd] = {}
        if self._member.rank not in among:
            return ends
        for name, ranks in self._ranks_by_bridge(among).items():
            opening = Opening(
                self._member,
                tuple(sorted((*ranks, self._member.rank))),
                purpose,
                self._store_of(name, purpose),
                tuple(connections),
                make_thread,
            )
            with PeerWait(self._member, ranks, f"bridge {name} for {purpose}"):
                end = get_bridge(name).open(opening)
            self._opened.append(end)
            ends.update(dict.fromkeys(ranks, end))
        return ends

    def _ranks_by_bridge(self, among: Collection[int]) -> dict[str, list[int]]:
        """The peers beyond every bridge. The host's comes first: all workers have bridges in this
        order."""
        found: dict[str, list[int]] = {}
        for rank in sorted(among):
            path = self._member.path_to(rank)
            if rank != self._member.rank and path.is_bridged:
                found.setdefault(path.bridge or HostBridge.name, []).append(rank)
        return dict(sorted(found.items(), key=lambda item: (item[0] != HostBridge.name, item[0])))

    def _store_of(self, name: str, purpose: str) -> Store | None:
        return None if self._store is None else PrefixStore(f"{name}/{purpose}", self._store)
