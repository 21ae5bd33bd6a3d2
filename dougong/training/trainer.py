"""A training worker between its building and its end: steps, and what is due after them."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn

import torch

from dougong.accelerators.registry import get_accelerator
from dougong.checkpoint.directories import step_of
from dougong.checkpoint.part import CheckpointPart, PartWriter
from dougong.checkpoint.snapshot import Saver
from dougong.control.worker_api import WorkerContext
from dougong.control.worker_messages import (
    PartDurable,
    SaveFailed,
    StateFetched,
    StepDone,
    StepValidated,
    WorkerWarning,
)
from dougong.data.sources import vocabulary
from dougong.data.windows import TokenWindows, open_data
from dougong.errors import CorruptionError, NumericsError
from dougong.job.schema import Job
from dougong.models.configs.parts import text_config
from dougong.ops.experts.base import ExpertOp
from dougong.parallel.comm.world import World
from dougong.parallel.trace.tracer import Tracer
from dougong.training import non_finite
from dougong.training.audit import make_audit
from dougong.training.build import (
    LedgerStart,
    StepOptions,
    build_in_world,
    build_model,
    build_on_plan,
)
from dougong.training.forwards import Forwards
from dougong.training.memory.restore import MemorySource
from dougong.training.memory.state_memory import StateMemory
from dougong.training.replica import ModelBlueprint
from dougong.training.results.held_out import HeldOutLosses
from dougong.training.results.kept_rows import KeptRows, lacks_validation
from dougong.training.results.metrics import step_row
from dougong.training.results.phases import Phases
from dougong.training.results.reports import StepResult
from dougong.training.results.save_cost import SaveCost
from dougong.training.start.agreement import agree_on_data, agree_on_operators, fallback_teller
from dougong.training.start.sources import check_data, check_weights
from dougong.training.state import (
    StartState,
    held_state_of,
    no_memory,
    open_start,
    state_of,
    wanted_state,
)
from dougong.training.step import Asked, ForwardsOf, Stepper, WorkerShare
from dougong.training.traffic import TrafficMeter
from dougong.training.unreached import UnreachedNotice, trained_parts


@dataclass(frozen=True)
class Begun:
    """What a generation goes on from: the state after `step`, and the checkpoint of `saved_step`,
    which is an earlier one where the state was in workers' memory."""

    step: int
    saved_step: int


