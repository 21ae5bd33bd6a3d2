"""The build chain: from a job to steps, in three stages.

    build_model      what depends on the job alone (and the device): the model's form
    build_on_plan    one worker's share: its tensors, its program, its optimizer's state
    build_in_world   what needs the other workers of one generation: the wires between them

Each stage takes the one before it as a value and finishes what it makes: nothing is set from
outside afterwards. So `rebuild` can make the last two anew in a living process, for another plan
and other workers, without touching the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dougong.checkpoint.ledger_file import LedgerWriter
from dougong.control.worker_api import WorkerContext
from dougong.control.worker_messages import StorageTold
from dougong.job.schema import Job
from dougong.models.configs.load import load_config
from dougong.models.configs.parts import text_config
from dougong.models.inventory import experts_per_token
from dougong.models.library.fast_paths import refuse_fast_paths
from dougong.models.sites import find_sites
from dougong.models.tuned import tuned_expert_op, tuned_on_meta
from dougong.ops.experts.base import ExpertOp
from dougong.ops.experts.choose import FusedForms, tell_no_fallback
from dougong.parallel.comm.world import World
from dougong.parallel.dense.allreduce import NativeReducer
from dougong.parallel.dense.gradients import DenseGradients
from dougong.parallel.dense.ordered_reduce import OrderedReducer, Reducer
from dougong.parallel.dense.unit_gathers import UnitGathers
from dougong.parallel.dense.unit_reduce import UnitReducer
from dougong.parallel.dense.unit_tensors import UnitTensors
from dougong.parallel.dispatch.dispatcher import Dispatcher
from dougong.parallel.dispatch.spec import DispatchSpec
from dougong.parallel.exchange.channel import EmulatedLink
from dougong.parallel.exchange.exchange import Exchange
from dougong.parallel.execute.clock import Clock
from dougong.parallel.execute.emulate import Emulation
from dougong.parallel.execute.executor import Executor, ExecutorOptions
from dougong.parallel.execute.shard import Expert, ExpertShard
from dougong.parallel.pieces import tensor_of
from dougong.parallel.plan import Plan, Worker
from dougong.parallel.schedules.message_order import message_order
from dougong.parallel.segments.tape import leaf_node
from dougong.parallel.trace.tracer import Tracer
from dougong.planner.needs.programs import programs_of
from dougong.planner.needs.tiles import product_rows
from dougong.storage.stored_ledger import StoredLedger, Tell, tell_nobody
from dougong.storage.trouble import News
from dougong.training.hooks import StepHook, StepHooks
from dougong.training.integrity.guard import Guard
from dougong.training.ledger import Ledger, LedgerHook
from dougong.training.load_balance import LoadBalance
from dougong.training.memory.state_memory import StateMemory
from dougong.training.optimizers.registry import make_optimizer
from dougong.training.replica import ModelBlueprint, Replica, build_replica
from dougong.training.results.phases import Phases
from dougong.training.results.reports import ReportForm, loss_keys
from dougong.training.state import GuardHook, SnapshotHook, StartState, held_state_of
from dougong.training.step import StepParts, Stepper, WorkerShare


@dataclass(frozen=True)
class LedgerStart:
    """Where the ledger's files of a run lie, and the digest that it goes on from (None: the
    beginning). `tell`: who hears of storage that does not take them."""

    root: Path
    digest: str | None = None
    tell: Tell = tell_nobody

    @staticmethod
    def of(context: WorkerContext, digest: str | None) -> LedgerStart | None:
        """A run's, where its job keeps one; the controller hears."""
        if not context.job.is_deterministic:
            return None

        def tell(news: News) -> None:
            context.control.send(StorageTold.of(news))

        return LedgerStart(context.run_dir / "ledger", digest, tell)


@dataclass(frozen=True)
class StepOptions:
    """Who watches the steps. `tracer` None: nothing is traced; `ledger` None: none is kept;
    `memory` None: no snapshots are.

    hooks: more than every job has. They come after the load balance and before the ledger, which
    sees what all others have done; snapshots come last of all.
    """

    phases: Phases = field(default_factory=Phases)
    tracer: Tracer | None = None
    ledger: LedgerStart | None = None
    hooks: tuple[StepHook, ...] = ()
    memory: StateMemory | None = None


