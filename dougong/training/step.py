"""One training step on one worker: micro-batches, ordered sums, global norm, update, new weights to
everybody."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from dougong.control.worker_api import Control
from dougong.fault.policy import step_decision
from dougong.parallel.comm.world import World
from dougong.parallel.dense.gradients import DenseGradients
from dougong.parallel.dense.ordered_reduce import all_gather_parameters
from dougong.parallel.dense.unit_gathers import UnitGathers
from dougong.parallel.dispatch.dispatcher import Dispatcher
from dougong.parallel.exchange.exchange import Exchange
from dougong.parallel.execute.clock import Clock
from dougong.parallel.execute.executor import Executor, Training
from dougong.parallel.execute.shard import ExpertShard
from dougong.parallel.plan import Plan
from dougong.parallel.schedules.message_order import MessageOrder
from dougong.parallel.schedules.operation import Program
from dougong.parallel.segments.flight import Forward, GradientSink
from dougong.parallel.trace.tracer import Tracer
from dougong.training.hooks import StepHooks
from dougong.training.integrity.guard import Guard
from dougong.training.ledger import LedgerHook
from dougong.training.load_balance import LoadBalance
from dougong.training.memory.state_memory import StateMemory
from dougong.training.optimizers.base import Optimizer
from dougong.training.optimizers.lr_schedule import rate_of
from dougong.training.replica import ModelBlueprint, Replica
from dougong.training.results.integrity_word import NOTHING_CHANGED
from dougong.training.results.phases import Phases
from dougong.training.results.reports import (
    LossKey,
    ReportForm,
    StepReport,
    StepResult,
    clip_scale,
    evaluation_mean,
    find_not_finite,
    gather_losses,
    gather_reports,
    global_norm,
    mean_loss,
    merged_losses,
    pack_reached,
    unreached_names,
)

ForwardsOf = Callable[[int], Mapping[int, Forward]]
"""forwards(micro-batch) by local lane."""


@dataclass(frozen=True)
class Asked:
    """What a worker was asked for: to stop after the step, or to rest, that the run may go on in
    another generation."""

    stop: bool = False
    rest: bool = False

    @staticmethod
    def of(control: Control) -> Asked:
        """By now."""
        return Asked(control.stop_requested, control.rest_requested)


@dataclass(frozen=True)
class WorkerShare:
    """What one worker has of a job on a plan, before it knows its peers.

    forms: what every worker's report of a step holds, by rank.
    """

    blueprint: ModelBlueprint
    plan: Plan
    rank: int
    replica: Replica
    shard: ExpertShard
    dispatcher: Dispatcher
    program: Program
    message_order: MessageOrder
    optimizer: Optimizer
    forms: tuple[ReportForm, ...]


@dataclass(frozen=True)
class StepParts:
    """What a step is made of, wired by `build.build_in_world`.

    hooks: all of them, in their order; `balance` and `ledger` (None: none is kept) are among them,
    and one that keeps the state in `memory` (None: it is not kept). `guard` (None: nobody does)
    compares numbers with their copies.
    """

    share: WorkerShare
    world: World
    phases: Phases
    clock: Clock
    exchange: Exchange
    gradients: DenseGradients
    executor: Executor
    balance: LoadBalance
    ledger: LedgerHook | None
    hooks: StepHooks
    tracer: Tracer | None
    memory: StateMemory | None
    guard: Guard | None = None
    gathers: UnitGathers | None = None


@dataclass(frozen=True)
class StepGradients:
    """What forwards and backwards give. `losses`: of the local lanes; `tensors`: the sums over all
    lanes, float32, of everything that this worker owns, by name. The memory of the sums is used
    again by the next step."""

    losses: dict[LossKey, float]
    tensors: dict[str, Tensor]


class StepAudit(Protocol):
    """Computes a step again (`audit.Audit`). Collective; raises where it finds something."""

    def not_finite(self, step: int, computed: StepGradients) -> None:
        """The step is not finite: is it so again, elsewhere?"""
        ...

    def wants(self, result: StepResult) -> bool:
        """Whether it computes this step again. Asked once of every step with an update."""
        ...

    def gradients(self, step: int, computed: StepGradients) -> None:
        """Before anything has moved."""
        ...

    def before_update(self, result: StepResult) -> None:
        """The gradients are right, and are not clipped yet."""
        ...

    def after_update(self, step: int) -> None:
        """The weights have moved; nothing is committed."""
        ...


class Stepper:
    """Runs steps of one worker. Collective: all workers of the plan call the same methods in the
    same order."""

    def __init__(self, parts: StepParts) -> None:
        self.parts = parts
        self._share = parts.share
        self._job = parts.share.blueprint.job
        self._plan = parts.share.plan
        self._replica = parts.share.replica
        self._world = parts.world
        self._phases = parts.phases
        self._clock = parts.clock
        self._hooks = parts.hooks

    @property
    def optimizer(self) -> Optimizer:
        """The rule over the tensors that this worker trains, and its state."""
        return self._share.optimizer

    def run(
        self,
        step: int,
        forwards: ForwardsOf,
        asked: Callable[[], Asked] | None = None,
        skips: Collection[int] = (),
        audit: StepAudit | None = None,
    ) -> StepResult:
        """One step; one that is not finite is left without its update, on all workers alike, and
        `is_skipped` of the result says so. Where the job leaves such steps out it is computed once
        more before: what a device has computed wrongly is right then. With an `audit` others
        compute it, who name the one that erred.

        `asked` says what this worker was asked for, and is called when the gradients are there: a
        request that comes while they are computed still counts. `skips`: steps that are left
        without their update whatever comes out. `audit`: who computes steps again.
        """
        fault, is_listed = self._job.fault, step in skips and self._job.fault.non_finite == "skip"
        result, computed = self._computed(step, forwards, asked)
        first = result.not_finite
        if first is not None and not is_listed:
            if audit is not None:
                audit.not_finite(step, computed)
            elif step_decision(fault, 1) == "retry_step":
                result, computed = self._computed(step, forwards, asked)
                result = replace(result, was_not_finite=first)
        is_skipped = result.not_finite is not None or is_listed
        looks = audit is not None and not is_skipped and audit.wants(result)
        if audit is not None and looks:
            audit.gradients(step, computed)
            audit.before_update(result)
        with self._phases("update"):
            if is_skipped:
                result = replace(result, is_skipped=True)
                self._hooks.update_skipped(result)
                return result
            self._hooks.before_update(result)
            self._update(computed.tensors, result)
            if audit is not None and looks:
                audit.after_update(step)
            self._hooks.after_update(result)
        return result

    def _computed(
        self, step: int, forwards: ForwardsOf, asked: Callable[[], Asked] | None
    ) -> tuple[StepResult, StepGradients]:
        """A step up to its update, with the gradients of what this worker owns."""
        # The order of the moments is a promise (see `hooks`): gradients are looked at before they
        # are clipped, and everybody knows the step's result before any weight moves.
        gradients = self.gradients(step, forwards)
        with self._phases("exchange"):
            self._hooks.gradients_ready(gradients.tensors)
            result = self._agree(step, gradients, Asked() if asked is None else asked())
        return result, gradients

    def gradients(self, step: int, forwards: ForwardsOf) -> StepGradients:
        """A step up to its gradients, before clipping; no weight changes."""
        losses = self.forward_backward(step, forwards)
        with self._phases("exchange"), self._clock.exchanging():
            return StepGradients(losses, self._reduce())

    def forward_backward(self, step: int, forwards: ForwardsOf) -> dict[LossKey, float]:
        """A step's forwards and backwards; returns the losses of the local lanes. Gradients of
        dense tensors are on their way to their owners when this returns."""
        share, batch = self._share, self._job.batch
        self._begin(step)
        with self._phases("forward"):
            share.shard.zero_gradients()
            self.parts.gradients.start()
            scale = 1.0 / (batch.lanes * batch.microbatches)
            training = Training(forwards, scale, self._sink)
            num_flights = len(self._plan.workers[share.rank].lanes) * batch.microbatches
            with self._gathering(num_flights, is_training=True):
                losses = self.parts.executor.train(share.program, share.message_order, training)
            # One wait for the device, not one a loss.
            values = torch.stack(list(losses.values())).tolist() if losses else []
            return dict(zip(losses, values, strict=True))

    def evaluate(self, rounds: Iterable[Mapping[int, Forward]], step: int) -> float:
        """Mean loss of `rounds` of forwards by lane, without gradients. Collective; lanes may be
        missing.

        Not a number when one of the losses is none.
        """
        return evaluation_mean(self.evaluate_each(rounds, step))

    def evaluate_each(
        self, rounds: Iterable[Mapping[int, Forward]], step: int
    ) -> dict[LossKey, float]:
        """The losses of all workers' lanes by (round, lane), as `evaluate` takes their mean."""
        self.parts.exchange.begin_step(step)
        role = self._share.program.role
        # Losses stay on the device until all rounds are done: reading one waits for it.
        done = []
        for forwards in rounds:
            with self._gathering(len(forwards), is_training=False):
                done.append(self.parts.executor.evaluate(role, forwards))
        losses: dict[LossKey, float] = {}
        for number, by_lane in enumerate(done):
            for lane, loss in by_lane.items():
                losses[number, lane] = float(loss)
        keys = [list(itertools.product(range(len(done)), w.lanes)) for w in self._plan.workers]
        return gather_losses(self._world, losses, keys)

    def close(self) -> None:
        """Let the threads that carry messages go. The tensors stay."""
        self.parts.exchange.close()

    def _begin(self, step: int) -> None:
        self._phases.begin_step(step)
        self._clock.restart()
        self.parts.exchange.begin_step(step)
        if self.parts.tracer is not None:
            self.parts.tracer.begin_step(step)
        if self.parts.guard is not None:
            self.parts.guard.begin_step()
        self._hooks.begin_step(step)

    @contextmanager
    def _gathering(self, num_flights: int, is_training: bool) -> Iterator[None]:
        """Inside, so many flights have the dense tensors there that they compute with."""
        gathers = self.parts.gathers
        if gathers is not None:
            gathers.begin(num_flights, is_training)
        yield
        if gathers is not None:
            gathers.end()

    def _sink(self, lane: int, microbatch: int) -> GradientSink:
        sink = self.parts.gradients.sink(lane, microbatch)
        tracer = self.parts.tracer
        return sink if tracer is None else tracer.watched(lane, microbatch, sink)

    def _reduce(self) -> dict[str, Tensor]:
        """Gradients of everything that this worker owns."""
        gradients = self.parts.gradients.finish()
        for site, experts in zip(self._replica.sites, self._share.shard.gradients, strict=True):
            for expert, tensors in experts.items():
                for parameter, gradient in tensors.items():
                    gradients[site.tensor_name(parameter, expert)] = gradient
        return gradients

    def _agree(self, step: int, gradients: StepGradients, asked: Asked) -> StepResult:
        """What all workers say of the step together. One exchange."""
        squares = self._squares(gradients.tensors)
        forms = self._share.forms
        reached = pack_reached(forms[self._share.rank].dense, self.parts.gradients.reached)
        guard = self.parts.guard
        word = NOTHING_CHANGED if guard is None else guard.look()
        losses, exchange_s = gradients.losses, self._clock.exchange_s
        report = StepReport(asked.stop, exchange_s, losses, squares, reached, asked.rest, word)
        with self._clock.exchanging():
            reports = gather_reports(self._world, report, forms)
        if guard is not None:
            guard.judge(step, [report.integrity for report in reports])
        job = self._job
        losses = merged_losses(reports)
        loss = mean_loss(losses, self._plan.num_lanes, job.batch.microbatches)
        norm = global_norm(reports)
        return StepResult(
            step=step,
            loss=loss,
            grad_norm=norm,
            rate=rate_of(job, step),
            exchange_s=tuple(report.exchange_s for report in reports),
            stop=any(report.stop for report in reports),
            unreached=unreached_names(reports, forms),
            not_finite=find_not_finite(loss, norm, losses, reports),
            rest=any(report.rest for report in reports),
        )

    def _squares(self, gradients: Mapping[str, Tensor]) -> dict[str, float]:
        """Squared norms of the gradients of what this worker trains, by owned name; each of one
        tensor or piece by itself, so that no bit depends on who its neighbours are. 0 where there
        is no gradient."""
        squares = dict.fromkeys(self._share.forms[self._share.rank].squares, 0.0)
        if gradients:
            norms = torch.stack(torch._foreach_norm(list(gradients.values())))
            for name, norm in zip(gradients, norms.tolist(), strict=True):
                squares[name] = norm**2
        return squares

    def _update(self, gradients: Mapping[str, Tensor], result: StepResult) -> None:
        """Clip, update the masters, and give everybody the new weights."""
        scale = clip_scale(result.grad_norm, self._job.optimizer.clip_norm)
        # As torch: a tensor that the graph did not reach has no gradient and stays as it is
        # (transformers gives some none: DSA indexers), a gradient of zero is one. An expert's
        # leaf is its layer's fused weight, which every step reaches.
        gradients = result.with_gradient(gradients)
        # Every worker has the same norm and limit, so all of them scale or none does.
        if scale != 1.0 and gradients:
            torch._foreach_mul_(list(gradients.values()), scale)
        self._share.optimizer.step(gradients, result.rate)
        # Owners alone have updated. Their new values go into the flat buffers first, in compute
        # precision, and from there to every attention worker; what comes and goes comes so again.
        with torch.no_grad(), self._clock.exchanging():
            self._replica.refresh()
            if self.parts.gathers is None:
                all_gather_parameters(self._world, self._plan, self._replica.flat)