class Trainer:
    """Runs steps, and after each one: validation, a line of metrics, a checkpoint. Collective: all
    workers call the same methods in the same order."""

    def __init__(
        self, context: WorkerContext, stepper: Stepper, forwards: Forwards, begun: Begun
    ) -> None:
        self.stepper = stepper
        self.first_step = begun.step + 1
        self._context = context
        self._job = context.job
        self._forwards = forwards
        self._phases = stepper.parts.phases
        self._step, self._saved_step = begun.step, begun.saved_step
        self._digests: dict[int, str] = {}
        self._rows = KeptRows.of(context.kept)
        self._save_cost = SaveCost()
        self._skips = non_finite.SkippedSteps(context.job.fault, context.skips)
        share = stepper.parts.share
        writer = PartWriter(context.worker.name, share.rank, context.generation, context.fence)
        root = context.run_dir / "checkpoints"
        names, limits = share.blueprint.names, context.job.fault.limits()
        self._saver = Saver(root, writer, self._durable, self._unsaved, names, limits)
        if self._job.checkpoint.every:
            self._saver.reserve(state_of(share.replica, share.optimizer))
        self.audit = make_audit(stepper, forwards)
        self._traffic = TrafficMeter.of(share, stepper.parts.world)
        self._phases.begin_step(self._step)

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of the model's experts modules, in the order of their calls."""
        return self.stepper.parts.share.replica.cut.names

    def run_step(self, step: int) -> Asked:
        """One step, and what is due after it; what all workers have agreed to do then."""
        begun = time.perf_counter()
        self._step = step
        forwards = self._forwards.of_step(step)
        with self._traffic.step():
            result = self._compute(step, forwards)
        step_s = time.perf_counter() - begun
        if self._skips.must_stop(result):
            self._give_up(result, step_s, forwards)

        # `result.stop` is the same on all workers, so all save after the same step, or none does.
        is_last = result.stop or step == self._job.steps
        # A step without its update has the weights of the one before. While such steps last, the
        # checkpoints before them are not pruned for copies, and a resume counts them anew.
        is_new = not result.is_skipped
        saves = is_last or (is_new and self._is_due(self._job.checkpoint.every))
        row = self._keep_row(result, step_s, saves)
        begun = time.perf_counter()
        validation = self._validate(is_last)
        if validation is not None:
            row |= {**validation.row(), "validate_s": time.perf_counter() - begun}
        self._report(row, whole=saves)
        self._judge(result, validation)
        if saves:
            self._save()
        return Asked(result.stop, result.rest)

    def _compute(self, step: int, forwards: ForwardsOf) -> StepResult:
        asked = partial(Asked.of, self._context.control)
        try:
            return self.stepper.run(step, forwards, asked, self._skips.listed, self.audit)
        except CorruptionError:
            # This process ends, and others go on without it: its part of a save that is under way
            # is of a step before.
            self._saver.wait()
            raise

    def catch_up(self) -> None:
        """What was due after the step that the generation goes on from, and the one before did not
        come to: validation, and a checkpoint. Collective."""
        if lacks_validation(self._job, self._context.recorded, self._step):
            begun = time.perf_counter()
            validation = self._validate(is_last=self._step == self._job.steps)
            assert validation is not None, "that is what lacks"
            seconds, by_source = time.perf_counter() - begun, validation.by_source
            told = StepValidated(self._step, validation.mean, seconds, by_source)
            if self._context.worker.rank == 0:
                self._context.control.send(told)
            self._judge_validation(validation)
        if self._step > self._saved_step and self._is_due(self._job.checkpoint.every):
            self._save()

    def finish(self) -> None:
        """Save what is not saved yet and wait until it is durable, or has been given up."""
        limits = self._job.fault.limits()
        deadline = time.monotonic() + limits.commit_checkpoint_s
        beats = itertools.count(1)

        def beat() -> None:
            self._phases.note("checkpoint", next(beats))

        while self._step > self._saved_step and time.monotonic() < deadline:
            beat()
            self._save(limits.storage_retry_s)
        if self._step == self._saved_step:
            self._saver.finish(beat)
        if self.stepper.parts.ledger is not None:
            self.stepper.parts.ledger.finish()
        if self.stepper.parts.memory is not None:
            self.stepper.parts.memory.end()  # nothing is under way when the world is left
        self._phases.note("idle", 0)

    def abandon_save(self) -> None:
        """The generation is over, and with it a save that is under way: nobody waits for it any
        more. Any thread may call this."""
        self._saver.abandon()
        if self.stepper.parts.ledger is not None:
            self.stepper.parts.ledger.leave()

    def _is_due(self, every: int) -> bool:
        """Whether the step is one of every so many; 0: none is."""
        return bool(every) and self._step % every == 0

    def _validate(self, is_last: bool) -> HeldOutLosses | None:
        """The losses on held-out data, where they are asked for and due; the same everywhere."""
        validation = self._job.data.validation
        if validation is None or not (is_last or self._is_due(validation.every)):
            return None
        with self._phases("validate"):
            losses = self.stepper.evaluate_each(self._forwards.of_validation(), self._step)
            return HeldOutLosses(losses, self._forwards.data.held_out_shares)

    def _keep_row(self, result: StepResult, step_s: float, whole: bool) -> dict[str, Any]:
        """The step's row, which every worker keeps as soon as its state is that of the step.
        `whole`: also what is large."""
        row = step_row(self._job, self._context.plan, result, step_s)
        row |= self._save_cost.keys(step_s, self._saver.write_s)
        row |= self.stepper.parts.hooks.metrics(whole)
        self._rows.keep(self._context.generation, row)
        return row

    def _report(self, row: dict[str, Any], whole: bool) -> None:
        """Tell the controller of the step, once for all workers. `whole`: also what was sent since
        the last such step. Collective."""
        row |= self._traffic.row() if whole else {}
        self._rows.keep(self._context.generation, row)
        if self._context.worker.rank == 0:
            self._context.control.send(StepDone(self._step, row))

    def _report_bad_step(self, result: StepResult, step_s: float) -> None:
        """Tell the controller of the step that ends the run: its numbers, and no ledger, since the
        step is not done, and whoever computes it again may come to another end."""
        if self._context.worker.rank == 0:
            row = step_row(self._job, self._context.plan, result, step_s)
            row |= self.stepper.parts.balance.metrics(whole=True)
            self._context.control.send(StepDone(self._step, row))

    def _judge(self, result: StepResult, validation: HeldOutLosses | None) -> None:
        """Tell of a step that was skipped, or computed twice, and judge its weights."""
        if self._context.worker.rank == 0:
            control, data = self._context.control, self._forwards.data
            self._skips.tell(control, result, data, self._verdict_on(result))
        if validation is not None:
            self._judge_validation(validation)

    def _judge_validation(self, validation: HeldOutLosses) -> None:
        """Stop or warn where the validation loss shows that this step's weights are of no use. All
        workers judge alike."""
        if math.isfinite(validation.mean):
            return
        text = non_finite.validation_words(self._step, validation.losses)
        if self._job.fault.non_finite == "stop":
            self.wait_for_save()
            raise NumericsError(f"{text}; no checkpoint is made of its weights")
        if self._context.worker.rank == 0:
            self._context.control.send(WorkerWarning(text))

    def _give_up(self, result: StepResult, step_s: float, forwards: ForwardsOf) -> NoReturn:
        """End the run at a step that is not finite: its numbers are recorded, and the place is
        looked for. Collective."""
        self._report_bad_step(result, step_s)
        self.wait_for_save()
        text = non_finite.explain(self.stepper, result, forwards, self._skips.in_a_row)
        raise NumericsError(f"{text}{self._verdict_on(result)}")

    def _verdict_on(self, result: StepResult) -> str:
        """What the audit has found of a step that is not finite; empty where it has not looked."""
        is_looked_at = result.not_finite is not None and result.step not in self._skips.listed
        return self.audit.words if self.audit is not None and is_looked_at else ""

    def wait_for_save(self) -> None:
        """Before an error that all workers raise: their processes end, and what their writer
        threads have not made durable would be lost. Collective."""
        self._phases.note("checkpoint", 1)
        self._saver.wait()
        self.stepper.parts.world.barrier()

    def _save(self, patience_s: float | None = None) -> None:
        begun = time.perf_counter()
        with self._phases("checkpoint"):
            parts = self.stepper.parts
            if parts.ledger is not None:
                self._digests[self._step] = parts.ledger.digest
            state = state_of(parts.share.replica, parts.share.optimizer)
            if self._saver.stage(self._step, state, patience_s):
                self._saved_step = self._step
        self._save_cost.held(time.perf_counter() - begun)

    def _durable(self, part: CheckpointPart) -> None:
        """Called by the writer thread."""
        # By then the ledger may be some steps on: the part gets the digest of its own step.
        part = replace(part, ledger=self._digests.pop(part.step, None))
        self._context.control.send(PartDurable(part.step, part.directory, part.to_json()))

    def _unsaved(self, step: int, reason: str) -> None:
        """Called by the writer thread, or for a save that is left out."""
        self._context.control.send(SaveFailed(step, reason))