def build_model(
    job: Job,
    vocab_size: int | None,
    device: torch.device,
    candidates: Iterable[ExpertOp] = (),
    tell: Callable[[str], None] = tell_no_fallback,
    has_attention: bool = True,
) -> ModelBlueprint:
    """What depends on the job alone. `vocab_size`: the tokenizer's number of ids (None: unknown);
    `candidates`: the fused forms of experts that the device's accelerator has, fastest first, of
    which a job may want none; `tell` hears why one of them is not taken. `has_attention`: this
    worker computes it; for one that does not, the packages of its form need not be here.

    Raises `ModelError` when the family cannot be cut, or would break the job's promise.
    """
    if not has_attention:
        job = job.model_copy(update={"model": job.model.model_copy(update={"attention": None})})
    config = load_config(job.model, vocab_size)
    model = tuned_on_meta(job.model, config)
    if has_attention and job.is_layout_free:
        refuse_fast_paths(model)
    sites = find_sites(model)
    rows = product_rows(job, sites[0].num_experts, experts_per_token(text_config(config)))
    fused = FusedForms(
        candidates if job.operators == "auto" else (), getattr(torch, job.precision), tell
    )
    op = tuned_expert_op(job.model, sites, device, rows, fused)
    return ModelBlueprint(job, device, config, model, sites, op)


def build_on_plan(
    blueprint: ModelBlueprint, plan: Plan, rank: int, start: StartState
) -> WorkerShare:
    """One worker's share of the model, with the values of `start`. Nothing is sent."""
    job = blueprint.job
    replica = build_replica(blueprint, plan, rank, start.read)
    forms = report_forms(job, plan, replica)
    trained = {name: replica.masters[name] for name in forms[rank].squares}
    optimizer = make_optimizer(job, trained, replica.shapes)
    start.load_optimizer(optimizer)
    programs = programs_of(job, plan)
    return WorkerShare(
        blueprint=blueprint,
        plan=plan,
        rank=rank,
        replica=replica,
        shard=expert_shard(blueprint, replica.experts),
        dispatcher=make_dispatcher(blueprint, plan, rank, replica),
        program=programs[rank],
        message_order=message_order(programs),
        optimizer=optimizer,
        forms=forms,
    )


def expert_shard(blueprint: ModelBlueprint, experts: Sequence[Expert]) -> ExpertShard:
    """That computes with these experts, by site."""
    return ExpertShard(blueprint.op, experts, [site.trained for site in blueprint.sites])


def make_dispatcher(
    blueprint: ModelBlueprint, plan: Plan, rank: int, replica: Replica
) -> Dispatcher:
    """One worker's end of dispatch and combine."""
    spec = DispatchSpec(
        int(text_config(blueprint.config).hidden_size),
        blueprint.dtype,
        blueprint.device,
        blueprint.job.combine,
        replica.cut.names,
    )
    return Dispatcher(rank, plan, spec, replica.cut.has_identity)


def build_in_world(share: WorkerShare, world: World, options: StepOptions) -> Stepper:
    """What runs the steps of one generation. Collective over its workers.

    Raises `ModelError` when the model cannot be balanced as the job asks.
    """
    job, plan, replica = share.blueprint.job, share.plan, share.replica
    clock = Clock(note=options.phases.note)
    emulation = emulation_of(job, plan.workers[share.rank])
    link = None if emulation is None else emulation.link
    exchange = Exchange(world, link, replica.cut.names)
    balance = LoadBalance(share.blueprint, plan, world, replica, clock)
    ledger = None if options.ledger is None else _open_ledger(share, world, options.ledger)
    gathers = unit_gathers(share, world)
    guard = _guard(share, world, options.memory, gathers) if job.is_deterministic else None
    hooks = _in_order(balance, options, ledger, guard)
    executor = Executor(
        replica.cut,
        share.dispatcher,
        share.shard,
        exchange,
        clock,
        ExecutorOptions(emulation, hooks.after_forward, tracer=options.tracer, units=gathers),
    )
    parts = StepParts(
        share=share,
        world=world,
        phases=options.phases,
        clock=clock,
        exchange=exchange,
        gradients=dense_gradients(share, world, options.tracer),
        executor=executor,
        balance=balance,
        ledger=ledger,
        hooks=hooks,
        tracer=options.tracer,
        memory=options.memory,
        guard=guard,
        gathers=gathers,
    )
    return Stepper(parts)


def rebuild(
    blueprint: ModelBlueprint, plan: Plan, world: World, start: StartState, options: StepOptions
) -> Stepper:
    """The last two stages: this process as a worker of another plan, or among other workers, with
    the values of `start`. Collective over the new world's workers.

    The stepper before must have been closed; its tensors are freed with it.
    """
    share = build_on_plan(blueprint, plan, world.rank, start)
    return build_in_world(share, world, options)


