"""What the controller has looked at before a plan is laid: the model and the data once, every
device's arithmetic.

Children of the agents' fork servers do the looking; generation 0 is theirs.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from dougong import errors
from dougong.control.messages import ForkWorkers, WorkerExited
from dougong.control.tasks import FingerprintTask, InspectTask, Task
from dougong.control.worker_messages import (
    FingerprintFound,
    ModelFound,
    WorkerMessage,
    WorkerRaised,
)
from dougong.errors import DougongError, LaunchError, WorkerError
from dougong.fingerprint import judge
from dougong.fingerprint.record import Fingerprint, JobShapes
from dougong.launcher.controller.agents import AgentHandle, Agents
from dougong.launcher.controller.config import ControllerConfig
from dougong.launcher.controller.observer import Observer
from dougong.planner.placement import devices_of
from dougong.planner.plan_job import computes
from dougong.planner.recipe import make_recipe

INSPECT_S = 3600.0
FINGERPRINT_S = 600.0


class Preflight:
    """Looks for one run. `inspect` comes first: the fingerprint asks with the shapes that it
    found."""

    def __init__(self, setting: ControllerConfig, see: Observer) -> None:
        self._job, self._entries = setting.job, setting.entries
        self._see = see
        self._shapes: JobShapes | None = None
        self._prints: dict[str, Fingerprint] = {}

    @property
    def _crew(self) -> Agents:
        assert self._see.crew is not None
        return self._see.crew

    def inspect(self) -> None:
        """Have the model and the data looked at, in a child of the first agent's fork server."""
        see, member = self._see, next(iter(self._crew.members.values()))
        worker = member.spec.workers[0]
        self._ask(member, [worker], InspectTask(self._entries.inspect, self._job))
        see.pump(
            lambda: ("inspect", worker) in see.answers,
            INSPECT_S,
            "looking at the model and the data",
        )
        answer = self._answer("inspect", worker, "looking at the model and the data")
        assert isinstance(answer, ModelFound)
        found = see.inventory = answer.inventory
        see.keeper.data, see.keeper.recipe = answer.data, make_recipe(self._job, found)
        self._shapes = JobShapes.from_json(answer.shapes) if answer.shapes is not None else None
        see.scribe.event(
            "inspected",
            see.number,
            family=found.family,
            parameters=found.num_parameters,
            tensors=len(found.tensors),
            sites=len(found.sites),
            experts=found.num_experts,
            data=answer.data,
            recipe=see.keeper.recipe.to_dict(),
        )

    def fingerprint(self, members: Sequence[AgentHandle]) -> None:
        """Have the devices of these agents' workers probed, and judge all that are known.

        LaunchError when the workers of a role are of several classes and the job does not allow it.
        """
        if self._entries.fingerprint is None or self._job.determinism == "off":
            return
        start = time.monotonic()
        asked = {member.spec.name: self._probe(member) for member in members}
        late = [(m, w) for m in members for w in asked[m.spec.name].values()]
        self._see.pump(
            lambda: all(m.lost or ("fingerprint", w) in self._see.answers for m, w in late),
            FINGERPRINT_S,
            "the fingerprint of every device",
        )
        for member in members:
            if member.lost is not None:
                raise LaunchError(member.lost)
            for worker, by in asked[member.spec.name].items():
                answer = self._answer("fingerprint", by, f"the fingerprint of {worker}'s device")
                assert isinstance(answer, FingerprintFound)
                self._prints[worker] = Fingerprint.from_json(answer.fingerprint)
        self._judge(time.monotonic() - start)

    def _probe(self, member: AgentHandle) -> dict[str, str]:
        """Ask for one child per device; worker -> the worker in whose name its device is probed."""
        devices = devices_of(member.spec)
        on_cpu = member.spec.accelerator == "cpu"  # its workers share one device
        asked = {worker: member.spec.workers[0] if on_cpu else worker for worker in devices}
        workers = list(dict.fromkeys(asked.values()))
        shapes = dataclasses.asdict(self._shapes) if self._shapes is not None else None
        assert self._entries.fingerprint is not None
        task = FingerprintTask(self._entries.fingerprint, self._job, devices, shapes)
        self._ask(member, workers, task)
        return asked

    def _ask(self, member: AgentHandle, workers: list[str], task: Task) -> None:
        for worker in workers:
            self._see.answers.pop((task.task, worker), None)
        self._crew.tell(member, ForkWorkers(0, tuple(workers), task))

    def _judge(self, seconds: float) -> None:
        see = self._see
        roles = {
            w: computes(self._job, m.spec.role)
            for m in self._crew.members.values()
            for w in m.spec.workers
        }
        by_worker = {worker: found.kernel_class for worker, found in self._prints.items()}
        see.scribe.event("fingerprints", see.number, classes=by_worker, seconds=round(seconds, 3))
        verdict = judge.judge_workers(self._prints, roles, judge.is_strict(self._job))
        for text in verdict.warnings:
            see.scribe.event("warning", see.number, text=text, workers=[])
        if verdict.refusal is not None:
            raise LaunchError(verdict.refusal)
        see.keeper.kernels = judge.record(self._prints, roles)

    def _answer(self, task: str, worker: str, what: str) -> WorkerMessage:
        """What the child said; its error is raised as the class it had, if it is one of ours."""
        message, log = (
            self._see.answers[(task, worker)],
            self._see.scribe.run_dir.log_file(0, worker),
        )
        if isinstance(message, WorkerExited):
            raise WorkerError(f"{what} ended with status {message.code} and no answer; see {log}")
        if not isinstance(message, WorkerRaised):
            return message
        kind = getattr(errors, message.type, None)
        if isinstance(kind, type) and issubclass(kind, DougongError):
            raise kind(message.message)
        raise WorkerError(f"{what}: {message.type}: {message.message}; see {log}")
