"""The newest states of a run in the memory of its workers, for a recovery without storage.

Why two slots are enough, and no step is lost but one
-----------------------------------------------------
After step N's update a worker's live tensors *are* state N, until its update of N+1 begins. So N is
copied, and sent to whoever keeps a replica of it, while N+1's forwards and backwards run. What must
be there at the same time follows from one rule:

    R   A worker says how its step N+1 went only when its own copy of N is whole, and so are all
        replicas of N that it keeps. Everybody hears of everybody before anybody updates.

Hence a worker whose update of N+1 has begun knows that N is whole everywhere: all copies, all
replicas. It is done with N-1, and takes the slot of N-1 for N+1 when that update has ended.

Look at any moment at which workers are lost, and let N+1 be the furthest step whose update anybody
has begun. By R, state N is whole in slots everywhere at that moment. A slot that holds N is written
again only after the update of N+2, which nobody has begun. So N can be had: of each survivor its
own copy, of each lost worker the replica, as long as one of its holders lives. That the survivors
are at different places, some in the middle of their update, does not matter: live tensors are never
needed. And nobody has finished more than N+1: one step of work is lost at most.

One slot would not do: while N is copied over N-1, a lost worker's replica of N may be on its way
still, and N-1 is then needed of everybody. Three are never needed: whoever begins to copy N+1 knows
by R that nobody will ask for N-1 any more.

A generation begins like a step that has ended: the state it goes on from, M, is copied and sent
again, since owners and holders may be others now. Until its first update the slots that M was taken
from stay as they are, so that a fault in a recovery finds what the recovery found. What else lies
in slots is of steps that are computed anew, and is forgotten.

With `every: k` there is one snapshot in k steps, and R holds for those steps; "one step" is then
"k steps". A step whose update is left out (not finite) is no new state: the snapshot before stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dougong.accelerators.base import enter_device
from dougong.accelerators.staging import HostLink
from dougong.checkpoint.snapshot import StateTensor
from dougong.errors import CheckpointError
from dougong.job.fault.snapshots import Snapshots
from dougong.parallel.comm.wait import PeerWait
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.parallel.replica_holders import replica_holders
from dougong.planner.needs.snapshot_bytes import keeps_snapshots
from dougong.training.memory.holdings import Holding, Moment, Place
from dougong.training.memory.local_disk import LocalDisk
from dougong.training.memory.part import Buffers, StatePart, layout_of, num_bytes_of
from dougong.training.memory.replicas import ReplicaExchange
from dougong.training.memory.restore import MemorySource, Shelf, Wants, open_state
from dougong.training.memory.source import StateKey

StateOf = Callable[[], Iterable[StateTensor]]
"""Everything that a worker owns, as it is now."""

StateSums = Mapping[StateKey, int]
"""The sum of each tensor's bits (`ops.bit_sum`)."""

_OWN = "own"


@dataclass
class Slot:
    """One state: this worker's own part, and those that it keeps for others, by their rank. Parts
    may be of memory that is used again, and count when they are whole."""

    buffers: Buffers = field(default_factory=Buffers)
    parts: list[StatePart] = field(default_factory=list)

    def clear(self) -> None:
        """What it held is not to be found any more; its memory may be written."""
        self.parts = []

    @property
    def whole(self) -> list[StatePart]:
        """What can be read."""
        return [part for part in self.parts if part.is_whole]

    def holds(self, moment: Moment) -> bool:
        """Whether anything whole of it is of this moment."""
        return any(part.moment == moment for part in self.whole)


@dataclass(frozen=True)
class _Following:
    """The generation that is kept up with. `begun`: the state that it went on from; `link`: by
    which its tensors come from the worker's device."""

    world: World
    state: StateOf
    exchange: ReplicaExchange
    begun: Moment
    link: HostLink

    def moment(self, step: int) -> Moment:
        """That of a step which this generation has done, or went on from."""
        if step == self.begun.step:
            return self.begun
        return Moment(step, self.world.member.generation)


@dataclass(frozen=True)
class _Live:
    """The state that the generation's tensors are, while no update has begun. `sums`: of the bits
    of each, as the update has left them (None: nobody has taken them)."""

    moment: Moment
    ledger: str | None
    sums: StateSums | None = None


