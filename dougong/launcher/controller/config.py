"""What a controller is given, and what its decisions depend on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from dougong.accelerators.registry import get_accelerator
from dougong.addresses import read_ports
from dougong.checkpoint.proof.signing import SigningKey
from dougong.control.run_sources import RunSources
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import LaunchError
from dougong.fault.drill import FiredDrill
from dougong.fault.policy import PastFailure
from dougong.fault.quarantine import QuarantinedDevice
from dougong.job.schema import Job
from dougong.launcher.agent.facts import files_of
from dougong.launcher.agent.here.code import model_types_of
from dougong.launcher.agent.settings import AgentSettings
from dougong.planner.agreement import Software
from dougong.planner.placement import AgentSpec
from dougong.records.directory import RunDir
from dougong.records.kept_sources import own_tokenizer
from dougong.records.shared_folder import FolderProof


@dataclass(frozen=True)
class EntryPoints:
    """What the workers run, as `module:function`, and what their fork server loads beforehand, as
    `StartServer` says.

    `fingerprint` None: nobody's kernels are looked at.
    """

    train: str = "dougong.training.session:train"
    inspect: str = "dougong.training.start.preflight:inspect"
    preload: tuple[str, ...] = (
        "dougong.training.session",
        "dougong.models.inventory",
        "transformers.modeling_utils",  # three seconds of imports that no worker then pays for
        "transformers.models.auto.modeling_auto",
        "numpy.ma",  # what `numpy.unique` loads
        "dougong.training.start.warm:warm",
    )
    fingerprint: str | None = "dougong.fingerprint.cache:fingerprint"


TRAINING = EntryPoints()


GENERATIONS = 1000
"""A controller begins no generation of a higher number than the end of the thousand in which its
first one lies: so that one which was taken for dead shares no number with its successor."""


@dataclass(frozen=True)
class ResumePoint:
    """What a controller takes over from the run's earlier life. `generation`: the number of its
    first one; `step`: of the checkpoint that it goes on from; `fired`: drills that have fired,
    (step, worker); `quarantined`: devices that it uses no more; `skipped`: steps that it has left
    out since its bits have had to be the same.

    `has_committed`: the record says that there have been checkpoints, so that none is no beginning
    but a loss. `chosen`: the step whose checkpoint somebody asked for, 0 for the beginning; None:
    the newest valid one. `changed`: keys that this resume gives other values and that may change
    bits; `same_since`: the first generation since the last such change, whose bits all later ones
    must give again. `died`: when the controller before had died, and when that was noticed, by this
    machine's monotonic clock, where the run goes on by itself; `failures`: those since somebody
    typed a command, which count for it too, and `committed_at`: when a checkpoint was committed
    last, by the same clock. `adopts_from`: as in `AgentSettings`; `recorded`: the last step of
    which there is a row, None where that of the checkpoint counts.
    """

    generation: int = 1
    step: int = 0
    fired: frozenset[FiredDrill] = frozenset()
    has_committed: bool = False
    chosen: int | None = None
    changed: tuple[str, ...] = ()
    same_since: int = 1
    quarantined: tuple[QuarantinedDevice, ...] = ()
    skipped: frozenset[int] = frozenset()
    died: tuple[float, float] | None = None
    failures: tuple[PastFailure, ...] = ()
    committed_at: float | None = None
    adopts_from: int | None = None
    recorded: int | None = None

    @property
    def last_generation(self) -> int:
        """No later one is this controller's."""
        return ((self.generation - 1) // GENERATIONS + 1) * GENERATIONS

    def check_generation(self, number: int) -> None:
        """LaunchError for one that may be another controller's."""
        if number > self.last_generation:
            raise LaunchError(
                f"generation {number}: a controller begins none after {self.last_generation}; go "
                "on by `dougong resume`"
            )


FROM_START = ResumePoint()


@dataclass(frozen=True)
class ControllerConfig:
    """What a run is, apart from the work: fixed for the controller's life. `fence`: the number of
    its lease on the run. `cwd`: the directory in which the command was given. `job_text`: what
    job.yaml is to say once the first step is done, where it does not yet: a resume that comes to
    nothing has changed nothing. `sources`: what the run had read from outside its job file when it
    began, None for one that begins now. `is_followed`: another controller begins when this one
    dies. `outlives`: as in `AgentSettings`. `key`: by which checkpoints are signed; None: they
    are not."""

    job: Job
    token: str
    cwd: str
    fence: int = 0
    entries: EntryPoints = TRAINING
    resume_point: ResumePoint = FROM_START
    deadlines: Deadlines = DEADLINES
    job_text: str | None = None
    sources: RunSources | None = None
    is_followed: bool = False
    outlives: bool = False
    key: SigningKey | None = None

    @property
    def life(self) -> str:
        """A name of this controller's life, which tells nothing of the token that it is made of."""
        return hashlib.blake2b(self.token.encode(), digest_size=8, person=b"life").hexdigest()

    def settings_of(
        self,
        spec: AgentSpec,
        address: tuple[str, int],
        run_dir: RunDir,
        proof: FolderProof | None,
    ) -> AgentSettings:
        """What an agent is given at its start. `address`: the controller's; `proof`: as there."""
        num_workers = sum(island.workers for island in self.job.islands)
        return AgentSettings(
            name=spec.name,
            island=spec.island,
            accelerator=spec.accelerator,
            threads=spec.threads,
            deterministic=self.job.is_deterministic,
            controller=address,
            token=self.token,
            run_dir=str(run_dir.path),
            proof=proof,
            model_types=model_types_of(self.job.model, self.sources),
            files=files_of(self.job, begins=not self.resume_point.has_committed),
            preload=self.entries.preload,
            cwd=self.cwd,
            fence=self.fence,
            is_followed=self.is_followed,
            deadlines=self.deadlines.of_workers(num_workers),
            ports=read_ports(self.job.ports),
            avoided=spec.avoided,
            adopts_from=self.resume_point.adopts_from,
            outlives=self.outlives,
        )

    def own_tokenizer(self, run_dir: RunDir, sources: RunSources | None) -> str | None:
        """The run's copy of the tokenizer, None where there is none to copy."""
        return own_tokenizer(run_dir, str(self.job.data.tokenizer), sources)

    @property
    def knows_beginning(self) -> bool:
        """Whether what the run had read when it began is known, or nothing hangs on it: without a
        checkpoint it begins now."""
        return self.sources is not None or not self.resume_point.has_committed

    @property
    def takes_fingerprints(self) -> bool:
        """Whether every device's arithmetic is looked at before it may take part."""
        return self.entries.fingerprint is not None and self.job.is_deterministic


@dataclass(frozen=True)
class RunPolicy:
    """What decisions depend on beside the facts: fixed for the controller's life.

    `takes_fingerprints`: whether every device is probed. `shared_devices`: whether agents on one
    node see each other's devices. `software`: of the controller's own machine, which the nodes must
    have too; None: it is not compared. `has_sources`: whether a run that goes on knows what it had
    read when it began, or begins only now. `may_grow`: whether nodes may yet join, or others give
    back what they hold. `is_followed`: as in `ControllerConfig`.
    """

    job: Job
    run_dir: RunDir
    deadlines: Deadlines
    takes_fingerprints: bool = True
    shared_devices: bool = True
    software: Software | None = None
    has_sources: bool = True
    may_grow: bool = False
    is_followed: bool = False

    @property
    def host(self) -> str:
        """The controller's own machine; empty where it takes no part."""
        return "" if self.software is None else self.software.host

    @property
    def kinds(self) -> tuple[str, ...]:
        """The accelerators of the job's islands of which a node has so many devices."""
        kinds = {island.accelerator for island in self.job.islands}
        return tuple(sorted(kind for kind in kinds if not get_accelerator(kind).shares_machine))
