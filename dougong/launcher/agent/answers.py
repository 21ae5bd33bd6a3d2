"""What was looked at before a plan is laid: the model and the data once, every device's arithmetic.

Children of the agents' fork servers look; generation 0 is theirs. Here their answers are read and
judged. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dougong import errors
from dougong.accelerators.registry import get_accelerator
from dougong.control.messages import WorkerExited
from dougong.control.run_sources import RunSources
from dougong.control.worker_messages import (
    FingerprintFound,
    ModelFound,
    WorkerMessage,
    WorkerRaised,
)
from dougong.errors import DougongError, WorkerError
from dougong.fingerprint import judge
from dougong.fingerprint.record import ATTENTION, EXPERTS, Fingerprint
from dougong.job.schema import Job
from dougong.parallel.plan import Inventory
from dougong.planner.placement import AgentSpec, devices_of
from dougong.planner.plan_job import computes
from dougong.planner.recipe import Recipe, make_recipe
from dougong.records.directory import RunDir
from dougong.records.events import ModelInspected

INSPECT = "inspect"
FINGERPRINT = "fingerprint"

Answer = WorkerMessage | WorkerExited
"""What came back from a child of generation 0: its answer, its exception, or only its end."""


@dataclass(frozen=True)
class InspectedModel:
    """What was found. `data`: name and digest of the data, among others; `shapes`: `JobShapes` as
    JSON has them, for the probes; `recipe`: how the job computes on that model; `notes` and
    `warnings`: what a person is told of it once; `sources`: what the run began with."""

    inventory: Inventory
    data: Mapping[str, Any]
    shapes: dict[str, Any] | None
    recipe: Recipe
    precision: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    sources: RunSources | None = None

    def event(self, generation: int) -> ModelInspected:
        """What the record says of it."""
        inventory = self.inventory
        return ModelInspected(
            generation=generation,
            family=inventory.family,
            parameters=inventory.num_parameters,
            active_parameters=inventory.active_parameters,
            precision=self.precision,
            tensors=len(inventory.tensors),
            sites=len(inventory.sites),
            experts=inventory.num_experts,
            data=dict(self.data),
            recipe=self.recipe.to_dict(),
        )

    def with_forms(self, attention: str, experts: str) -> InspectedModel:
        """The same with the forms by which the devices compute. An attention that was still looked
        for is settled by that, for all of the run."""
        attention = attention or self.recipe.attention
        recipe = replace(self.recipe, attention=attention, experts=experts)
        found = replace(self, recipe=recipe)
        if self.sources is None or self.sources.is_whole:
            return found
        shapes = None if self.shapes is None else {**self.shapes, "attention": (attention,)}
        sources = replace(self.sources, attention=attention)
        inventory = replace(self.inventory, attention=(attention,))
        return replace(found, sources=sources, shapes=shapes, inventory=inventory)


@dataclass(frozen=True)
class JudgedFingerprints:
    """The fingerprints of all workers so far, by worker; `kernels`: their record in a checkpoint,
    empty where none was taken; `warnings`: what a person should know of them; `refusal`: why these
    workers must not take part together."""

    prints: Mapping[str, Fingerprint] = field(default_factory=dict)
    kernels: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    refusal: str | None = None

    @property
    def classes(self) -> dict[str, str]:
        """Worker -> class of its device's arithmetic."""
        return {worker: found.kernel_class for worker, found in self.prints.items()}


def read_model(job: Job, answer: Answer, log: Path, node: str = "") -> InspectedModel:
    """The model and the data, from the answer of the child that looked. Raises what it raised.
    `node`: where that was, for an error; empty where nobody has to ask."""
    if not isinstance(answer, ModelFound):
        raise _failure(answer, "looking at the model and the data", log, node)
    recipe = make_recipe(job, answer.inventory)
    return InspectedModel(
        inventory=answer.inventory,
        data=answer.data,
        shapes=answer.shapes,
        recipe=recipe,
        precision=job.precision,
        notes=answer.notes,
        warnings=answer.warnings,
        sources=answer.sources,
    )


def read_fingerprints(
    asked: Mapping[str, Mapping[str, str]],
    answers: Mapping[tuple[str, str], Answer],
    run_dir: RunDir,
    node_of: Callable[[str], str],
) -> dict[str, Fingerprint]:
    """By worker, of those that were asked for: `asked` holds, by agent, worker -> the worker in
    whose name its device was probed; `node_of`: a worker's, as in `read_model`. Raises what a child
    raised."""
    prints = {}
    for workers in asked.values():
        for worker, probed in workers.items():
            answer = answers[(FINGERPRINT, probed)]
            log = run_dir.log_file(0, probed)
            prints[worker] = read_fingerprint(worker, answer, log, node_of(worker))
    return prints


