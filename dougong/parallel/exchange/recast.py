"""The same workers with their parts exchanged: each process computes what the plan gives to another
one.

The plan stays as it is, and with it every shape and every order of a sum, so what comes out is the
same to the bit. Only who is meant by a rank is another one. Messages go one by one and through host
memory: this is for computing a step a second time, not for speed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.route import Pending, Route, UnderWay
from dougong.parallel.comm.tally import MessageTally
from dougong.parallel.comm.threads import MessageThread
from dougong.parallel.comm.traffic import SentTraffic, TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import PeerWait, RankedWork
from dougong.parallel.comm.world import World
from dougong.parallel.schedules.operation import MessageKind


def exchanged_parts(kinds: Sequence[str], turn: int = 0) -> tuple[int, ...]:
    """By rank, whose part that worker takes over: of all of its kind in a ring, the next one's, and
    with each `turn` the one's after that, but never its own. `kinds`: by rank. The only one of its
    kind keeps its own."""
    parts = list(range(len(kinds)))
    for kind in set(kinds):
        ring = [rank for rank, other in enumerate(kinds) if other == kind]
        if len(ring) == 1:
            continue
        shift = 1 + turn % (len(ring) - 1)
        for place, rank in enumerate(ring):
            parts[rank] = ring[(place + shift) % len(ring)]
    return tuple(parts)


class RecastWorld(World):
    """A world as the worker sees it whose part this one takes over. `tally` is its own. Not to be
    left: `close` ends what it has begun."""

    def __init__(self, world: World, parts: Sequence[int]) -> None:
        """`parts[rank]`: whose part the worker `rank` of `world` takes over."""
        self._real = world
        self._process_of = [parts.index(part) for part in range(world.size)]
        self.member = self._member(world.member, parts[world.rank])
        self.rank, self.size, self.step = self.member.rank, world.size, world.step
        self.sent = SentTraffic(self.rank, self.size)
        self.tally = MessageTally()
        self.native = None
        self._threads: list[MessageThread] = []
        self._at_leaving: list[Callable[[], None]] = []
        self._route = _RecastRoute(world.everybody, self._process_of)

    def _member(self, member: Membership, part: int) -> Membership:
        names = member.names

        def awaits(ranks: Collection[int]) -> None:
            member.awaits([self._process_of[rank] for rank in ranks])

        return replace(
            member,
            rank=part,
            islands=((member.island, "gloo", (part,)),),
            names=tuple(names[self._process_of[rank]] for rank in range(len(names))),
            awaits=awaits,
        )

    def begin_step(self, step: int) -> None:
        self.step = step

    def close(self) -> None:
        """End its threads; nothing may be under way."""
        self._end_what_is_due()

    def route_of(self, kind: MessageKind) -> Route:
        return self._route

    def transfer(
        self,
        kind: TrafficKind,
        sends: Sequence[Transfer],
        receives: Sequence[Transfer],
        what: str,
    ) -> Pending:
        arrived = self._tallied(what, sends, receives)
        leaving, coming = self._mapped(sends), self._mapped(receives)
        with self._real.uncounted():
            pending = self._real.transfer(kind, leaving, coming, what)
        return replace(pending, _arrived=arrived)

    def transfer_on_host(
        self,
        kind: TrafficKind,
        sends: Sequence[Transfer],
        receives: Sequence[Transfer],
        what: str,
    ) -> Pending:
        arrived = self._tallied(what, sends, receives)
        leaving, coming = self._mapped(sends), self._mapped(receives)
        what = f"{what}, step {self.step}"
        return self._real.on_host.begin(kind, leaving, coming, what, arrived)

    def add_counts(self, counts: Tensor, attention_only: bool = False) -> Tensor:
        return self._real.add_counts(counts, attention_only)

    def _mapped(self, transfers: Sequence[Transfer]) -> list[Transfer]:
        return [replace(one, rank=self._process_of[one.rank]) for one in transfers]


@dataclass(frozen=True)
class _RecastRoute(Route):
    """To whoever has taken over a rank's part, by gloo."""

    process_of: Sequence[int] = ()

    def __init__(self, group: dist.ProcessGroup | None, process_of: Sequence[int]) -> None:
        object.__setattr__(self, "group", group)
        object.__setattr__(self, "ends", {})
        object.__setattr__(self, "process_of", process_of)

    def begin(
        self, sends: Sequence[Transfer], receives: Sequence[Transfer], wait: PeerWait
    ) -> UnderWay:
        begun = _Arriving()
        coming = []
        for transfer in receives:
            landing = torch.empty(transfer.tensor.shape, dtype=transfer.tensor.dtype)
            begun.landings.append((landing, transfer.tensor))
            coming.append(replace(transfer, tensor=landing))
        begun.kept = [replace(transfer, tensor=transfer.tensor.cpu()) for transfer in sends]
        begun.host = super().begin(begun.kept, coming, wait).host
        return begun

    def _begin(
        self, call: Callable[..., dist.Work | None], transfer: Transfer, wait: PeerWait
    ) -> RankedWork:
        with wait.of([transfer.rank]):
            process = self.process_of[transfer.rank]
            work = call(transfer.tensor, process, self.group, transfer.tag)
        assert work is not None, "a message within one's own group"
        return transfer.rank, work


class _Arriving(UnderWay):
    """Whose tensors have their values when it has been waited for."""

    kept: Sequence[Transfer] = ()

    def wait_for_host(self, wait: PeerWait) -> None:
        super().wait_for_host(wait)
        self.land()
