"""The newest states of a run in the memory of its workers, for a recovery without storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dougong.checkpoint.snapshot import StateTensor
from dougong.job.fault.snapshots import Snapshots
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.training.memory.source import StateKey, StateSource

StateOf = Callable[[], Iterable[StateTensor]]
"""Everything that a worker owns, as it is now."""


class StateMemory:
    """What one worker process keeps of the run's state; one for the life of the process, over all
    generations that it belongs to.

        open_state    (collective) the newest state that all workers have together
        follow        a generation has begun
        step_done     a step is done: its state is copied and sent beside the next step
        before_update that is done, here and at whoever keeps replicas here
        leave         the generation is broken: threads end, what is whole is kept
    """

    def __init__(self, settings: Snapshots) -> None:
        self._settings = settings

    @property
    def step(self) -> int:
        """The newest step whose whole share this process holds; 0: none."""
        return 0

    def open_state(
        self, world: World, wants: Sequence[Iterable[StateKey]], least_step: int
    ) -> StateSource | None:
        """The newest state, of `least_step` or later, that the workers of `world` hold together;
        None: they hold none. Collective.

        `wants`: by rank, what each will read.
        """
        return None

    def follow(
        self, world: World, plan: Plan, state: StateOf, step: int, ledger: str | None = None
    ) -> None:
        """A generation begins with the state after `step`. Collective."""

    def step_done(self, step: int, ledger: str | None) -> None:
        """The tensors are the state after `step`, and stay so until `before_update` returns."""

    def before_update(self) -> None:
        """Wait until the newest snapshot of this worker and the replicas that it keeps are whole.
        To be called before this worker says anything by which another may begin its update.

        Raises PeerError when a peer is lost or does not come.
        """

    def leave(self) -> None:
        """End what is under way, and let go of the generation's tensors. The world's connections
        are broken or closed by then."""
