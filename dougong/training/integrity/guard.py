"""Numbers that have a copy are compared with it before a step is committed: the state with what it
was after the last update, dense weights with their owners', messages with what was sent, replicas
of snapshots with the snapshot.

What a worker says of it travels with its report of the step. Where the words of all do not fit
together, all tell each other what they have seen, and know together what has changed and whom that
points at: the step's weights do not move, and the run goes on from the snapshot before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from dougong.errors import CorruptionError, PeerError
from dougong.ops.bit_sum import WRAP
from dougong.parallel.comm.world import World
from dougong.parallel.dense.unit_gathers import UnitGathers
from dougong.training.integrity.evidence import WorkerEvidence, WrongNumbers, find
from dougong.training.integrity.held_state import BitSums, HeldState
from dougong.training.memory.source import StateKey
from dougong.training.memory.state_memory import StateMemory
from dougong.training.results.integrity_word import IntegrityWord, all_is_well


class Guard:
    """One worker's. Collective: all workers call the same methods at the same moments of a step.

    begin_step   its messages are counted anew
    look         the gradients are there: what this worker has to say
    judge        (collective) everybody's words are there
    note         the update has ended: this is what must stay as it is
    """

    def __init__(
        self,
        world: World,
        state: HeldState,
        owners: Mapping[str, int],
        memory: StateMemory | None = None,
        is_handed_on: bool = True,
        gathers: UnitGathers | None = None,
    ) -> None:
        """`owners` of dense tensors; `memory`: where snapshots are kept; `is_handed_on`: workers
        get dense tensors from each other, else from their owners alone; `gathers`: by which they
        come to this one in each step, where they do not stay."""
        self._world, self._state, self._owners, self._memory = world, state, owners, memory
        self._is_handed_on, self._gathers = is_handed_on, gathers
        self._reference: BitSums = {}
        self._changed: tuple[StateKey, ...] = ()
        world.tally.is_on = True
        self.note()

    @property
    def state_sums(self) -> BitSums:
        """Of what belongs to the state that is saved, after the last update."""
        return self._reference

    def begin_step(self) -> None:
        """Forget the messages before."""
        self._world.tally.begin()

    def look(self) -> IntegrityWord:
        """Waits for the device."""
        now = self._state.sums()
        self._changed = tuple(key for key, value in self._reference.items() if now[key] != value)
        spread = self._spread()
        return IntegrityWord(
            is_changed=bool(self._changed or self._damaged_replicas()),
            spread=sum(spread.values()) % WRAP if spread else None,
            balance=self._world.tally.balance(),
        )

    def judge(self, step: int, words: Sequence[IntegrityWord]) -> None:
        """`words`: of all workers, by rank. Collective.

        Raises CorruptionError on the worker at which it points, PeerError on all others, where
        something has changed.
        """
        if all_is_well(words):
            return
        mine = WorkerEvidence(
            self._changed,
            self._world.tally.by_message(),
            self._spread(),
            self._damaged_replicas(),
        )
        payloads = self._world.gather_bytes(mine.encode(), what="what has changed")
        evidences = [WorkerEvidence.decode(payload) for payload in payloads]
        found = find(evidences, self._owners, self._is_handed_on)
        if found is None:
            found = WrongNumbers("what workers said of their numbers changed on its way", (0,))
        blame(self._world, step, found)

    def _spread(self) -> dict[str, int]:
        """Sums of the dense weights that every worker with lanes has got, by name."""
        if self._gathers is not None:
            return self._gathers.sums()
        return self._state.spread_sums(self._reference)

    def note(self) -> None:
        """What this worker holds now is what it must hold until its next update."""
        self._reference = self._state.sums()

    def _damaged_replicas(self) -> tuple[int, ...]:
        return () if self._memory is None else self._memory.damaged_replicas


def blame(world: World, step: int, found: WrongNumbers) -> NoReturn:
    """End the generation before the step is committed. Collective: `found` is the same everywhere.

    Raises CorruptionError on the worker that is accused, or that noticed it, or on the first where
    nobody knows whose numbers they are; and PeerError on all others.
    """
    names = world.member.names or tuple(str(rank) for rank in range(world.size))
    accused = tuple(names[rank] for rank in found.accused)
    who = f" ({' and '.join(accused)})" if accused else ""
    text = f"step {step}: {found.what}{who}; no weight was moved by it"
    if world.rank == (found.accused or (0,))[-1]:
        raise CorruptionError(text, accused)
    world.barrier()  # one of its workers ends: this raises
    raise PeerError(text)