class StateMemory:
    """What one worker process keeps of the run's state; one for the life of the process, over all
    generations that it belongs to. All but `leave` belong to the training thread.

        open_state    (collective) the newest state that all workers have together
        follow        a generation has begun
        step_done     a step is done: its state is copied and sent beside the next step
        before_update that is done, here and at whoever sends its replicas here
        leave         the generation is broken: threads end, what is whole is kept
        end           the work is done
    """

    def __init__(self, settings: Snapshots, local: LocalDisk | None = None) -> None:
        """`local`: where the newest snapshot is written, too."""
        self._settings = settings
        self._local = local
        self._slots = (Slot(), Slot())
        self._newest = 0
        self._opened: Moment | None = None
        self._following: _Following | None = None
        self._live: _Live | None = None
        self._under_way: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "dougong-snapshots")

    @property
    def step(self) -> int:
        """The newest step of which this process holds something; 0: none."""
        return max((holding.moment.step for holding in self.holdings()), default=0)

    def go_over(self, life: str) -> None:
        """To another controller's life; what is held in memory counts there, too."""
        if self._local is not None:
            self._local.go_over(life)

    def forget(self) -> None:
        """Nothing that this process holds, or its node's disk, counts any more: the run goes back
        to a checkpoint."""
        self._slots = (Slot(), Slot())
        if self._local is not None:
            self._local.forget()

    @property
    def damaged_replicas(self) -> tuple[int, ...]:
        """The owners of whom the newest replicas here are not what they have sent."""
        return () if self._following is None else self._following.exchange.damaged

    @property
    def keeps(self) -> bool:
        """Whether what the generation does is kept here, so that the next one can go on from it."""
        return self._following is not None

    def open_state(
        self, world: World, asks: Callable[[], Wants], least_step: int
    ) -> MemorySource | None:
        """The newest state, of `least_step` or later, that the workers of `world` hold together;
        None: they hold none. Collective.

        `asks`: by rank, what each will read. Raises PeerError when a peer is lost meanwhile.
        """
        self._opened = None
        if not self._settings.are_kept:
            return None
        shelves: dict[Place, Shelf] = {"memory": self}
        if self._local is not None:
            shelves["disk"] = self._local
        found = open_state(world, shelves, asks, least_step)
        self._opened = None if found is None else found.moment
        return found

    def follow(
        self,
        world: World,
        plan: Plan,
        state: StateOf,
        step: int,
        ledger: str | None = None,
        sums: StateSums | None = None,
    ) -> None:
        """A generation begins with the state after `step`, whose tensors `state` gives from now on:
        a snapshot of it is taken. All its workers call this. Where none are kept, what earlier
        generations have left is given up."""
        if not keeps_snapshots(self._settings, plan):
            self._slots = (Slot(), Slot())
            return
        begun = self._opened
        if begun is None or begun.step != step:
            begun = Moment(step, world.member.generation)
        for slot in self._slots:
            if not slot.holds(begun):
                slot.clear()
        holders = replica_holders(plan, self._settings.num_replicas)
        link, exchange = HostLink(world.member.device), ReplicaExchange(world, holders)
        self._following = _Following(world, state, exchange, begun, link)
        # What the recovery was made from stays in its slot until the first update.
        self._newest = 0 if self._slots[0].holds(begun) else 1
        self._note(_Live(begun, ledger, sums), is_due=True)

    def step_done(self, step: int, ledger: str | None, sums: StateSums | None = None) -> None:
        """The tensors are the state after `step`, and stay so until `before_update` returns. A copy
        that does not have these sums is not taken for it."""
        if self._following is not None:
            live = _Live(self._following.moment(step), ledger, sums)
            self._note(live, is_due=step % self._settings.every == 0)

    def before_update(self) -> None:
        """Wait until the newest snapshot of this worker and the replicas that it keeps are whole.
        To be called before this worker says anything by which another may begin its update.

        Raises PeerError when a peer is lost or does not come.
        """
        if self._under_way is not None:
            assert self._following is not None
            world, exchange = self._following.world, self._following.exchange
            with PeerWait(world.member, exchange.peers, f"snapshots, step {world.step}") as wait:
                wait.for_future(self._under_way)
            self._under_way = None
            self._newest = 1 - self._newest
            own = self._slots[self._newest].parts[0]
            exchange.count(own)
            if self._local is not None and own.is_whole:
                self._local.write(own)
        self._live = None

    def end(self) -> None:
        """The work is done: nothing is under way any more, and nothing is left on the node's disk.

        Raises PeerError when a peer is lost.
        """
        self.before_update()
        if self._local is not None:
            self._local.clear()

    def leave(self) -> None:
        """End what is under way, and let go of the generation's tensors; if they are a state that
        was not copied, it is copied now. The world's connections are broken or closed by then, so
        that a thread that waits for a peer is told so."""
        following, live, under_way = self._following, self._live, self._under_way
        self._following = self._live = self._under_way = None
        if following is None:
            return
        if under_way is not None:
            self._end(under_way, following.world.member.deadlines.leave_s / 2)
        elif live is not None:
            slot = self._slots[1 - self._newest]
            slot.clear()
            link = following.link
            _copy(slot, list(following.state()), live, link, link.stream.mark())

    def _end(self, under_way: Future[None], within_s: float) -> None:
        try:
            # The own part is whole when the thread has ended; what comes from others may not be.
            under_way.exception(within_s)
        except FutureTimeout:
            # It may write into its slot at any time: nothing of that is used again.
            self._thread = ThreadPoolExecutor(1, "dougong-snapshots")
            slots = list(self._slots)
            slots[1 - self._newest] = Slot()
            self._slots = (slots[0], slots[1])

    # As a shelf, for `open_state`

    def holdings(self) -> list[Holding]:
        """What is whole here."""
        found: list[Holding] = []
        for slot in self._slots:
            found += [part.holding() for part in slot.whole]
        return found

    def read(self, moment: Moment, key: StateKey) -> Tensor:
        """A tensor as it was copied."""
        for slot in self._slots:
            for part in slot.whole:
                if part.moment == moment and key in part:
                    return part.tensor(key)
        raise CheckpointError(f"no snapshot of {key} at step {moment.step} is held here")

    def _note(self, live: _Live, is_due: bool) -> None:
        """The tensors are this state; where a snapshot of it is due, it is begun."""
        assert self._following is not None and self._under_way is None
        self._live = live
        # A worker that is alone loses all with itself: it copies its state when it leaves.
        if is_due and (self._following.world.size > 1 or self._local is not None):
            slot = self._slots[1 - self._newest]
            slot.clear()
            if self._local is not None and self._local.is_busy():
                slot.buffers.forget(_OWN)  # it may be this memory that is being written to disk
            state, mark = list(self._following.state()), self._following.link.stream.mark()
            self._under_way = self._thread.submit(_take, slot, state, live, self._following, mark)


