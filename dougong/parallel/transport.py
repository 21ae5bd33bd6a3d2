"""Moving tensors between workers. Only moves: no collective here ever adds a float.

A `World` is one generation of workers. Point-to-point messages and gathers are all that dispatch, combine and the
ordered reductions need, so the same code serves gloo, NCCL and HCCL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from dougong.errors import LaunchError, PeerError

PATIENCE = timedelta(minutes=10)
"""Longest wait for a peer's message. The controller ends a generation much sooner when a worker dies."""


@dataclass(frozen=True)
class Member:
    """A worker's place in its world. `islands`: (name, native backend or "gloo", ranks) of every island."""

    rank: int
    size: int
    generation: int
    island: str
    islands: tuple[tuple[str, str, tuple[int, ...]], ...]
    device: torch.device


class World:
    """All workers of a generation: gloo between everybody, the native library inside an island."""

    def __init__(self, member: Member, gloo: dist.ProcessGroup | None, native: dist.ProcessGroup | None) -> None:
        self.member = member
        self.rank = member.rank
        self.size = member.size
        self._gloo = gloo
        self._native = native
        peers = next((ranks for name, _, ranks in member.islands if name == member.island), ())
        self._native_peers = frozenset(peers if native is not None else ())
        self.bytes_sent = 0

    @staticmethod
    def alone(device: torch.device | None = None) -> World:
        """A world of one worker: nothing is sent."""
        device = device or torch.device("cpu")
        return World(Member(0, 1, 1, "", (), device), None, None)

    @staticmethod
    def join(member: Member, store_address: tuple[str, int]) -> World:
        """Meet the generation's other workers at the controller's store. Collective: every worker calls it.

        Raises `LaunchError` when not everybody came within the deadline.
        """
        host, port = store_address
        try:
            store = TCPStore(host, port, is_master=False, timeout=timedelta(minutes=2))
            prefixed = PrefixStore(f"generation-{member.generation}", store)
            dist.init_process_group("gloo", store=prefixed, rank=member.rank, world_size=member.size, timeout=PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise LaunchError(
                f"worker {member.rank} of {member.size} could not join generation {member.generation} "
                f"at {host}:{port}: {error}; check that every node reaches that address"
            ) from error
        native = None
        for name, backend, ranks in member.islands:  # everybody makes every group, in the same order
            if backend == "gloo":
                continue
            group = dist.new_group(list(ranks), backend=backend, timeout=PATIENCE)
            native = group if name == member.island else native
        return World(member, dist.group.WORLD, native)

    def leave(self) -> None:
        """End this generation's groups."""
        if self._gloo is not None:
            dist.destroy_process_group()
            self._gloo = self._native = None

    def exchange(self, outgoing: Mapping[int, Tensor], incoming: Mapping[int, Tensor]) -> None:
        """Send `outgoing[r]` to each rank r and fill `incoming[r]` from it; returns when all have arrived.

        Both sides know which messages are due and their sizes; empty tensors are not sent. Messages between the same
        two ranks arrive in the order of the calls.
        """
        out = {r: t for r, t in outgoing.items() if t.numel() and r != self.rank}
        into = {r: t for r, t in incoming.items() if t.numel() and r != self.rank}
        if self.rank in incoming and incoming[self.rank].numel():
            incoming[self.rank].copy_(outgoing[self.rank])
        self.bytes_sent += sum(t.numel() * t.element_size() for t in out.values())
        near = self._native_peers
        self._post(
            {r: t for r, t in out.items() if r in near}, {r: t for r, t in into.items() if r in near}, self._native
        )
        far_in = {r: self._on_host(t) for r, t in into.items() if r not in near}
        self._post({r: self._on_host(t, copy=True) for r, t in out.items() if r not in near}, far_in, self._gloo)
        for r, host in far_in.items():
            if host is not into[r]:
                into[r].copy_(host)

    def _post(self, out: Mapping[int, Tensor], into: Mapping[int, Tensor], group: dist.ProcessGroup | None) -> None:
        operations = [dist.P2POp(dist.irecv, into[r], r, group) for r in sorted(into)]
        operations += [dist.P2POp(dist.isend, out[r], r, group) for r in sorted(out)]
        if not operations:
            return
        try:
            for work in dist.batch_isend_irecv(operations):
                work.wait(PATIENCE)
        except RuntimeError as error:
            peers = sorted({*out, *into})
            raise PeerError(f"worker {self.rank} lost a message with workers {peers}: {error}") from error

    def _on_host(self, tensor: Tensor, copy: bool = False) -> Tensor:
        """gloo speaks from host memory: stage what lies on a device."""
        if tensor.device.type == "cpu":
            return tensor
        return tensor.cpu() if copy else torch.empty(tensor.shape, dtype=tensor.dtype)

    def gather(self, values: Sequence[float], sizes: Sequence[int]) -> list[list[float]]:
        """Everybody's float64 values, by rank; `sizes[r]` says how many rank r has. Collective."""
        mine = torch.tensor(list(values), dtype=torch.float64)
        assert len(mine) == sizes[self.rank], f"rank {self.rank} gathers {len(mine)} values, {sizes[self.rank]} due"
        parts = {r: torch.empty(size, dtype=torch.float64) for r, size in enumerate(sizes)}
        parts[self.rank] = mine
        peers = {r: t for r, t in parts.items() if r != self.rank}
        self._post({r: mine for r in peers if mine.numel()}, {r: t for r, t in peers.items() if t.numel()}, self._gloo)
        return [parts[r].tolist() for r in range(self.size)]

    def barrier(self) -> None:
        """Wait for everybody. Collective."""
        self.gather([0.0], [1] * self.size)
