"""What a controller is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass

from dougong.errors import DougongError
from dougong.fault.diagnosis import Diagnosis
from dougong.job.schema import Job


@dataclass(frozen=True)
class EntryPoints:
    """What the workers run, as `module:function`, and the modules that their fork server loads
    beforehand.

    `fingerprint` None: nobody's kernels are looked at.
    """

    train: str = "dougong.training.session:train"
    inspect: str = "dougong.training.preflight:inspect"
    preload: tuple[str, ...] = (
        "dougong.training.session",
        "dougong.models.inventory",
        "transformers.modeling_utils",  # three seconds of imports that no worker then pays for
        "transformers.models.auto.modeling_auto",
    )
    fingerprint: str | None = "dougong.fingerprint.cache:fingerprint"


TRAINING = EntryPoints()


@dataclass(frozen=True)
class ResumePoint:
    """What this controller takes over from the run's earlier life. `fired`: drills that had their
    day."""

    generation: int = 1
    step: int = 0
    fired: frozenset[tuple[int, str]] = frozenset()


FROM_START = ResumePoint()


@dataclass(frozen=True)
class ControllerConfig:
    """What a run is, apart from the work: fixed for the controller's life."""

    job: Job
    token: str
    cwd: str
    entries: EntryPoints = TRAINING
    beginning: ResumePoint = FROM_START


@dataclass(frozen=True)
class Outcome:
    """How the run ended: the final state, the process's exit status, and what went wrong if
    something did."""

    state: str
    status: int
    error: DougongError | None = None
    diagnosis: Diagnosis | None = None
    generation: int = 0