def _copy(
    slot: Slot,
    state: Sequence[StateTensor],
    live: _Live,
    link: HostLink,
    mark: torch.Event | None,
) -> StatePart:
    """This worker's state as a whole part. `mark`: when the tensors are that state."""
    layout = layout_of(state)
    memory = slot.buffers.take(_OWN, num_bytes_of(layout))
    part = StatePart(live.moment, live.ledger, layout, memory)
    part.fill(state, link, mark)
    if live.sums is not None and part.differs_from(live.sums):
        part.is_whole = False
    slot.parts = [part]
    return part


def _take(
    slot: Slot,
    state: Sequence[StateTensor],
    live: _Live,
    following: _Following,
    mark: torch.Event | None,
) -> None:
    """Copy this worker's state, send it to its holders, and take what it keeps for others."""
    enter_device(following.world.member.device)
    own = _copy(slot, state, live, following.link, mark)
    used: list[str] = []

    def room(owner: int, num_bytes: int) -> Tensor:
        used.append(f"replica of {owner}")
        return slot.buffers.take(used[-1], num_bytes)

    try:
        slot.parts += following.exchange.exchange(own, room).values()
    except BaseException:
        # The library may still write what is late into this memory.
        for purpose in used:
            slot.buffers.forget(purpose)
        raise