def report_forms(job: Job, plan: Plan, replica: Replica) -> tuple[ReportForm, ...]:
    """What every worker's report of a step holds, by rank. Any worker's replica knows it of all."""
    forms = []
    all_dense = tuple(sorted(replica.trainable))
    owned: dict[int, list[str]] = {}
    for name, owner in plan.owners.items():
        if tensor_of(name) in replica.trainable:
            owned.setdefault(owner, []).append(name)
    for worker in plan.workers:
        losses = loss_keys(worker.lanes, job.batch.microbatches)
        trained = _trained_names(replica, worker, owned.get(worker.rank, []))
        forms.append(ReportForm(tuple(losses), trained, all_dense if worker.lanes else ()))
    return tuple(forms)


def _trained_names(replica: Replica, worker: Worker, dense: Sequence[str]) -> tuple[str, ...]:
    """What a worker updates, in the order of names. `dense`: owned names of that outside of the
    experts."""
    names = list(dense)
    for site, experts in zip(replica.sites, worker.experts, strict=True):
        for expert in experts:
            names += site.trained_of(expert)
    return tuple(sorted(names))


def emulation_of(job: Job, worker: Worker) -> Emulation | None:
    """What the worker's island pretends to be; None: it is what it is."""
    emulate = next((i.emulate for i in job.islands if i.name == worker.island), None)
    if emulate is None:
        return None
    bandwidth = emulate.link.bandwidth_mb_s
    bytes_per_s = math.inf if bandwidth is None else bandwidth * 1e6
    return Emulation(
        segment_s=emulate.attention_ms / 1e3 * len(worker.lanes),
        row_s=emulate.expert_ms_per_1k_tokens / 1e6,
        link=EmulatedLink(bytes_per_s, emulate.link.latency_ms / 1e3),
    )


def dense_gradients(
    share: WorkerShare, world: World, tracer: Tracer | None = None
) -> DenseGradients:
    """Where a worker's dense gradients are added up."""
    job, plan, flat = share.blueprint.job, share.plan, share.replica.flat
    leaves = {leaf_node(tensor): name for name, tensor in share.replica.leaves}
    reducer: Reducer
    if isinstance(flat, UnitTensors):
        reducer = UnitReducer(world, plan, flat)
    elif job.is_layout_free:
        reducer = OrderedReducer(world, plan, flat)
    else:
        reducer = NativeReducer(world, plan, flat)
    return DenseGradients(
        leaves,
        plan.workers[share.rank].lanes,
        reducer,
        flat.buckets,
        num_microbatches=job.batch.microbatches,
        tracer=tracer,
    )


def unit_gathers(share: WorkerShare, world: World) -> UnitGathers | None:
    """By which a worker's dense tensors come and go; None where they stay, or it has none."""
    flat = share.replica.flat
    return UnitGathers(world, share.plan, flat) if isinstance(flat, UnitTensors) else None


def _open_ledger(share: WorkerShare, world: World, start: LedgerStart) -> LedgerHook:
    names = sorted(share.replica.masters)
    worker = share.plan.workers[share.rank].name
    writer = LedgerWriter(start.root, world.member.generation, worker, names)
    stored = StoredLedger(writer, start.tell, world.member.deadlines)
    return LedgerHook(Ledger(world, names, stored, start.digest), share.replica.masters)


def _guard(
    share: WorkerShare, world: World, memory: StateMemory | None, gathers: UnitGathers | None
) -> Guard:
    state = held_state_of(share.replica, share.optimizer)
    is_handed_on = share.blueprint.job.dense == "copy"
    return Guard(world, state, share.plan.owners, memory, is_handed_on, gathers)


def _in_order(
    balance: LoadBalance, options: StepOptions, ledger: LedgerHook | None, guard: Guard | None
) -> StepHooks:
    """The balance moves biases, which are weights, so it comes before the ledger. The ledger looks
    at what all others have done, and a snapshot holds the ledger's digest and the guard's sums."""
    hooks: list[StepHook] = [balance, *options.hooks]
    if ledger is not None:
        hooks.append(ledger)
    if guard is not None:
        hooks.append(GuardHook(guard))
    if options.memory is not None:
        hooks.append(SnapshotHook(options.memory, ledger, guard))
    return StepHooks(hooks)
