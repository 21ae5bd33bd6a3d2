"""The life of a training worker: join its generation, build its part, run steps, save.

The entry `train(context)` is called in every worker process of a generation, with the same job and
plan.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dougong.accelerators.registry import get_accelerator
from dougong.checkpoint.huggingface import Names
from dougong.checkpoint.ledger_file import LedgerWriter
from dougong.checkpoint.part import CheckpointPart, PartWriter
from dougong.checkpoint.reader import CheckpointReader
from dougong.checkpoint.snapshot import Saver, StateTensor
from dougong.control.worker_messages import PartDurable, StepDone
from dougong.data.windows import TokenWindows, open_data, vocabulary
from dougong.deadlines import DEADLINES
from dougong.errors import DataError, DeviceError
from dougong.fault.drill import rehearse
from dougong.job.schema import Job
from dougong.models.build import build_on_meta, load_config
from dougong.models.sites import find_sites
from dougong.models.weights import WeightsFolder
from dougong.ops.counter_rng import torch_seed
from dougong.ops.experts.base import ExpertOp
from dougong.parallel.comm.world import World
from dougong.parallel.comm.membership import Membership
from dougong.parallel.execute.executor import Clock
from dougong.parallel.plan import Plan
from dougong.parallel.segments.flight import Forward
from dougong.parallel.trace.tracer import Tracer
from dougong.training.ledger import Ledger
from dougong.training.optimizers.adamw import MOMENTS
from dougong.training.replica import Replica, ReplicaSpec, build_replica
from dougong.training.step import Stepper, StepResult

if TYPE_CHECKING:
    from dougong.control.worker_api import WorkerContext


def train(context: WorkerContext) -> None:
    """Train from the context's checkpoint (or the beginning) to the job's last step, or until asked
    to stop.

    Returns when this worker's share of the last checkpoint is durable. Collective over the
    generation's workers.
    """
    with joined(context) as world:
        trainer = Trainer(context, world)
        for step in range(trainer.first_step, context.job.steps + 1):
            rehearse(context.drills, step, context.control.send)
            if trainer.run_step(step):
                break
        trainer.finish()


@contextmanager
def joined(context: WorkerContext) -> Iterator[World]:
    """The generation's world, for as long as all of its workers are in it. Collective."""
    context.control.progress(0, "start", 0)
    world = World.join(_member(context), context.store)
    try:
        yield world
        world.barrier()  # nobody leaves while a peer still waits for a message
    finally:
        world.leave()


def _member(context: WorkerContext) -> Membership:
    """This worker's place in the world, and every island's native library."""
    accelerators = {i.name: i.accelerator for i in context.job.islands}
    islands = tuple(
        (
            name,
            get_accelerator(kind).backend,
            tuple(w.rank for w in context.plan.workers if w.island == name),
        )
        for name, kind in accelerators.items()
    )
    worker = context.worker
    index, deterministic = int(worker.device.rpartition(":")[2]), context.job.determinism != "off"
    device = get_accelerator(accelerators[worker.island]).open(index, deterministic)
    attention = tuple(w.rank for w in context.plan.workers if w.lanes)
    return Membership(
        worker.rank,
        len(context.plan.workers),
        context.generation,
        worker.island,
        islands,
        device,
        attention,
    )


@dataclass(frozen=True)
class _Start:
    """What a worker begins with: the model's map on disk, and the checkpoint (if any)."""

    names: Names
    reader: CheckpointReader | None
    weights: WeightsFolder | None

    @staticmethod
    def of(job: Job, vocab_size: int | None, resume: Path | None) -> _Start:
        model = build_on_meta(load_config(job.model, vocab_size))
        sites = find_sites(model)
        names = Names.of(model, [s.name for s in sites], sites[0].num_experts)
        reader = CheckpointReader(resume, names) if resume is not None else None
        folder = (
            WeightsFolder(Path(job.model.path), names)
            if reader is None and job.model.path
            else None
        )
        return _Start(names, reader, folder)

    def read(self) -> Any:
        if self.reader is not None:
            reader = self.reader
            return lambda name: reader.read("model", name)
        return self.weights.read if self.weights is not None else None


