"""Real workers of unlike islands, each a process with a device of its own vendor, and what they do together.

python -m tests.parallel.bridge.islands SCENARIO RANK PORT KIND ...
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from dougong.deadlines import Deadlines
from dougong.errors import PeerError
from dougong.parallel.bridge.chunks import ChunkRule
from dougong.parallel.bridge.host_end import NUM_ROOMS
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import PeerWait
from dougong.parallel.comm.world import World
from dougong.parallel.schedules.operation import MessageKind
from tests.stores import store_at

ROOT = Path(__file__).resolve().parents[3]
MODULE = "tests.parallel.bridge.islands"
LIMIT_S = 300
MESSAGE_S = 60.0
PERIOD = 251  # chunks begin at other places of it
DIES_AFTER_S = 0.02
LEAST, MOST = ChunkRule().least_bytes, ChunkRule().most_bytes
SIZES = (0, 1, LEAST - 1, LEAST, LEAST + 1, NUM_ROOMS * MOST + 7)
LARGE = 16 * NUM_ROOMS * MOST
"""Bytes of messages: about one chunk, and more of them than there is room for."""
VENDORS = {
    "sima": {"SIMDEV_VENDOR": "sima", "SIMDEV_LIBRARY": "simaccl"},
    "simb": {"SIMDEV_VENDOR": "simb", "SIMDEV_LIBRARY": "simbccl"},
    "cpu": {},
}


def run_islands(scenario: str, kinds: Sequence[str]) -> list[Any]:
    """What each worker has found, by rank: one worker on each of these kinds of devices. A worker that ends without a
    word has found None."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    workers = []
    for rank, kind in enumerate(kinds):
        environment = {**os.environ, **VENDORS[kind], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-m", MODULE, scenario, str(rank), str(store.port), *kinds]
        workers.append(subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True))
    try:
        printed = [worker.communicate(timeout=LIMIT_S)[0].splitlines() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    return [json.loads(lines[-1]) if lines else None for lines in printed]


def edges(world: World) -> Any:
    """Everybody sends everybody one message of each size at once; whose bytes were others than those that were sent."""
    wrong = []
    others = [rank for rank in range(world.size) if rank != world.rank]
    for _ in range(2):  # memory that was used before
        sends, landings = [], {}
        for peer in others:
            for tag, size in enumerate(SIZES):
                sends.append(Transfer(peer, made(world, world.rank, peer, size), tag))
                landings[peer, tag] = torch.empty(size, dtype=torch.uint8, device=world.member.device)
        receives = [Transfer(peer, landing, tag) for (peer, tag), landing in landings.items()]
        cross(world, sends, list(reversed(receives)))
        for (peer, tag), landing in landings.items():
            due = content(peer, world.rank, SIZES[tag])
            if not torch.equal(landing.cpu(), due):
                wrong.append([peer, SIZES[tag]])
    return wrong


def sums(world: World) -> Any:
    """Several transfers of dense tensors under way at a time, of several dtypes; those that came otherwise."""
    peer, device = 1 - world.rank, world.member.device
    pending, landings = [], []
    for number, dtype in enumerate((torch.float32, torch.bfloat16, torch.float64)):
        leaving = (torch.arange(700_000, device=device) * (number + 1 + world.rank)).to(dtype)
        landings.append(torch.empty(700_000, dtype=dtype, device=device))
        arriving = [Transfer(peer, landings[-1])]
        pending.append(world.transfer(TrafficKind.SUMS, [Transfer(peer, leaving)], arriving, "sums"))
    for one in pending:
        one.wait()
    due = [torch.arange(700_000) * (number + 1 + peer) for number in range(3)]
    pairs = zip(landings, due, strict=True)
    return [str(landed.dtype) for landed, values in pairs if not torch.equal(landed.cpu(), values.to(landed.dtype))]


def dies(world: World) -> Any:
    """The second worker dies while a large message is on its way to it; what the first one is told."""
    values = torch.ones(LARGE, dtype=torch.uint8, device=world.member.device)
    world.barrier()
    if world.rank == 1:
        threading.Timer(DIES_AFTER_S, os._exit, [1]).start()
        cross(world, [], [Transfer(0, values)])
    try:
        cross(world, [Transfer(1, values)], [])
    except PeerError as error:
        return str(error)
    return "nothing"


def cross(world: World, sends: Sequence[Transfer], receives: Sequence[Transfer]) -> None:
    peers = [transfer.rank for transfer in (*sends, *receives)]
    wait = PeerWait(world.member, sorted(set(peers)), "a crossing")
    under_way = world.route_of(MessageKind.ROWS).begin(sends, receives, wait)
    with wait:
        under_way.wait_for_host(wait)


def made(world: World, sender: int, receiver: int, size: int) -> torch.Tensor:
    """A message that the device has yet to compute: nobody has waited for it."""
    half = content(sender, receiver, size).to(world.member.device) // 2
    odd = content(sender, receiver, size).to(world.member.device) % 2
    return half * 2 + odd


def content(sender: int, receiver: int, size: int) -> torch.Tensor:
    numbers = (torch.arange(PERIOD) * (sender + 2) + receiver) % PERIOD
    return numbers.to(torch.uint8).repeat(size // PERIOD + 1)[:size]


SCENARIOS: dict[str, Callable[[World], Any]] = {
    "edges": edges, "sums": sums, "dies": dies,
}  # fmt: skip


def open_device(kind: str) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    from tests.simdev import plugin

    torch.accelerator.set_device_index(0)
    return torch.device(plugin.VENDOR, 0)


def main(scenario: str, rank: int, port: int, kinds: Sequence[str]) -> None:
    islands = []
    for number, kind in enumerate(kinds):
        islands.append((f"{kind}-{number}", VENDORS[kind].get("SIMDEV_LIBRARY", "gloo"), (number,)))
    ranks = tuple(range(len(kinds)))
    names = tuple(f"{name}/0" for name, _, _ in islands)
    device = open_device(kinds[rank])
    limits = Deadlines(message_s=MESSAGE_S)
    member = Membership(rank, len(kinds), 1, islands[rank][0], tuple(islands), device, ranks, names, limits)
    world = World.join(member, store_at(port))
    found = SCENARIOS[scenario](world)
    print(json.dumps(found), flush=True)
    if scenario == "dies":
        os._exit(0)
    world.barrier()
    world.leave()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