def build_trainer(
    context: WorkerContext,
    world: World,
    tracer: Tracer | None = None,
    memory: StateMemory | None = None,
) -> Trainer:
    """All that a worker needs for its steps, from the job file and the newest state on, on storage
    or in the `memory` of this world's workers (None: nothing is kept there). Collective.

    Raises what makes the job impossible here: DataError, ModelError, CheckpointError, DeviceError.
    """
    job, plan = context.job, context.plan
    # What can be wrong with the data is found before weights are read, which may take minutes.
    form = _job_form(context, world.member.device)
    blueprint, data = form.blueprint, form.data
    _agree_on_data(context, world, data)
    if job.needs_exact_kernels:
        agree_on_operators(world, plan, blueprint.op)
    share, start = _read_share(context, world, blueprint, memory)
    notice = UnreachedNotice(trained_parts(share.replica), _warner(context))
    ledger = LedgerStart.of(context, start.digest)
    options = StepOptions(Phases(context.control.progress), tracer, ledger, (notice,), memory)
    stepper = build_in_world(share, world, options)
    lanes = context.worker.lanes
    forwards = Forwards(job, data, share.replica.model, lanes, blueprint.device)
    trainer = Trainer(context, stepper, forwards, _begun(context, start))
    trainer.catch_up()
    return trainer