class Trainer:
    """One worker between its building and its end."""

    def __init__(self, context: WorkerContext, world: World, tracer: Tracer | None = None) -> None:
        """`tracer` is shown what its step computes on its way."""
        self._context, self._world = context, world
        self._job, self._lanes = context.job, context.worker.lanes
        vocab_size = vocabulary(self._job.data)
        start = _Start.of(self._job, vocab_size, context.resume)
        spec = ReplicaSpec(self._job, vocab_size, world.member.device, start.read())
        self._replica = build_replica(spec, context.plan, world.rank)
        self._data: TokenWindows = open_data(self._job, int(self._replica.config.vocab_size))
        _agree_on_data(world, context.plan, self._data)
        if self._job.determinism == "layout" and self._job.numerics == "exact":
            _agree_on_operators(world, context.plan, self._replica.op)
        self._step = 0
        self._clock = Clock(
            note=lambda phase, operation: context.control.progress(self._step, phase, operation)
        )
        self._stepper = Stepper(self._job, context.plan, world, self._replica, self._clock, tracer)
        root, name = context.run_dir / "checkpoints", context.worker.name
        writer = PartWriter(name, world.rank, context.generation)
        self._saver = Saver(root, writer, self._durable, start.names, DEADLINES)
        self._saved_step = 0
        self._digests: dict[int, str] = {}
        digest = start.reader.metadata.get("ledger") if start.reader is not None else None
        if self._job.determinism != "off":
            self._stepper.ledger = _open_ledger(context, world, self._replica, digest)
        if start.reader is not None:
            self._saved_step = self._step = start.reader.step
            _load_optimizer(self._stepper, start.reader)
            start.reader.close()

    @property
    def first_step(self) -> int:
        """The step that comes next."""
        return self._step + 1

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of the model's experts modules, in the order of their calls."""
        return self._replica.cut.names

    def run_step(self, step: int) -> bool:
        """One step, and what is due after it. True: stop, as agreed by all workers."""
        begun = time.perf_counter()
        self._step = step
        result = self._stepper.run(
            step, self._forwards, lambda: self._context.control.stop_requested
        )
        ledger = self._stepper.ledger
        recorded = ledger.close(step, result.loss) if ledger is not None else {}
        step_s = time.perf_counter() - begun
        last = result.stop or step == self._job.steps
        save = last or bool(self._job.checkpoint.every and step % self._job.checkpoint.every == 0)
        validation = self._validate(step, last)
        if self._world.rank == 0:
            row = self._row(result, step_s, validation) | result.load.row(whole=save) | recorded
            self._context.control.send(StepDone(row))
        if save:
            self._save(step)
        return result.stop

    def finish(self) -> None:
        """Save what is not saved yet and wait until it is durable."""
        if self._step > self._saved_step:
            self._save(self._step)
        self._context.control.progress(self._step, "checkpoint", 1)
        self._saver.wait()
        self._context.control.progress(self._step, "idle", 0)

    def _forwards(self, microbatch: int) -> Mapping[int, Forward]:
        return {
            lane: self._forward(
                self._data.batch(self._step, lane, microbatch),
                ("train", self._step, lane, microbatch),
            )
            for lane in self._lanes
        }

    def _forward(self, ids: Any, key: tuple[str | int, ...]) -> Forward:
        tokens = torch.from_numpy(ids).to(self._world.member.device)

        def run() -> Tensor:
            loss: Tensor = self._replica.model(
                input_ids=tokens, labels=tokens, use_cache=False
            ).loss
            return loss

        def seed(segment: int) -> None:
            torch.manual_seed(torch_seed(self._job.seed, *key, segment))

        return Forward(run, seed)

    def _validate(self, step: int, last: bool) -> float | None:
        validation = self._job.data.validation
        if validation is None or not (last or step % validation.every == 0):
            return None
        self._context.control.progress(step, "validate", 0)
        return self._stepper.evaluate(self._validation_rounds(validation.batches), step)

    def _validation_rounds(self, rounds: int) -> Iterator[Mapping[int, Forward]]:
        self._replica.model.eval()
        for number in range(rounds):
            first = number * self._job.batch.lanes
            batches = {lane: self._data.validation_batch(first + lane) for lane in self._lanes}
            yield {
                lane: self._forward(ids, ("validate", number, lane))
                for lane, ids in batches.items()
            }
        self._replica.model.train()

    def _row(self, result: StepResult, step_s: float, validation: float | None) -> dict[str, Any]:
        batch = self._job.batch
        per_lane = batch.microbatches * batch.microbatch_size * self._job.data.sequence_length
        row: dict[str, Any] = {
            "step": result.step,
            "loss": result.loss,
            "tokens": per_lane * batch.lanes,
            "step_s": step_s,
            "tokens_per_s": per_lane * batch.lanes / step_s,
            "grad_norm": result.grad_norm,
            "lr": result.rate,
            "islands": _island_times(self._context.plan, result, step_s, per_lane),
        }
        return row if validation is None else {**row, "val_loss": validation}

    def _save(self, step: int) -> None:
        self._context.control.progress(step, "checkpoint", 0)
        if self._stepper.ledger is not None:
            self._digests[step] = self._stepper.ledger.digest
        self._saver.stage(step, _state(self._replica, self._stepper))
        self._saved_step = step

    def _durable(self, part: CheckpointPart) -> None:
        part = replace(part, ledger=self._digests.pop(part.step, None))
        self._context.control.send(PartDurable(part.step, part.directory, part.to_json()))