def strangers(
    asked: Mapping[str, Collection[str]],
    now: Mapping[str, Fingerprint],
    before: Mapping[str, Fingerprint],
) -> dict[str, str]:
    """Agent -> why it may not stand in for a lost one: its devices are of another class than those
    on which its workers ran before. `asked`: by agent, its workers."""
    found = {}
    for agent, workers in asked.items():
        wanted = {before[worker].kernel_class for worker in workers if worker in before}
        classes = {now[worker].kernel_class for worker in workers}
        if classes != wanted:
            ours, theirs = ", ".join(sorted(classes)), ", ".join(sorted(wanted))
            found[agent] = f"its kernels are of class {ours}, those of the run of class {theirs}"
    return found


def read_fingerprint(worker: str, answer: Answer, log: Path, node: str = "") -> Fingerprint:
    """One device's fingerprint, from the answer of the child that probed it. Raises what it
    raised."""
    if not isinstance(answer, FingerprintFound):
        raise _failure(answer, f"the fingerprint of {worker}'s device", log, node)
    return Fingerprint.from_json(answer.fingerprint)


def probed_by(spec: AgentSpec) -> dict[str, str]:
    """Worker -> the worker in whose name its device is probed, for all workers of an agent: workers
    that share a machine or a device share the first one's answer."""
    workers = devices_of(spec)
    if spec.shares_device or get_accelerator(spec.accelerator).shares_machine:
        return dict.fromkeys(workers, next(iter(workers)))
    return {worker: worker for worker in workers}


def inherited(
    answers: Mapping[tuple[str, str], Answer], before: AgentSpec, now: AgentSpec
) -> dict[tuple[str, str], Answer]:
    """What was found of the devices of an agent that stood by, for the workers that it has now."""
    found: dict[tuple[str, str], Answer] = {}
    if before.stands_by:
        for place, worker in zip(devices_of(before), devices_of(now), strict=False):
            answer = answers.get((FINGERPRINT, place))
            if answer is not None:
                found[FINGERPRINT, worker] = answer
    return found


def judge_fingerprints(
    job: Job,
    prints: Mapping[str, Fingerprint],
    specs: Sequence[AgentSpec],
    node_of: Callable[[str], str] = lambda worker: "",
) -> JudgedFingerprints:
    """Whether these workers may take part together: those of a role must be of one class, unless
    the job allows other bits. `node_of`: a worker's node, as in `AgentTable.node_of`."""
    roles = {}
    for spec in specs:
        roles.update(dict.fromkeys(spec.workers, computes(job, spec.role)))
    machines = {worker: node_of(worker) for worker in roles}
    # Of workers that the run does without, what is known waits for their return.
    there = {worker: found for worker, found in prints.items() if worker in roles}
    repeats = job.is_deterministic and job.numerics == "exact"
    verdict = judge.judge_workers(there, roles, job.needs_exact_kernels, machines, repeats)
    kernels = judge.record(there, roles)
    return JudgedFingerprints(prints, kernels, verdict.warnings, verdict.refusal)


def forms_of(
    job: Job,
    model: InspectedModel,
    prints: Mapping[str, Fingerprint],
    specs: Sequence[AgentSpec],
) -> InspectedModel:
    """The model with the forms by which these workers compute its attention and its experts. Where
    devices of one role differ, which only a job with other bits allows, attention has the form that
    comes last among the model's: the others have found it too, or a faster one."""
    by_role: dict[str, list[str]] = {ATTENTION: [], EXPERTS: []}
    for spec in specs:
        role = computes(job, spec.role)
        for part, forms in by_role.items():
            if role in (part, "both"):
                found = [prints[worker] for worker in spec.workers if worker in prints]
                forms += [one.forms.get(part, "") for one in found]
    order = (*model.inventory.attention, "")
    attention = max(by_role[ATTENTION], key=lambda form: _place(form, order), default="")
    experts = ", or ".join(sorted(set(by_role[EXPERTS])))
    return model.with_forms(attention, experts)


def _place(form: str, order: Sequence[str]) -> int:
    return order.index(form) if form in order else -1


def _failure(answer: Answer, what: str, log: Path, node: str) -> DougongError:
    """The error that an unwanted answer amounts to: one of ours keeps its class."""
    place = f"{node}: " if node else ""
    what = f"{place}{what}"
    if isinstance(answer, WorkerExited):
        if answer.text is not None:  # it was never begun, and has no log
            return WorkerError(f"{what}: {answer.text}")
        return WorkerError(f"{what} ended with status {answer.code} and no answer; see {log}")
    if not isinstance(answer, WorkerRaised):
        return WorkerError(f"{what}: answered with a message of kind {answer.kind!r}; see {log}")
    kind = getattr(errors, answer.type, None)
    if isinstance(kind, type) and issubclass(kind, DougongError):
        return kind(f"{place}{answer.message}")
    return WorkerError(f"{what}: {answer.type}: {answer.message}; see {log}")
