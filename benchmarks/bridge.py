"""A message between two islands against the slowest leg of its way, in chunks and whole.

    python benchmarks/bridge.py [--rounds N] [--mebibytes N ...] [--chunk-kib N ...] [--connections N ...]

Two workers on two hosts (namespaces of this machine, `dougong.testing`), whose link is held to a rate by `tc tbf`. The
devices are emulated: a copy between device and host takes its bytes over a rate, one after another in each direction,
beside everything else; what is copied and sent is real. The legs are the copy to the host, the wire and the copy to the
device. Contestants take turns in one pair of processes: the bytes by gloo alone, from host memory to host memory (the
wire, as fast as gloo is on it); the message whole (copied, sent, copied); and in chunks. A ratio is the throughput of a
form over that of the slowest leg, the wire's measured beside it. Needs root.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.distributed as dist
from torch import Tensor

from dougong.accelerators.streams import Mark
from dougong.parallel.bridge.base import Opening
from dougong.parallel.bridge.chunks import ChunkRule
from dougong.parallel.bridge.host_end import HostEnd
from dougong.parallel.bridge.staging import Copies, Copy, DeviceMemory
from dougong.parallel.comm.meeting import GroupMaker, meet
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.threads import MessageThread
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import PeerWait
from dougong.testing import Lab

ROOT = Path(__file__).resolve().parent.parent
MEGA, MEBI = 1e6, 1 << 20
LIMIT_S = 900
OWN = -1
PORT = 29400
ISLANDS = (("east", "gloo", (0,)), ("west", "gloo", (1,)))


@dataclass(frozen=True)
class Case:
    """Rates in MB/s, of the wire and of the copies at both ends; None: as fast as this machine is."""

    name: str
    wire: float | None
    copy: float | None


CASES = (
    Case("slow wire", 100, 400),
    Case("slow copies", 400, 100),
    Case("balanced", 100, 100),
    Case("nothing held", None, None),
)


@dataclass(frozen=True)
class Form:
    """`chunk_kib`: None for a message that goes whole; 0 for the bytes by gloo alone; -1 for dougong's own rule."""

    chunk_kib: int | None
    connections: int = 1

    def rule(self, num_bytes: int) -> ChunkRule:
        if self.chunk_kib == OWN:
            return ChunkRule(num_connections=self.connections)
        chunk = num_bytes if not self.chunk_kib else self.chunk_kib << 10
        return ChunkRule(1, chunk, chunk, self.connections)

    @property
    def name(self) -> str:
        if self.chunk_kib is None:
            return "whole"
        if not self.chunk_kib:
            return "wire alone"
        what = "chunks" if self.chunk_kib == OWN else f"chunks of {self.chunk_kib} KiB"
        return f"{what}, {self.connections} connection{'s' * (self.connections > 1)}"


class _Slept(Copy):
    def __init__(self, until: float) -> None:
        self._until = until

    def wait(self) -> None:
        time.sleep(max(0.0, self._until - time.monotonic()))


class SlowCopies(Copies):
    """One after another, each as long as its bytes take."""

    def __init__(self, mb_s: float | None) -> None:
        self._s_per_byte = 0.0 if mb_s is None else 1 / (mb_s * MEGA)
        self._free_at = 0.0

    def memory(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8)

    def begin(self, source: Tensor, target: Tensor, after: Mark) -> Copy:
        begun = time.monotonic()
        target.copy_(source)
        self._free_at = max(begun, self._free_at) + target.nbytes * self._s_per_byte
        return _Slept(self._free_at)

    def settle(self) -> None:
        _Slept(self._free_at).wait()


class SlowDevice(DeviceMemory):
    """All tensors lie on it."""

    is_pinned = False

    def __init__(self, mb_s: float | None) -> None:
        self._mb_s = mb_s

    def holds(self, tensor: Tensor) -> bool:
        return True

    def now(self) -> Mark:
        return None

    def copies(self) -> Copies:
        return SlowCopies(self._mb_s)


