"""The keys that make each part of a worker's memory less, of those that a job still has to give.
Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from dougong.job.optimizers.adamw import AdamW
from dougong.job.rules import breaches
from dougong.job.schema import Job
from dougong.parallel.plan import Plan
from dougong.planner.needs.holdings import owns_on_host
from dougong.planner.needs.programs import pipeline_of
from dougong.planner.needs.terms import Term, Terms

_SMALLER = "nothing in this job makes it less: take a smaller model, or devices with more memory"


@dataclass(frozen=True)
class Remedies:
    """Of a job under a plan. No key that is set already is named, nor one that would not help."""

    job: Job
    plan: Plan

    def advice(self, terms: Terms) -> str:
        """What makes the largest terms less: those that are a quarter of all."""
        total = sum(terms.values())
        ordered = sorted(terms, key=lambda term: -terms[term])
        large = [term for term in ordered if 4 * terms[term] >= total] or ordered[:1]
        return "; ".join(f"of {term.words}: {self.of(term)}" for term in large)

    def of(self, term: Term) -> str:
        ways = itertools.chain.from_iterable(way(self) for way in _WAYS[term])
        return ", or ".join(ways) or _SMALLER

    def anywhere(self) -> str:
        """What leaves more room for all that is computed; what changes no bit comes first."""
        first = [*self.recompute(), *self.shard()]
        return ", or ".join([*first, *self.more_workers(), *self.smaller_batch()])

    # Keys that change where things lie, and no bit.

    def recompute(self) -> Iterator[str]:
        if self.job.recompute == "none":
            yield "set recompute: layers"

    def shard(self) -> Iterator[str]:
        """Of one worker with lanes it would take as much, and of several micro-batches it needs
        another schedule."""
        if self.job.dense == "shard" or self._num_with_lanes < 2:
            return
        allowed = self.job.pipeline in ("auto", "zebra") or self.job.batch.microbatches == 1
        yield "set dense: shard" + ("" if allowed else " and pipeline: zebra")

    def more_workers(self) -> Iterator[str]:
        if self._room_for_experts or self._room_for_lanes:
            yield "add workers"

    def more_with_experts(self) -> Iterator[str]:
        if self._room_for_experts:
            num = self._num_with_experts
            yield f"add workers with experts (now {num}, at most {self.plan.num_experts})"

    def more_with_lanes(self) -> Iterator[str]:
        """Each has fewer lanes then."""
        if self._room_for_lanes:
            num, lanes = self._num_with_lanes, self.plan.num_lanes
            yield f"add workers with lanes (now {num} for {lanes} lanes)"

    def experts_elsewhere(self) -> Iterator[str]:
        if len({worker.island for worker in self.plan.workers if worker.num_experts}) > 1:
            yield "give other islands more experts (islands.NAME.speed, offload)"

    def one_at_a_time(self) -> Iterator[str]:
        if self._is_zebra and self.job.dense == "copy" and self.job.batch.microbatches > 1:
            yield "set pipeline: serial, which has one micro-batch alive at a time"

    # Keys that change bits, and so need a new run.

    def fewer_lanes(self) -> Iterator[str]:
        """Where a worker has several."""
        if self._room_for_lanes:
            yield f"begin a run with fewer batch.lanes (now {self.job.batch.lanes})"

    def smaller_batch(self) -> Iterator[str]:
        batch = self.job.batch
        if batch.microbatch_size > 1:
            yield f"lower batch.microbatch_size (now {batch.microbatch_size}) in a new run"
        else:
            length = self.job.data.sequence_length
            yield f"lower data.sequence_length (now {length}) in a new run"

    def fewer_microbatches(self) -> Iterator[str]:
        if self._is_zebra and self.job.batch.microbatches > 1:
            num = self.job.batch.microbatches
            yield f"lower batch.microbatches (now {num}; zebra has all of them alive) in a new run"

    def half_state(self) -> Iterator[str]:
        optimizer = self.job.optimizer
        if not isinstance(optimizer, AdamW) or optimizer.has_half_state or optimizer.is_on_host:
            return
        half = optimizer.model_copy(update={"state": "bfloat16"})
        if not breaches({"optimizer": half}):
            yield "begin a run with optimizer.state: bfloat16"

    def on_host(self) -> Iterator[str]:
        host = {"optimizer": self.job.optimizer.model_copy(update={"device": "host"})}
        moved = self.job.model_copy(update=host)
        if not isinstance(self.job.optimizer, AdamW) or self.job.optimizer.is_on_host:
            return
        if any(owns_on_host(moved, island.name) for island in self.job.islands):
            yield "begin a run with optimizer.device: host (they lie in the machine's memory then)"

    def combined_by_experts(self) -> Iterator[str]:
        if self.job.combine == "at_attention" and not self.job.is_layout_free:
            yield "begin a run with combine: at_experts"

    # Keys of what is done beside training.

    def no_audits(self) -> Iterator[str]:
        yield "set fault.audit: null (no step is computed a second time)"

    def no_replicas(self) -> Iterator[str]:
        if self.job.fault.snapshots.num_replicas:
            yield (
                "set fault.snapshots.replicas: 0 (a lost worker's part is then read from a "
                "checkpoint)"
            )

    def no_snapshots(self) -> Iterator[str]:
        yield "set fault.snapshots.every: 0 (no snapshots)"

    def no_checks(self) -> Iterator[str]:
        yield "begin a run with determinism: off (nothing is compared)"

    def whole_state(self) -> Iterator[str]:
        yield "begin a run with optimizer.state: float32"

    def on_worker(self) -> Iterator[str]:
        yield "begin a run with optimizer.device: worker"

    def more_machines(self) -> Iterator[str]:
        if len({worker.node for worker in self.plan.workers}) < len(self.plan.workers):
            yield "put workers on more machines"

    # What the plan says of the workers.

    @property
    def _room_for_experts(self) -> bool:
        return 0 < self._num_with_experts < self.plan.num_experts

    @property
    def _room_for_lanes(self) -> bool:
        return self._num_with_lanes < self.plan.num_lanes

    @cached_property
    def _num_with_experts(self) -> int:
        return sum(1 for worker in self.plan.workers if worker.num_experts)

    @cached_property
    def _num_with_lanes(self) -> int:
        return sum(1 for worker in self.plan.workers if worker.lanes)

    @cached_property
    def _is_zebra(self) -> bool:
        return pipeline_of(self.job, self.plan) == "zebra"


_BATCH = (Remedies.smaller_batch, Remedies.fewer_microbatches)
_OPTIMIZER = (Remedies.half_state, Remedies.on_host)
_WAYS: Mapping[Term, tuple[Callable[[Remedies], Iterator[str]], ...]] = {
    Term.WEIGHTS: (Remedies.shard, Remedies.more_with_experts, Remedies.experts_elsewhere),
    Term.GRADIENTS: (
        Remedies.shard,
        Remedies.more_with_experts,
        Remedies.more_with_lanes,
        Remedies.fewer_lanes,
    ),
    Term.MASTERS: (Remedies.more_workers, Remedies.on_host),
    Term.MOMENTS: (Remedies.more_workers, *_OPTIMIZER),
    Term.SCRATCH: (),
    Term.AUDITS: (Remedies.no_audits,),
    Term.ACTIVATIONS: (
        Remedies.recompute,
        Remedies.more_with_lanes,
        Remedies.one_at_a_time,
        *_BATCH,
    ),
    Term.ROWS: (Remedies.recompute, Remedies.more_with_experts, Remedies.one_at_a_time, *_BATCH),
    Term.MESSAGES: (Remedies.combined_by_experts, *_BATCH),
    Term.UPDATE: (Remedies.whole_state,),
    Term.CHECKS: (Remedies.no_checks,),
    Term.STAGING: (Remedies.more_machines, Remedies.half_state),
    Term.SNAPSHOTS: (Remedies.no_replicas, Remedies.no_snapshots),
    Term.LINKS: (Remedies.on_worker,),
}
