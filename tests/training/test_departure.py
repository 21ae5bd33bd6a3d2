"""Out of a broken generation and into the next one, in real processes that stay the same."""

from __future__ import annotations

import dataclasses
import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from dougong.accelerators.cpu import Cpu
from dougong.control.worker_messages import StoreReply, StoreRequest, WorkerMessage
from dougong.deadlines import Deadlines
from dougong.errors import PeerError
from dougong.job.fault.snapshots import Snapshots
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.message import PartRoom, SplitTensor
from dougong.parallel.comm.peers import Sides
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import PeerWait
from dougong.parallel.comm.world import World
from dougong.parallel.comm.world_groups import WorldGroups
from dougong.parallel.exchange.exchange import Exchange
from dougong.parallel.exchange.expected import Expected, Outgoing
from dougong.parallel.plan import Plan
from dougong.parallel.schedules.operation import MessageKind
from dougong.training.departure import Departure
from dougong.training.memory.state_memory import StateMemory
from tests.parallel.workers import plan_of
from tests.processes import run_workers
from tests.stores import store_at
from torch.distributed import TCPStore


class Ordered:
    """A worker's line as far as a departure goes: this test orders it to leave."""

    def __init__(self) -> None:
        self.is_over = False
        self.free: Callable[[], None] = lambda: None
        self.leave: Callable[[], int] = lambda: 0

    def progress(self, step: int, phase: str, operation: int) -> None:
        pass

    def send(self, message: WorkerMessage) -> None:
        pass

    @property
    def stop_requested(self) -> bool:
        return False

    @property
    def rest_requested(self) -> bool:
        return False

    @property
    def leave_requested(self) -> bool:
        return self.is_over

    def ask(self, question: Callable[[int], StoreRequest], timeout_s: float, limit: str = "") -> StoreReply:
        raise AssertionError("these workers meet elsewhere")

    def at_leaving(self, free: Callable[[], None], leave: Callable[[], int]) -> None:
        self.free, self.leave = free, leave
        if self.is_over:
            free()

    def order(self) -> None:
        """From another thread, as the line's reader does."""
        self.is_over = True
        thread = threading.Thread(target=self.free)
        thread.start()
        thread.join(30)

    def order_soon(self, seconds: float = 0.2) -> None:
        """When the worker stands in a call of the library by then."""
        threading.Timer(seconds, self.order).start()


class Recorded(Cpu):
    """An accelerator that takes down which groups it was to abort."""

    def __init__(self) -> None:
        self.aborted: list[int] = []

    def abort(self, groups: Sequence[Any]) -> None:
        self.aborted.append(len(groups))


def depart(control: Ordered, accelerator: Cpu | None = None) -> Departure:
    return Departure(control, accelerator or Cpu(), StateMemory(Snapshots()))


def join(rank: int, generation: int, port: int, control: Ordered, size: int = 3) -> tuple[World, Departure]:
    everybody = tuple(range(size))
    names = tuple(f"east/{r}" for r in everybody)
    member = Membership(
        rank, size, generation, "east", (("east", "gloo", everybody),), torch.device("cpu"), everybody, names
    )
    departure = depart(control)
    member = dataclasses.replace(member, is_over=lambda: control.leave_requested)
    world = World.join(member, store_at(port, generation))
    departure.note_joined(world)
    return world, departure


def wait_for_all(world: World) -> None:
    world.barrier()


def wait_for_tensors(world: World) -> None:
    others = [rank for rank in range(world.size) if rank != world.rank]
    world.transfer(TrafficKind.SUMS, [], [Transfer(rank, torch.zeros(9)) for rank in others], "what never comes").wait()


def wait_for_rows(world: World) -> None:
    """With a second turn behind the first, which is not even begun."""
    exchange = Exchange(world)
    everybody, sizes = tuple(range(world.size)), [3] * world.size
    exchange.expect([Expected(MessageKind.ROWS, (site, 0), Sides(everybody, everybody), 1) for site in (0, 1)])
    # Which nobody hands over.
    exchange.expect([Expected(MessageKind.OUTPUTS, (0, 0), Sides(everybody, everybody), 1)])
    exchange.make_room(MessageKind.ROWS, (0, 0), [PartRoom(sizes, (), torch.float32)])
    exchange.send(MessageKind.ROWS, (0, 0), Outgoing([SplitTensor(torch.zeros(sum(sizes)), sizes)]))
    exchange.receive(MessageKind.ROWS, (0, 0))


WAITS = (wait_for_all, wait_for_tensors, wait_for_rows)


def end_of_threads() -> list[str]:
    """Names of threads of messages that do not end."""
    left = []
    for thread in threading.enumerate():
        if thread.name.startswith("dougong"):
            thread.join(30)
            left += [thread.name] if thread.is_alive() else []
    return left


def open_descriptors(at_most: int) -> int:
    """Once no more are open than that, or at the end of some seconds: what a thread of the library's has open for a
    moment is no leak."""
    until = time.monotonic() + 5
    while (count := len(os.listdir("/dev/fd"))) > at_most > 0 and time.monotonic() < until:
        time.sleep(0.01)
    return count