class Worker:
    """One of the two."""

    def __init__(self, rank: int, addresses: Sequence[str], most_connections: int) -> None:
        device = torch.device("cpu")
        own = addresses[rank]
        self.member = Membership(rank, 2, 1, ISLANDS[rank][0], ISLANDS, device, (0, 1), address=own)
        store = dist.TCPStore(addresses[0], PORT, is_master=rank == 0)
        maker = GroupMaker(self.member)
        meet(self.member, store, lambda arrival: None)
        maker.make_first(store)
        self._groups = [maker.make([0, 1]) for _ in range(most_connections)]
        self._number = 0

    def seconds(self, form: Form, num_bytes: int, copy: float | None) -> float:
        """From the moment in which the first one has the message on its device until it knows that the second one has
        it."""
        end = self._end(form, num_bytes, copy)
        tensor = torch.ones(num_bytes, dtype=torch.uint8)
        self._cross(end, form, tensor[: min(num_bytes, MEBI)])  # what is made once, is made
        self._answer()
        begun = time.perf_counter()
        self._cross(end, form, tensor)
        self._answer()
        return time.perf_counter() - begun

    def _end(self, form: Form, num_bytes: int, copy: float | None) -> HostEnd:
        opening = Opening(self.member, (0, 1), "rows", None, tuple(self._groups[: form.connections]), MessageThread)
        return HostEnd(opening, form.rule(num_bytes), SlowDevice(copy))

    def _cross(self, end: HostEnd, form: Form, tensor: Tensor) -> None:
        peer = 1 - self.member.rank
        if form.chunk_kib == 0:
            call = dist.isend if self.member.rank == 0 else dist.irecv
            work = call(tensor, peer, self._groups[0], 1)
            assert work is not None
            work.wait()
            return
        transfers = [Transfer(peer, tensor, 1)]
        sends, receives = (transfers, []) if self.member.rank == 0 else ([], transfers)
        wait = PeerWait(self.member, [peer], "a message")
        under_way = end.begin(sends, receives, wait)
        with wait:
            under_way.wait(wait)

    def _answer(self) -> None:
        word = torch.zeros(1, dtype=torch.uint8)
        if self.member.rank == 0:
            dist.recv(word, 1, self._groups[0], 2)
        else:
            dist.send(word, 0, self._groups[0], 2)


def measure(options: argparse.Namespace) -> None:
    """Of one case, in both workers; the first one prints what it has found."""
    torch.set_num_threads(1)
    worker = Worker(options.rank, options.addresses, max(options.connections))
    for number, mebibytes, form in itertools.product(range(options.rounds), options.mebibytes, forms(options)):
        num_bytes = int(mebibytes * MEBI)
        taken = worker.seconds(form, num_bytes, options.copy)
        found = {"round": number, "bytes": num_bytes, "form": form.name, "seconds": taken}
        if options.rank == 0:
            print(json.dumps(found), flush=True)


def forms(options: argparse.Namespace) -> Iterator[Form]:
    yield Form(0)
    yield Form(None)
    for connections in options.connections:
        for chunk_kib in options.chunk_kib:
            yield Form(chunk_kib, connections)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mebibytes", type=float, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--chunk-kib", type=int, nargs="+", default=[OWN])
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 2])
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--copy", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--addresses", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: at least 2, since a spread is printed")
    if options.rank is not None:
        measure(options)
        return
    with Lab(num_hosts=2) as lab:
        for case in CASES:
            if case.name in options.cases:
                report(case, run(lab, case))


def run(lab: Lab, case: Case) -> list[dict[str, Any]]:
    lab.limit(case.wire)
    addresses = [host.address for host in lab.hosts]
    words = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--addresses", *addresses]
    if case.copy is not None:
        words += ["--copy", str(case.copy)]
    variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    workers = [host.start([*words, "--rank", str(rank)], variables) for rank, host in enumerate(lab.hosts)]
    for worker in workers:
        if worker.wait(LIMIT_S):
            raise SystemExit(worker.output)
    lab.limit(None)
    return [json.loads(line) for line in workers[0].output.splitlines() if line.startswith("{")]


def report(case: Case, rows: Sequence[dict[str, Any]]) -> None:
    words = [f"{what} {rate:g} MB/s" for what, rate in (("wire", case.wire), ("copies", case.copy)) if rate is not None]
    print(f"{case.name}{': ' if words else ''}{', '.join(words)}")
    taken = {(row["form"], row["bytes"], row["round"]): row["seconds"] for row in rows}
    for num_bytes in sorted({row["bytes"] for row in rows}):
        for form in dict.fromkeys(row["form"] for row in rows):
            ratios = []
            for number in range(max(row["round"] for row in rows) + 1):
                wire = taken[Form(0).name, num_bytes, number]
                copy = 0.0 if case.copy is None else num_bytes / (case.copy * MEGA)
                ratios.append(max(wire, copy) / taken[form, num_bytes, number])
            times = [row["seconds"] for row in rows if (row["form"], row["bytes"]) == (form, num_bytes)]
            spread = f"{statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
            size, rate = f"{num_bytes / MEBI:g} MiB", num_bytes / MEGA / statistics.median(times)
            print(f"  {size:>7} {form:<36} {rate:7.1f} MB/s, of the slowest leg {spread}")


if __name__ == "__main__":
    main()
