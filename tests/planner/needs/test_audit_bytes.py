"""What an audited step takes: as much room as the part that is taken over, and what is really sent for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from dougong.control.worker_api import WorkerContext
from dougong.errors import PlanError
from dougong.models.inventory import inspect_model
from dougong.parallel.comm.route import Route
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.world import World
from dougong.planner.memory import KnownMemory, check_fit
from dougong.planner.needs.audit_bytes import AuditBytes, audit_bytes
from dougong.planner.needs.terms import Term
from dougong.planner.needs.worker_memory import needed_memory
from dougong.planner.placement import seats_of_job
from dougong.planner.plan_job import plan_job
from dougong.training import session
from dougong.training.integrity.verdict import Computed
from dougong.training.results.reports import StepResult
from dougong.training.takeover import Takeover
from tests.jobs import VOCAB, make_job, plan_for
from tests.planner.test_plan_job import TINY, job_of
from tests.training.running import Order, run
from tests.training.test_trainer import job_of as job_of_run


@dataclass(frozen=True)
class CountsAudits:
    """An entry: each worker trains, and leaves how many bytes it sent for the audit of the second step, apart from
    messages, and how many those of the gradients are that it computed for another one."""

    folder: Path

    def __call__(self, context: WorkerContext) -> None:
        sent, gradients = [0], [0]
        move, update = World.move, Takeover.update

        def counted(
            world: World, route: Route, sends: Sequence[Transfer], receives: Any, what: str, *limit: str
        ) -> None:
            sent[0] += sum(one.num_bytes for one in sends) if what == "an audit, step 2" else 0
            move(world, route, sends, receives, what, *limit)

        def looked_at(other: Takeover, result: StepResult) -> Computed:
            gradients[0] = sum(tensor.nbytes for tensor in other.gradients.values())
            return update(other, result)

        World.move, Takeover.update = counted, looked_at  # type: ignore[method-assign, assignment]
        session.train(context)
        (self.folder / f"taken-{context.worker.rank}.json").write_text(json.dumps([gradients[0], sent[0]]))


@pytest.mark.parametrize(
    ("precision", "roles"), [("float32", "BB"), pytest.param("bfloat16", "AAEE", marks=pytest.mark.slow)]
)
def test_what_is_sent_is_what_was_planned(precision: str, roles: str, tmp_path: Path) -> None:
    batch = {"lanes": 4, "microbatches": 1, "microbatch_size": 1}
    job = job_of_run(
        tmp_path, steps=2, precision=precision, checkpoint={"every": 0}, fault={"audit": "all"}, batch=batch
    )
    outcome = run(Order(job, roles, tmp_path, train=CountsAudits(tmp_path)))
    assert not outcome.errors
    planned = audit_bytes(job, inspect_model(job.model, VOCAB), plan_for(job, roles))
    for rank, expected in enumerate(planned):
        gradients, sent = json.loads((tmp_path / f"taken-{rank}.json").read_text())
        assert 0 < gradients < expected.memory
        # Beside tensors: whether each moment is there yet, and how often each tensor was updated.
        assert expected.sent <= sent < 1.02 * expected.sent


def test_the_only_one_of_its_kind_needs_a_second_set_of_gradients_and_sends_nothing() -> None:
    job = make_job(fault={"audit": "all"})
    inventory = inspect_model(job.model, VOCAB)
    (alone,) = audit_bytes(job, inventory, plan_for(job, "B"))
    assert alone.sent == 0 and alone.memory >= 4 * inventory.num_parameters


def test_no_audit_takes_nothing() -> None:
    job = make_job()
    assert audit_bytes(job, inspect_model(job.model, VOCAB), plan_for(job, "BB")) == [AuditBytes(0, 0)] * 2


def test_a_device_that_holds_the_state_and_no_audit_is_refused() -> None:
    job = job_of(fault={"audit": 4, "snapshots": {"every": 0}})
    plan = plan_job(job, TINY, seats_of_job(job.islands))
    worker = plan.workers[2]
    memory = needed_memory(job, TINY, plan)[2]
    needed = memory.peak
    assert memory.always[Term.AUDITS] == audit_bytes(job, TINY, plan)[2].memory > 0
    known = KnownMemory("a device of anvil", (worker.name,), needed, is_shared=False)
    check_fit(job, plan, needed_memory(job, TINY, plan), [known])
    with pytest.raises(PlanError, match=r"audits 0.\d+ GB.*; of audits: set fault\.audit: null"):
        check_fit(job, plan, needed_memory(job, TINY, plan), [replace(known, num_bytes=needed - 1)])
