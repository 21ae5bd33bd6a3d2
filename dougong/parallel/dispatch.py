"""Dispatch and combine: rows travel from M attention workers to N experts workers and their answers come back.

Any M and N, the same workers or others: a worker without lanes sends nothing, one without experts receives nothing.
Nothing is padded and nothing dropped. Counts travel ahead of the rows; the backward reuses them by the handle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dougong.errors import LaunchError
from dougong.ops.expert import Block
from dougong.ops.routing import Routing
from dougong.parallel.plan import Plan
from dougong.parallel.shard import Key
from dougong.parallel.transport import World

HEADER = ("generation", "step", "site", "microbatch", "direction")
_NOTHING = torch.empty(0, 0, dtype=torch.int64)


@dataclass(frozen=True)
class Handle:
    """What a dispatch knows of its rows, kept for the way back and for the backward.

    `sent[lane][rank]`: rows of that local lane for that experts worker. `received[rank]`: rows of the wave here that
    come from that attention worker. `blocks`: the wave here, lane by lane and expert by expert.
    """

    key: Key
    sent: Mapping[int, Mapping[int, int]]
    received: Mapping[int, slice]
    blocks: tuple[Block, ...]


class Dispatcher:
    """One worker's end of dispatch and combine. Every method is collective over the plan's workers."""

    def __init__(self, world: World, plan: Plan, hidden_size: int, dtype: torch.dtype, device: torch.device) -> None:
        self._world = world
        self._hidden_size, self._dtype, self._device = hidden_size, dtype, device
        self._lanes_of = {w.rank: w.lanes for w in plan.workers if w.lanes}
        self._lanes = self._lanes_of.get(world.rank, ())
        num_sites = len(plan.workers[world.rank].experts)
        self._sites = [{w.rank: w.experts[site] for w in plan.workers if w.experts[site]} for site in range(num_sites)]
        for experts_of in self._sites:
            in_order = [e for experts in experts_of.values() for e in experts]
            assert in_order == list(range(plan.num_experts)), "a plan gives experts in ascending order of rank"
        in_order = [lane for lanes in self._lanes_of.values() for lane in lanes]
        assert in_order == list(range(plan.num_lanes)), "a plan gives lanes in ascending order of rank"
        self.step = 0

    def announce(self, key: Key, routings: Mapping[int, Routing]) -> Handle:
        """Tell every experts worker how many rows each local lane has for each of its experts.

        A lane missing from `routings` sends no rows. Raises `LaunchError` when a peer is somewhere else in the step.
        """
        stamp = [self._world.member.generation, self.step, *key, 0]
        own = self._own(key)
        outgoing, sent = {}, {lane: dict[int, int]() for lane in self._lanes}
        for rank, experts in self._experts_of(key).items():
            counts = torch.zeros(len(self._lanes), len(experts), dtype=torch.int64)
            for row, lane in enumerate(self._lanes):
                if lane in routings:
                    counts[row] = routings[lane].counts_E[experts[0] : experts[-1] + 1]
                sent[lane][rank] = int(counts[row].sum())
            outgoing[rank] = torch.cat([torch.tensor(stamp), counts.reshape(-1)])
        incoming = {}
        for rank, lanes in self._lanes_of.items() if own else ():
            incoming[rank] = torch.empty(len(HEADER) + len(lanes) * len(own), dtype=torch.int64)
        self._world.exchange(outgoing, incoming)
        for rank, header in incoming.items():
            self._check(rank, header[: len(HEADER)].tolist(), stamp)
        counts_LE = torch.cat([h[len(HEADER) :].view(-1, len(own)) for h in incoming.values()] or [_NOTHING])
        return Handle(key, sent, *self._wave(own, counts_LE.tolist()))

    def _wave(self, own: tuple[int, ...], counts_LE: list[list[int]]) -> tuple[dict[int, slice], tuple[Block, ...]]:
        """Where in the wave every attention worker's rows lie, and its blocks, from rows by lane and own expert."""
        received, blocks, start = {}, [], 0
        lanes = iter(counts_LE)
        for rank, theirs in self._lanes_of.items() if own else ():
            first = start
            for lane, counts in zip(theirs, lanes, strict=False):
                for expert, count in zip(own, counts, strict=True):
                    blocks += [Block(expert, lane, start, count)] if count else []
                    start += count
            received[rank] = slice(first, start)
        return received, tuple(blocks)

    def to_experts(self, handle: Handle, rows: Mapping[int, Tensor]) -> Tensor:
        """Send each local lane's rows [R, H] (sorted by expert); get the wave of every lane's rows for the own experts,
        [R, H], its blocks as in the handle."""
        parts = {
            rank: [self._part(handle, rows, lane, rank) for lane in self._lanes]
            for rank in self._experts_of(handle.key)
        }
        wave = self._empty(max((span.stop for span in handle.received.values()), default=0))
        me = self._world.rank
        out = {rank: self._join(pieces) for rank, pieces in parts.items() if rank != me}
        self._world.exchange(out, {rank: wave[span] for rank, span in handle.received.items() if rank != me})
        if me in handle.received:
            torch.cat(parts[me], out=wave[handle.received[me]])
        return wave

    def to_attention(self, handle: Handle, answers: Tensor) -> dict[int, Tensor]:
        """The way back: the wave's answers [R, H] from here; returns each local lane's, [R, H] in dispatch order."""
        me = self._world.rank
        sizes = {rank: [handle.sent[lane][rank] for lane in self._lanes] for rank in self._experts_of(handle.key)}
        into = {rank: self._empty(sum(rows)) for rank, rows in sizes.items() if rank != me}
        out = {rank: answers[span] for rank, span in handle.received.items() if rank != me}
        self._world.exchange(out, into)
        if me in sizes:
            into[me] = answers[handle.received[me]]
        pieces = {rank: into[rank].split(rows) for rank, rows in sizes.items()}
        return {lane: self._join([pieces[r][row] for r in sizes]) for row, lane in enumerate(self._lanes)}

    def _experts_of(self, key: Key) -> dict[int, tuple[int, ...]]:
        """The workers that rows of this site may go to from here, with their experts."""
        return self._sites[key[0]] if self._lanes else {}

    def _own(self, key: Key) -> tuple[int, ...]:
        """This worker's experts of the site."""
        return self._sites[key[0]].get(self._world.rank, ())

    def _part(self, handle: Handle, rows: Mapping[int, Tensor], lane: int, rank: int) -> Tensor:
        """The rows of a lane that go to one worker."""
        if lane not in rows:
            return self._empty(0)
        before = sum(count for other, count in handle.sent[lane].items() if other < rank)
        return rows[lane][before : before + handle.sent[lane][rank]]

    def _join(self, pieces: Sequence[Tensor]) -> Tensor:
        pieces = [p for p in pieces if len(p)]
        if not pieces:
            return self._empty(0)
        return pieces[0].contiguous() if len(pieces) == 1 else torch.cat(list(pieces))

    def _empty(self, num_rows: int) -> Tensor:
        return torch.empty(num_rows, self._hidden_size, dtype=self._dtype, device=self._device)

    def _check(self, rank: int, theirs: list[int], ours: list[int]) -> None:
        if theirs != ours:
            names = ", ".join(f"{n} {a} against {b}" for n, a, b in zip(HEADER, theirs, ours, strict=True) if a != b)
            raise LaunchError(
                f"worker {rank} sent a message that worker {self._world.rank} does not wait for: {names}; "
                "the two do not run the same schedule, which is a fault of dougong: please report it with both logs"
            )