def leave_and_meet_again(first: World, plan: Plan, port: int) -> tuple[list[str], list[int], list[str], bool]:
    """Generations in which rank 1 stands still: the others wait for it until they are ordered to leave. What they said,
    descriptors that are open after each, threads that do not end, and whether all meet in the end."""
    first.leave()
    gc.freeze()  # as in a worker, whose fork server has done it
    near = socket.create_server(("127.0.0.1", 0))
    far = socket.create_connection(near.getsockname())  # somebody else's connection, which must live
    other, _ = near.accept()
    said, descriptors, threads = list[str](), list[int](), list[str]()
    for generation, wait in enumerate((*WAITS, *WAITS), start=11):
        control = Ordered()
        world, _ = join(first.rank, generation, port, control)
        place = store_at(port, generation)
        place.set(f"in {first.rank}", b"")
        if first.rank == 1:
            place.wait([f"in {rank}" for rank in range(3)])  # whoever is still joining has nothing to leave
            control.order()
        else:
            control.order_soon()
            with pytest.raises(PeerError) as caught:
                wait(world)
            said.append(str(caught.value))
            del caught  # its frames hold all that the generation had
        del world
        assert control.leave() == 0
        del control
        descriptors.append(open_descriptors(at_most=max(descriptors[1:3], default=0)))
        threads += end_of_threads()
    world, _ = join(first.rank, 99, port, Ordered())
    met = world.gather_bytes(bytes([first.rank])) == [b"\0", b"\1", b"\2"]
    world.barrier()
    world.leave()
    far.sendall(b"x")
    return said, descriptors, threads, met and other.recv(1) == b"x"


def test_whoever_waits_for_a_peer_is_freed_and_meets_it_again_in_the_same_process() -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    found = run_workers(leave_and_meet_again, plan_of("BBB"), store.port)
    for rank, (said, descriptors, threads, met) in enumerate(found):
        assert met
        assert len(said) == (0 if rank == 1 else 6)
        assert max(descriptors[3:]) <= max(descriptors[1:3]), f"nothing of a generation stays open: {descriptors}"
        assert not threads


def wait_at_the_store(first: World, plan: Plan, port: int) -> tuple[str, bool]:
    """One of the workers never comes: who waits for it at the store is freed, and meets the others later."""
    first.leave()
    control = Ordered()
    control.order_soon()
    with pytest.raises(PeerError) as caught:
        join(first.rank, 11, port, control)
    control.leave()
    world, _ = join(first.rank, 12, port, Ordered(), size=2)
    world.barrier()
    world.leave()
    return str(caught.value), control.is_over


def test_who_waits_at_the_store_for_a_worker_that_has_died_is_freed() -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for said, is_over in run_workers(wait_at_the_store, plan_of("BB"), store.port):
        assert is_over and "could not join generation 11" in said


def test_a_worker_that_waits_for_nobody_is_told_too() -> None:
    control = Ordered()
    departure = depart(control)
    departure.check()
    control.is_over = True
    with pytest.raises(PeerError, match="has been ended"):
        departure.check()
    with pytest.raises(PeerError):
        departure.note_joined(World.alone())
    freed: list[bool] = []
    with pytest.raises(PeerError):
        departure.free_by(lambda: freed.append(True))
    control.order()
    assert freed == [True]


def test_the_native_library_is_left_once_and_what_else_waits_is_freed_each_time() -> None:
    control, accelerator, freed = Ordered(), Recorded(), list[bool]()
    departure = depart(control, accelerator)
    control.free()
    assert accelerator.aborted == [], "it has no groups before the workers have met"
    departure.note_joined(World.alone())
    departure.free_by(lambda: freed.append(True))
    control.order()
    control.free()
    assert (accelerator.aborted, freed) == ([0], [True, True])
    assert control.leave() == 0
    control.free()
    assert freed == [True, True], "what is left is let go of"


def test_a_thread_that_does_not_end_is_left_to_itself() -> None:
    """A call of gloo may hear of nothing (see `parallel.comm.threads`): neither the wait for it nor the departure
    lasts."""
    control, never = Ordered(), threading.Event()
    departure = depart(control)
    deadlines = Deadlines(thread_end_s=0.05)
    member = dataclasses.replace(World.alone().member, deadlines=deadlines, is_over=lambda: control.is_over)
    world = World(member, WorldGroups())
    departure.note_joined(world)
    stuck = world.make_thread("stuck").submit(never.wait, 60)
    control.order_soon()
    with pytest.raises(PeerError, match="generation 1 has been ended"), PeerWait(member, [1], "rows") as wait:
        wait.for_future(stuck)
    assert control.leave() == 0
    with pytest.raises(PeerError), PeerWait(member, [1], "more rows") as wait:
        wait.for_future(stuck)
    assert not stuck.done()
    never.set()
