"""What a forked process is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dougong.control.plan_file import PlanFile
from dougong.control.run_sources import RunSources
from dougong.job.drills.drill import Drill
from dougong.job.schema import Job
from dougong.parallel.plan import Plan


@dataclass(frozen=True)
class TrainTask:
    """A worker of a generation. `console`: the worker
    whose every line is forwarded; `resume`: a committed and verified checkpoint's path.

    `sources`: what the run has read from outside its job file, as it was when it began (None: it is
    read now); `tokenizer`: the run's own copy. So below. `life`: of the controller, a name that no
    other has. `rolls_back`, `skips`: as in WorkerContext. `recorded`: the last step whose row the
    controller has.
    """

    entry: str
    job: Job
    plan: Plan | PlanFile
    run_dir: str
    console: str
    resume: str | None = None
    sources: RunSources | None = None
    tokenizer: str | None = None
    drills: tuple[Drill, ...] = ()
    fence: int = 0
    life: str = ""
    rolls_back: bool = False
    skips: tuple[int, ...] = ()
    recorded: int = 0
    task: Literal["train"] = "train"


@dataclass(frozen=True)
class InspectTask:
    """A look at the model and the data, before there is a plan."""

    entry: str
    job: Job
    sources: RunSources | None = None
    tokenizer: str | None = None
    task: Literal["inspect"] = "inspect"


@dataclass(frozen=True)
class FingerprintTask:
    """The probes of one device. `devices`: by worker, as `cuda:0`; `shapes`: `JobShapes` as JSON
    has them, None where nothing is known of the job's own calls."""

    entry: str
    job: Job
    devices: dict[str, str]
    shapes: dict[str, Any] | None = None
    task: Literal["fingerprint"] = "fingerprint"


Task = TrainTask | InspectTask | FingerprintTask
