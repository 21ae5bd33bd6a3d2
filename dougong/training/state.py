"""The state that a worker begins with, and the state that it saves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from dougong.checkpoint.huggingface import Names
from dougong.checkpoint.reader import CheckpointReader
from dougong.checkpoint.snapshot import StateTensor
from dougong.job.schema import Job
from dougong.models.weights import WeightsFolder
from dougong.training.optimizers.base import Optimizer
from dougong.training.replica import ReadTensor, Replica


@dataclass(frozen=True)
class StartState:
    """Where a worker's tensors come from.

    step: the last step that the state has seen, 0 for a new run; digest: the ledger's after that
    step (None: there is none); read: one tensor of the model (None: initial values); checkpoint:
    open while the worker is built, None for a new run.
    """

    step: int = 0
    digest: str | None = None
    read: ReadTensor | None = None
    checkpoint: CheckpointReader | None = None

    def load_optimizer(self, optimizer: Optimizer) -> None:
        """Put back what the checkpoint holds for the tensors that this worker trains."""
        if self.checkpoint is None:
            return
        kinds = optimizer.declaration.state_kinds
        # Numbers exist from a tensor's first update on; what has the tensor's shape is stored as
        # zeros before that, so it does not tell.
        updated = set(optimizer.names)
        for kind in kinds:
            if not kind.like_parameter:
                updated &= set(self.checkpoint.names(kind.name))
        for name in optimizer.names:
            if name not in updated:
                continue
            for kind in kinds:
                optimizer.load(kind.name, name, self.checkpoint.read(kind.name, name))


@contextmanager
def open_start(job: Job, names: Names, resume: Path | None) -> Iterator[StartState]:
    """What a generation begins with: the checkpoint `resume`, or the job's own weights, or initial
    values. `names`: the model's map on disk.

    Raises CheckpointError or ModelError when the files are of another model.
    """
    if resume is not None:
        with CheckpointReader(resume, names) as reader:
            digest = reader.metadata.get("ledger")
            yield StartState(reader.step, digest, lambda name: reader.read("model", name), reader)
    elif job.model.path:
        yield StartState(read=WeightsFolder(Path(job.model.path), names).read)
    else:
        yield StartState()


def state_of(replica: Replica, optimizer: Optimizer) -> Iterator[StateTensor]:
    """Everything that this worker owns. What an optimizer keeps of a tensor's own shape is zeros
    for one that was never updated, so that every checkpoint of a model has the same tensors."""
    for name, master in replica.masters.items():
        yield StateTensor("model", name, master)
    updated = set()
    for kind, name, value in optimizer.state():
        updated.add((kind, name))
        yield StateTensor(kind, name, value)
    for name in optimizer.names:
        for kind in optimizer.declaration.kinds_like_parameters:
            if (kind, name) not in updated:
                yield StateTensor(kind, name, torch.zeros_like(replica.masters[name]))
