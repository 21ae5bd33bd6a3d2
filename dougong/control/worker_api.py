"""What the code that runs in a worker is given: its context, and its line to the agent.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from dougong.control.progress import OrderedFault
from dougong.control.run_sources import RunSources
from dougong.control.worker_messages import StoreReply, StoreRequest, WorkerMessage
from dougong.job.drills.drill import Drill
from dougong.job.schema import Job
from dougong.parallel.plan import Plan, Worker

T = TypeVar("T")


class Control(Protocol):
    """A worker's line to its agent and, through it, to the controller."""

    def progress(self, step: int, phase: str, operation: int) -> None:
        """Say what is being done; costs no system call. Phases: `progress.PHASES`."""

    def waits_for(self, ranks: Collection[int]) -> None:
        """Say for which ranks this thread waits from now on, and none when that is over; costs no
        system call. Of other threads than the worker's own it is of no account."""

    def send(self, message: WorkerMessage) -> None:
        """Send to the controller.

        Once it returns, the message survives the death of this process.
        """

    def take_fault(self) -> OrderedFault | None:
        """What a drill has this worker do to itself now, once; it was announced before."""

    @property
    def stop_requested(self) -> bool:
        """Whether the controller asked to stop after the step. Workers may see it at different
        moments: they have to agree on it."""
        ...

    @property
    def rest_requested(self) -> bool:
        """Whether the generation is to end after the step, and the run to go on in the next one, by
        a RestError. Workers may see it at different moments: they have to agree on it."""
        ...

    @property
    def leave_requested(self) -> bool:
        """Whether the generation is over for this worker: it ends what it is at by a PeerError."""
        ...

    def ask(
        self, question: Callable[[int], StoreRequest], timeout_s: float, limit: str = ""
    ) -> StoreReply:
        """Ask the controller's store: `question` makes a message of a number. `limit`: the field of
        `Deadlines` that the timeout is, for its error.

        PeerError when the generation is to be left meanwhile, TimeoutError at the deadline,
        EOFError when the agent is gone.
        """
        ...

    def at_leaving(self, free: Callable[[], None], leave: Callable[[], int]) -> None:
        """How this generation is left before its work is done, from now on.

        `free` has every call that waits for a peer raise; any thread may call it, more than once,
        and at once where leaving has been requested already. `leave` then ends what of the
        generation is left, in the thread that has called the entry, after the entry has raised; it
        returns the step whose state is kept (0: none).
        """


class Kept:
    """What a worker's process keeps from one generation to the next: at most one value of a
    class."""

    def __init__(self) -> None:
        self._values: dict[type, object] = {}

    def keep(self, value: object) -> None:
        """Keep it, in the place of another one of its class."""
        self._values[type(value)] = value

    def get(self, kind: type[T]) -> T | None:
        """The value of that class; None where there is none."""
        value = self._values.get(kind)
        return value if isinstance(value, kind) else None

    def drop(self, kind: type) -> None:
        """Keep it no longer."""
        self._values.pop(kind, None)


@dataclass
class WorkerContext:
    """All that an entry (`module:function`) is given.

    `resume`: a committed and verified checkpoint directory, None to start fresh. `address`: this
    process's own network address. `drills`: this worker's, not yet fired. `sources`: with what the
    run began; None: nobody has kept that. `fence`: the number of the controller, `life`: a
    name that no other has. `rolls_back`: what workers hold of newer steps than `resume` does not
    count; `skips`: steps that are left out, as their batch is of no use. `kept`: the same in every
    generation of a process. `recorded`: the last step whose row the controller has.
    """

    job: Job
    plan: Plan
    worker: Worker
    generation: int
    run_dir: Path
    resume: Path | None
    address: str
    drills: tuple[Drill, ...]
    control: Control
    sources: RunSources | None = None
    fence: int = 0
    life: str = ""
    rolls_back: bool = False
    skips: tuple[int, ...] = ()
    kept: Kept = field(default_factory=Kept)
    recorded: int = 0
