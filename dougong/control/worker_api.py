"""What the code that runs in a worker is given: its context, and its line to the agent.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dougong.control.progress import OrderedFault
from dougong.control.run_sources import RunSources
from dougong.control.worker_messages import WorkerMessage
from dougong.job.drills.drill import Drill
from dougong.job.schema import Job
from dougong.parallel.plan import Plan, Worker


class Control(Protocol):
    """A worker's line to its agent and, through it, to the controller."""

    def progress(self, step: int, phase: str, operation: int) -> None:
        """Say what is being done; costs no system call. Phases: `progress.PHASES`."""

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


@dataclass
class WorkerContext:
    """All that an entry (`module:function`) is given.

    `resume`: a committed and verified checkpoint directory, None to start fresh. `store`: host and
    port of the controller's TCPStore. `address`: this process's own network address. `drills`: this
    worker's, not yet fired. `sources`: with what the run began; None: nobody has kept that.
    """

    job: Job
    plan: Plan
    worker: Worker
    generation: int
    run_dir: Path
    resume: Path | None
    store: tuple[str, int]
    address: str
    drills: tuple[Drill, ...]
    control: Control
    sources: RunSources | None = None