def _read_share(
    context: WorkerContext, world: World, blueprint: ModelBlueprint, memory: StateMemory | None
) -> tuple[WorkerShare, StartState]:
    """This worker's share with the newest state that there is; the controller is told where that
    was, and the memory follows from there. Collective."""
    begun = time.perf_counter()
    wanted = partial(wanted_state, blueprint, context.plan)
    open_memory = no_memory if memory is None else partial(memory.open_state, world, wanted)
    with open_start(context.job, blueprint.names, context.resume, open_memory) as start:
        share = build_on_plan(blueprint, context.plan, world.rank, start)
    tiers = {} if start.source is None else dict(start.source.tiers)
    untold = KeptRows.of(context.kept).begin(context.recorded, start.step)
    seconds = time.perf_counter() - begun
    validates = lacks_validation(context.job, context.recorded, start.step)
    context.control.send(StateFetched(start.step, tiers, seconds, untold, validates))
    if memory is not None:
        state = partial(state_of, share.replica, share.optimizer)
        exact = context.job.is_deterministic
        sums = held_state_of(share.replica, share.optimizer).sums() if exact else None
        memory.follow(world, context.plan, state, start.step, start.digest, sums)
    return share, start


def _begun(context: WorkerContext, start: StartState) -> Begun:
    saved_step = start.step
    if isinstance(start.source, MemorySource):
        saved_step = 0 if context.resume is None else step_of(context.resume) or 0
    return Begun(start.step, saved_step)


@dataclass(frozen=True)
class JobForm:
    """What a worker's process makes of its job once, whatever generation it is in."""

    job: Job
    blueprint: ModelBlueprint
    data: TokenWindows


def _job_form(context: WorkerContext, device: torch.device) -> JobForm:
    """The one that this process keeps, or a new one."""
    job, form = context.job, context.kept.get(JobForm)
    if form is not None and (form.job, form.blueprint.device) == (job, device):
        return form
    fused, tell = _fused_experts(context), fallback_teller(context)
    has_attention = context.worker.role != "experts"
    blueprint = build_model(job, vocabulary(job), device, fused, tell, has_attention)
    form = JobForm(job, blueprint, open_data(job, int(text_config(blueprint.config).vocab_size)))
    context.kept.keep(form)
    return form


def _agree_on_data(context: WorkerContext, world: World, data: TokenWindows) -> None:
    """The data is the same on every worker. A generation that begins after somebody has rewritten a
    file goes on with the run's own data and weights, or not at all."""
    known = context.sources
    agree_on_data(world, context.plan, data)
    if known is not None:
        check_data(known, context.job, data.name, data.digest())
        if context.resume is None:
            check_weights(known)


def _warner(context: WorkerContext) -> Callable[[str], None]:
    """Warns of what all workers know alike, once for all of them."""

    def warn(text: str) -> None:
        if context.worker.rank == 0:
            context.control.send(WorkerWarning(text))

    return warn


def _fused_experts(context: WorkerContext) -> Iterator[ExpertOp]:
    """What the accelerator of this worker's island offers, fastest first."""
    kinds = {island.name: island.accelerator for island in context.job.islands}
    return get_accelerator(kinds[context.worker.island]).expert_operators()