def _agree_on_operators(world: World, plan: Plan, op: ExpertOp) -> None:
    """Workers with experts must compute them by the same form: a library that only some have would
    part their bits. Collective."""
    told = world.gather([float(zlib.crc32(type(op).__name__.encode()))], [1] * world.size)
    holders = [w for w in plan.workers if w.num_experts]
    others = [w for w in holders if told[w.rank] != told[holders[0].rank]]
    if others and world.rank == others[0].rank:
        raise DeviceError(
            f"{', '.join(w.name for w in others)}: experts are computed by {type(op).__name__}, not by the form used "
            f"on {holders[0].name}; install the same packages on all nodes (triton comes with torch's CUDA build), or "
            "set determinism: run"
        )


def _open_ledger(
    context: WorkerContext, world: World, replica: Replica, digest: str | None
) -> Ledger:
    names = sorted(replica.masters)
    writer = LedgerWriter(
        context.run_dir / "ledger", context.generation, context.worker.name, names
    )
    return Ledger(world, names, writer, digest)


def _agree_on_data(world: World, plan: Plan, data: TokenWindows) -> None:
    """Every worker must read the same tokens: nodes may have other files, or another standard
    library. Collective."""
    digest = bytes.fromhex(data.digest())
    mine = [float(int.from_bytes(digest[i : i + 4], "big")) for i in range(0, len(digest), 4)]
    told = world.gather(mine, [len(mine)] * world.size)
    others = [w for w in plan.workers if told[w.rank] != told[0]]
    if others:
        names = ", ".join(f"{w.name} on {w.node}" for w in others)
        raise DataError(
            f"{data.name}: {names} read other tokens than {plan.workers[0].name} on {plan.workers[0].node}; give every "
            "node the same files, or `data.tokens` on a file system that all nodes share"
        )


def _island_times(
    plan: Plan, result: StepResult, step_s: float, tokens_per_lane: int
) -> dict[str, dict[str, float]]:
    """Per island: mean seconds of a worker in messages and outside them, and the tokens per second
    of its lanes."""
    times: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(w.island for w in plan.workers):
        workers = [w for w in plan.workers if w.island == name]
        exchange = sum(result.exchange_s[w.rank] for w in workers) / len(workers)
        tokens = tokens_per_lane * sum(len(w.lanes) for w in workers)
        times[name] = {
            "compute_s": max(0.0, step_s - exchange),
            "exchange_s": exchange,
            "tokens_per_s": tokens / step_s,
        }
    return times


def _state(replica: Replica, stepper: Stepper) -> Iterator[StateTensor]:
    """Everything that this worker owns. A tensor that was never updated has zero moments and no
    `step`."""
    for name, master in replica.masters.items():
        yield StateTensor("model", name, master)
    updated = set()
    for kind, name, value in stepper.optimizer.state():
        updated.add((kind, name))
        yield StateTensor(kind, name, value)
    for name in stepper.optimizer.names:
        for kind in MOMENTS:
            if (kind, name) not in updated:
                yield StateTensor(kind, name, torch.zeros_like(replica.masters[name]))


def _load_optimizer(stepper: Stepper, reader: CheckpointReader) -> None:
    updated = set(reader.names("step"))
    for name in stepper.optimizer.names:
        if name in updated:
            for kind in ("step", *MOMENTS):
                stepper.optimizer.load(kind, name, reader.read(kind, name))
