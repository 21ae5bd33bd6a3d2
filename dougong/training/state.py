"""The state that a worker begins with, the state that it saves, and when it is kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dougong.checkpoint.directories import step_of
from dougong.checkpoint.huggingface import Names
from dougong.checkpoint.manifest import MODEL_GROUP
from dougong.checkpoint.reader import CheckpointReader
from dougong.checkpoint.snapshot import StateTensor
from dougong.job.optimizers.registry import declaration_of
from dougong.job.schema import Job
from dougong.models.adapter_folder import AdapterFolder
from dougong.models.adapters import initial_adapter
from dougong.models.stored.weights import WeightsFolder
from dougong.models.tuned import trainable_dense
from dougong.ops.adapter_names import is_adapter
from dougong.parallel.dense.buckets import in_pieces
from dougong.parallel.pieces import tensor_of
from dougong.parallel.plan import Plan, Worker
from dougong.training.hooks import StepHook
from dougong.training.integrity.guard import Guard
from dougong.training.integrity.held_state import HeldState
from dougong.training.ledger import LedgerHook
from dougong.training.memory.source import StateKey, StateSource
from dougong.training.memory.state_memory import StateMemory
from dougong.training.optimizers.base import Optimizer
from dougong.training.replica import (
    ModelBlueprint,
    ReadTensor,
    Replica,
)
from dougong.training.results.reports import StepResult


@dataclass(frozen=True)
class StartState:
    """Where a worker's tensors come from.

    step: the last step that the state has seen, 0 for a new run; digest: the ledger's after that
    step (None: there is none); read: one tensor of the model (None: initial values); source: of all
    state, open while the worker is built, None for a new run.
    """

    step: int = 0
    digest: str | None = None
    read: ReadTensor | None = None
    source: StateSource | None = None

    def load_optimizer(self, optimizer: Optimizer) -> None:
        """Put back what the source holds for the tensors that this worker trains."""
        if self.source is None:
            return
        kinds = optimizer.declaration.state_kinds
        # Numbers exist from a tensor's first update on; what has the tensor's shape is stored as
        # zeros before that, so it does not tell.
        updated = set(map(tensor_of, optimizer.names))
        for kind in kinds:
            if not kind.like_parameter:
                updated &= set(map(tensor_of, self.source.names(kind.name)))
        # Kind by kind: pieces of a tensor that is stored whole are read one after the other.
        for kind in kinds:
            for name in optimizer.names:
                if tensor_of(name) in updated:
                    optimizer.load(kind.name, name, self.source.read(kind.name, name))

    @staticmethod
    def of(source: StateSource) -> StartState:
        """All of it from one source."""
        return StartState(
            source.step, source.ledger, lambda name: source.read(MODEL_GROUP, name), source
        )


OpenMemory = Callable[[int], StateSource | None]
"""open(least step): the newest state of that step or a later one in workers' memory, if there is
one. Collective."""


def no_memory(least_step: int) -> StateSource | None:
    """Where workers keep nothing."""
    return None


@contextmanager
def open_start(
    job: Job, names: Names, resume: Path | None, open_memory: OpenMemory = no_memory
) -> Iterator[StartState]:
    """What a generation begins with: the newest state in workers' memory, unless the checkpoint
    `resume` is newer, else that, or the job's own weights, or initial values. `names`: the model's
    map on disk.

    Raises CheckpointError or ModelError when the files are of another model.
    """
    # By its name alone: a recovery from memory does not wait for storage.
    least_step = 0 if resume is None else step_of(resume) or 0
    found = open_memory(least_step)
    if found is not None:
        yield StartState.of(found)
    elif resume is not None:
        with CheckpointReader(resume, names) as reader:
            yield StartState.of(reader)
    elif job.model.path:
        folder = WeightsFolder(Path(job.model.path), names.without_adapters)
        yield StartState(read=_with_adapters(job, names, folder.read))
    else:
        yield StartState()


def _with_adapters(job: Job, names: Names, read: ReadTensor) -> ReadTensor:
    """A folder of a model holds no adapters: theirs are those of a folder of peft, or first
    values."""
    lora = job.model.lora
    if lora is None:
        return read
    folder = None if lora.path is None else AdapterFolder(Path(lora.path), names.adapters)

    def read_or_begin(name: str) -> Tensor:
        if not is_adapter(name):
            return read(name)
        if folder is not None:
            return folder.read(name)
        return initial_adapter(name, names.shape_of(name), job.seed)

    return read_or_begin


def state_of(replica: Replica, optimizer: Optimizer) -> Iterator[StateTensor]:
    """Everything that this worker owns. What an optimizer keeps of a tensor's own shape is zeros
    for one that was never updated, so that every checkpoint of a model has the same tensors."""
    for name, master in replica.masters.items():
        yield StateTensor(MODEL_GROUP, name, master)
    updated = set()
    for kind, name, value in optimizer.state():
        updated.add((kind, name))
        yield StateTensor(kind, name, value)
    for name in optimizer.names:
        for kind in optimizer.declaration.kinds_like_parameters:
            if (kind, name) not in updated:
                zeros = torch.zeros_like(replica.masters[name], dtype=optimizer.state_dtype)
                yield StateTensor(kind, name, zeros)


def wanted_state(blueprint: ModelBlueprint, plan: Plan) -> list[list[StateKey]]:
    """What each worker of a plan begins with, by rank: what it computes with, and what it owns. The
    kinds of state that a tensor has only once it was updated are among it."""
    trainable = trainable_dense(blueprint.model)
    trained_names = {name for name in plan.owners if tensor_of(name) in trainable}
    frozen = [name for name in plan.owners if name not in trained_names]
    is_sharded = blueprint.job.dense == "shard"
    kinds = [kind.name for kind in declaration_of(blueprint.job.optimizer).state_kinds]
    wanted: list[list[StateKey]] = []
    for worker in plan.workers:
        dense, rank = list(plan.owners) if worker.lanes else [], worker.rank
        owned = [name for name in dense if plan.owners[name] == rank]
        trained = [name for name in owned if name in trained_names]
        if is_sharded:
            others = frozen if worker.lanes else []
            dense = [*owned, *(name for name in others if plan.owners[name] != rank)]
        experts, trained_experts = _expert_tensors(blueprint, worker)
        keys = [(MODEL_GROUP, name) for name in (*dense, *experts)]
        for kind in kinds:
            keys += [(kind, name) for name in (*trained, *trained_experts)]
        wanted.append(keys)
    return wanted


def _expert_tensors(blueprint: ModelBlueprint, worker: Worker) -> tuple[list[str], list[str]]:
    """The tensors of a worker's experts, and those of them that are trained: none of experts that
    compute nothing."""
    every: list[str] = []
    trained: list[str] = []
    for site, owned in zip(blueprint.sites, worker.experts, strict=True):
        for expert in site.with_idle_rows(owned):
            every += [name for _, name in site.tensors_of(expert)]
            trained += site.trained_of(expert) if expert < site.num_experts else []
    return every, trained


class SnapshotHook(StepHook):
    """The last of a step's hooks: it takes the state as all others have left it.

    A step without its update has the weights of the one before, so that its snapshot stands; a
    recovery computes such a step anew, as it would from a checkpoint.
    """

    def __init__(self, memory: StateMemory, ledger: LedgerHook | None, guard: Guard | None) -> None:
        self._memory, self._ledger, self._guard = memory, ledger, guard

    def gradients_ready(self, gradients: Mapping[str, Tensor]) -> None:
        """Here, and not in `before_update`: what this worker says of the step next, to everybody,
        is that by which others know that they may update."""
        self._memory.before_update()

    def after_update(self, result: StepResult) -> None:
        digest = None if self._ledger is None else self._ledger.digest
        sums = None if self._guard is None else self._guard.state_sums
        self._memory.step_done(result.step, digest, sums)


class GuardHook(StepHook):
    """Says what must stay as it is, when all that moves weights has moved them."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def after_update(self, result: StepResult) -> None:
        self._guard.note()


def held_state_of(replica: Replica, optimizer: Optimizer) -> HeldState:
    """What a worker holds from step to step; what comes and goes is none of it."""
    copies = dict(replica.owned_dense) | dict(replica.copies)
    trained = in_pieces(dict(replica.leaves), replica.pieces)
    spread = frozenset(name for name, _ in trained)
    return HeldState(replica.masters, copies, spread, optimizer)
