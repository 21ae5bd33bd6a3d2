"""A checkpoint of a device, read on the processor, and the other way round, by the files and the
code of a run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dougong.checkpoint.commit import commit
from dougong.checkpoint.part import CheckpointPart, PartWriter
from dougong.checkpoint.reader import CheckpointReader
from dougong.checkpoint.snapshot import Saver
from dougong.checkpoint.verify import verify
from dougong.conform.check import CPU, Bed, Check, method, require
from dougong.conform.judge import same_bits
from dougong.conform.steps.golden import blueprint_of, plan_of, stepper_of, train
from dougong.conform.steps.tiny import job_of
from dougong.deadlines import DEADLINES
from dougong.training.state import StartState, state_of
from dougong.training.step import Stepper

GROUP = "checkpoint"
STEP = 3
"""The checkpoint's."""
State = dict[tuple[str, str], Tensor]
"""By group (model, or a kind of optimizer state) and name, on the processor."""


def saving_checks() -> Iterator[Check]:
    yield method("saved there, read on the host", GROUP, "checkpoint", _to_host)
    yield method("saved on the host, read there", GROUP, "checkpoint", _from_host)


def _to_host(bed: Bed) -> None:
    _carried(bed, bed.device, CPU)


def _from_host(bed: Bed) -> None:
    _carried(bed, CPU, bed.device)


def _carried(bed: Bed, source: torch.device, target: torch.device) -> None:
    """Train, save, read elsewhere: the same bits of all weights and of the optimizer's state, and a
    next step that can be taken."""
    job = job_of()
    plan = plan_of(job)
    stepper = stepper_of(job, blueprint_of(job, bed, source), plan)
    train(job, stepper, range(1, STEP + 1))
    saved = state_on_host(stepper)
    directory = save(stepper, bed.folder / f"from-{source.type}")
    stepper.close()
    result = verify(directory)
    require(result.ok, str(result))
    other = blueprint_of(job, bed, target)
    with CheckpointReader(directory, other.names) as reader:
        again = stepper_of(job, other, plan, StartState.of(reader))
    _expect_equal(state_on_host(again), saved)
    train(job, again, range(STEP + 1, STEP + 2))
    again.close()


def _expect_equal(found: State, saved: State) -> None:
    require(found.keys() == saved.keys(), "other tensors were read than were saved")
    parted = [" ".join(key) for key, value in saved.items() if not same_bits(found[key], value)]
    require(not parted, f"other bits were read of {', '.join(parted[:3])} ({len(parted)} in all)")


def state_on_host(stepper: Stepper) -> State:
    """Everything that a checkpoint holds, copied."""
    share = stepper.parts.share
    found = {}
    for item in state_of(share.replica, share.optimizer):
        found[item.group, item.name] = item.tensor.detach().to(CPU, copy=True)
    return found


def save(stepper: Stepper, root: Path) -> Path:
    """Write and commit a checkpoint, as a run's worker and controller do."""
    share = stepper.parts.share
    parts: list[CheckpointPart] = []
    failed: list[str] = []
    writer = PartWriter("here/0", 0, 1, 0)
    saver = Saver(
        root,
        writer,
        parts.append,
        lambda step, reason: failed.append(reason),
        share.blueprint.names,
        DEADLINES,
    )
    saver.stage(STEP, state_of(share.replica, share.optimizer))
    saver.finish(partial(_raise_first, failed))
    _raise_first(failed)
    return commit(root, STEP, 1, parts)


def _raise_first(failed: list[str]) -> None:
    require(not failed, failed[0] if failed else "")
