"""One training step on one worker: micro-batches, ordered sums, global norm, update, spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dougong.job.optimizers.adamw import AdamW
from dougong.job.schema import Job
from dougong.parallel.comm.exchange import EmulatedLink, Exchange
from dougong.parallel.comm.world import World
from dougong.parallel.dense.allreduce import NativeReducer
from dougong.parallel.dense.gradients import DenseGradients
from dougong.parallel.dense.ordered_reduce import OrderedReducer, all_gather_parameters
from dougong.parallel.dispatch.dispatcher import Dispatcher
from dougong.parallel.dispatch.spec import DispatchSpec
from dougong.parallel.execute.emulate import Emulation
from dougong.parallel.execute.executor import Clock, Executor, Training
from dougong.parallel.execute.shard import ExpertShard
from dougong.parallel.plan import Plan, Worker
from dougong.parallel.segments.flight import Forward, GradientSink
from dougong.parallel.segments.tape import leaf_node
from dougong.parallel.trace.tracer import Tracer
from dougong.parallel.tree import LaneTree
from dougong.planner.programs import INTERLEAVED, pipeline_of, programs_of
from dougong.training.ledger import Ledger
from dougong.training.load_balance import Balance, Load
from dougong.training.lr_schedule import learning_rate
from dougong.training.optimizers.adamw import OwnedAdamW, clip_scale
from dougong.training.replica import DTYPES, Replica


@dataclass(frozen=True)
class StepResult:
    """What a step says of itself, the same on every worker. The loss is the mean over the step's
    tokens; `grad_norm` is the norm before clipping; `exchange_s` are seconds spent in messages, by
    rank; `load` is that of the experts."""

    step: int
    loss: float
    grad_norm: float
    rate: float
    exchange_s: tuple[float, ...]
    stop: bool
    load: Load


class Stepper:
    """Runs steps of one worker. Collective: all workers of the plan call the same methods in the
    same order.

    `ledger`, when set, is told the gradients that this worker owns, before clipping, and its new
    weights.
    """

    ledger: Ledger | None = None

    def __init__(
        self,
        job: Job,
        plan: Plan,
        world: World,
        replica: Replica,
        clock: Clock,
        tracer: Tracer | None = None,
    ) -> None:
        self._job, self._plan, self._world, self._replica, self._clock = (
            job,
            plan,
            world,
            replica,
            clock,
        )
        self._lanes = plan.workers[world.rank].lanes
        reducer = (OrderedReducer if job.determinism == "layout" else NativeReducer)(
            world, plan, replica.flat
        )
        leaves = {leaf_node(t): n for n, t in replica.leaves}
        self._tracer = tracer
        self._gradients = DenseGradients(
            leaves,
            self._lanes,
            reducer,
            replica.flat.buckets,
            interleaved=pipeline_of(job, plan) in INTERLEAVED,
            tracer=tracer,
        )
        device = next(iter(replica.masters.values())).device
        hidden = int(replica.config.hidden_size)
        post = DispatchSpec(hidden, DTYPES[job.precision], device, job.combine, replica.cut.names)
        dispatcher = Dispatcher(world.rank, plan, post, replica.cut.has_identity)
        self._shard = ExpertShard(replica.op, replica.experts)
        emulated = emulation_of(job, plan.workers[world.rank])
        self._mail = Exchange(
            world, emulated.link if emulated is not None else None, replica.cut.names
        )
        self._program = programs_of(job, plan)[world.rank]
        self._balance = Balance(job, plan, world, replica, clock)
        self._executor = Executor(
            replica.cut,
            dispatcher,
            self._shard,
            self._mail,
            clock,
            emulation=emulated,
            after_forward=self._balance.after_forward,
            tracer=tracer,
        )
        self._names = [self._trainable_of(rank) for rank in range(world.size)]
        assert isinstance(job.optimizer, AdamW)
        self.optimizer = OwnedAdamW(
            job.optimizer, {n: replica.masters[n] for n in self._names[world.rank]}
        )

    def run(
        self,
        step: int,
        forwards: Callable[[int], Mapping[int, Forward]],
        stop: Callable[[], bool] | None = None,
    ) -> StepResult:
        """One step. `forwards(microbatch)` gives the local lanes' forwards; `stop` says whether
        this worker was asked to stop, and is asked when the gradients are there: a wish that comes
        while they are computed still counts."""
        self._clock.exchange_s = 0.0
        self._mail.begin_step(step)
        if self._tracer is not None:
            self._tracer.begin_step(step)
        losses = self._forward_backward(forwards)
        self._clock.note("exchange", 0)
        with self._clock.exchanging():
            gradients = self._gather_gradients()
        if self.ledger is not None:
            self.ledger.note("gradient", gradients)
        told = [
            float(bool(stop and stop())),
            self._clock.exchange_s,
            *losses,
            *self._squares(gradients),
        ]
        with self._clock.exchanging():
            everybody = self._world.gather(
                told, [self._num_told(rank) for rank in range(self._world.size)]
            )
        norm = self._norm(everybody)
        rate = learning_rate(self._job.schedule, self._job.optimizer.lr, step, self._job.steps)
        self._update(gradients, norm, rate)
        load = self._balance.finish()
        if self.ledger is not None:
            self.ledger.note("weight", self._replica.masters)
        exchange_s = tuple(values[1] for values in everybody)
        return StepResult(
            step, self._loss(everybody), norm, rate, exchange_s, any(v[0] for v in everybody), load
        )

    def evaluate(self, rounds: Iterable[Mapping[int, Forward]], step: int) -> float:
        """Mean loss of `rounds` of forwards by lane, without gradients. Collective; lanes may be
        missing.

        Not a number when one of the losses is none.
        """
        self._mail.begin_step(step)
        done = [self._executor.evaluate(self._program.role, forwards) for forwards in rounds]
        lanes = [w.lanes for w in self._plan.workers]
        mine = [losses.get(lane) for losses in done for lane in self._lanes]
        told = [
            value for loss in mine for value in ((0.0, 0.0) if loss is None else (1.0, float(loss)))
        ]
        everybody = self._world.gather(told, [2 * len(done) * len(of) for of in lanes])
        values: dict[tuple[int, int], float] = {}
        for of, theirs in zip(lanes, everybody, strict=True):
            keys = [(number, lane) for number in range(len(done)) for lane in of]
            pairs = zip(keys, theirs[::2], theirs[1::2], strict=True)
            values |= {key: loss for key, present, loss in pairs if present}
        return sum(values[key] for key in sorted(values)) / len(values)

    def _forward_backward(self, forwards: Callable[[int], Mapping[int, Forward]]) -> list[float]:
        batch = self._job.batch
        scale = 1.0 / (batch.lanes * batch.microbatches)
        self._shard.zero_gradients()
        self._gradients.start()
        self._balance.start()
        losses = self._executor.train(self._program, Training(forwards, scale, self._sink))
        return [float(losses[lane, m]) for lane in self._lanes for m in range(batch.microbatches)]

    def _sink(self, lane: int, microbatch: int) -> GradientSink:
        return self._gradients.sink(lane, microbatch == self._job.batch.microbatches - 1)

    def _gather_gradients(self) -> dict[str, Tensor]:
        """Gradients of everything that this worker owns. A dense tensor that has never had one is
        left out, as torch leaves a parameter without `.grad` alone (transformers gives some no
        gradient: DSA indexers)."""
        gradients = {
            n: g
            for n, g in self._gradients.finish().items()
            if self.optimizer.has_state(n) or bool(g.any())
        }
        for site, of in zip(self._replica.sites, self._shard.gradients, strict=True):
            for expert, tensors in of.items():
                gradients |= {site.tensor_name(p, expert): g for p, g in tensors.items()}
        return gradients

    def _update(self, gradients: Mapping[str, Tensor], norm: float, rate: float) -> None:
        self._clock.note("update", 0)
        scale = clip_scale(norm, self._job.optimizer.clip_norm)
        if scale != 1.0:
            for gradient in gradients.values():
                gradient.mul_(scale)
        self.optimizer.step(gradients, rate)
        with torch.no_grad(), self._clock.exchanging():
            self._replica.refresh()
            all_gather_parameters(self._world, self._plan, self._replica.flat)

    def _squares(self, gradients: Mapping[str, Tensor]) -> list[float]:
        """Squared norms of the owned tensors' gradients, one whole tensor a kernel call, in name
        order."""
        names = self._names[self._world.rank]
        norms = {n: torch.linalg.vector_norm(g) for n, g in gradients.items()}
        values = (
            dict(zip(norms, torch.stack(list(norms.values())).tolist(), strict=True))
            if norms
            else {}
        )
        return [values.get(n, 0.0) ** 2 for n in names]

    def _norm(self, everybody: list[list[float]]) -> float:
        """Global gradient norm: squares added in the order of names, so no bit depends on who owns
        what."""
        squares: dict[str, float] = {}
        for names, values in zip(self._names, everybody, strict=True):
            squares |= dict(zip(names, values[len(values) - len(names) :], strict=True))
        return float(sum(squares[n] for n in sorted(squares)) ** 0.5)

    def _loss(self, everybody: list[list[float]]) -> float:
        """Mean loss: micro-batches added in order within a lane, lanes by the tree."""
        count = self._job.batch.microbatches
        lanes: dict[int, float] = {}
        for worker, values in zip(self._plan.workers, everybody, strict=True):
            for row, lane in enumerate(worker.lanes):
                lanes[lane] = sum(values[2 + row * count : 2 + (row + 1) * count])
        return LaneTree(self._plan.num_lanes).sum_numbers(lanes) / (self._plan.num_lanes * count)

    def _num_told(self, rank: int) -> int:
        return (
            2
            + len(self._plan.workers[rank].lanes) * self._job.batch.microbatches
            + len(self._names[rank])
        )

    def _trainable_of(self, rank: int) -> list[str]:
        dense = [
            n
            for n, owner in self._plan.owners.items()
            if owner == rank and n in self._replica.trainable
        ]
        owned = zip(self._replica.sites, self._plan.workers[rank].experts, strict=True)
        experts = [n for site, own in owned for e in own for _, n in site.tensors_of(e)]
        return sorted([*dense, *experts])


def emulation_of(job: Job, worker: Worker) -> Emulation | None:
    """What the worker's island pretends to be."""
    emulate = next((i.emulate for i in job.islands if i.name == worker.island), None)
    if emulate is None:
        return None
    bandwidth = emulate.link.bandwidth_mb_s
    link = EmulatedLink(
        bandwidth * 1e6 if bandwidth is not None else math.inf, emulate.link.latency_ms / 1e3
    )
    return Emulation(
        emulate.attention_ms / 1e3 * len(worker.lanes), emulate.expert_ms_per_1k_tokens / 1e6, link
    )
