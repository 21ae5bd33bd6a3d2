"""Memory of a plan in words."""

from __future__ import annotations

from typing import Any

from dougong.models.inventory import inspect_model
from dougong.planner.needs.terms import Term, WorkerMemory
from dougong.planner.needs.worker_memory import needed_memory
from dougong.planner.placement import seats_of_job
from dougong.planner.plan_job import plan_job
from dougong.tools.plan_memory import kind_lines, machine_lines, total_line, unit_lines
from tests.families import config_values
from tests.jobs import VOCAB, make_job, plan_for


def memory(weights: int) -> WorkerMemory:
    return WorkerMemory({Term.WEIGHTS: weights << 20}, {"a step": {Term.ACTIVATIONS: 1 << 20}}, {Term.STAGING: 2 << 20})


def test_workers_of_a_kind_are_told_once_with_every_term() -> None:
    lines = list(kind_lines(plan_for(make_job(), "BBE"), [memory(400), memory(401), memory(4)], 100))
    assert lines == [
        "memory of each of east/0-1: 402.0 MiB at its peak, a step",
        "    weights 401.0 MiB, activations 1.0 MiB",
        "    and 2.0 MiB of the machine's: a checkpoint that is being written 2.0 MiB",
        "memory of east/2: 5.0 MiB at its peak, a step",
        "    weights 4.0 MiB, activations 1.0 MiB",
        "    and 2.0 MiB of the machine's: a checkpoint that is being written 2.0 MiB",
    ]


def test_the_whole_has_state_peaks_checkpoint_and_what_crosses() -> None:
    job = make_job()
    inventory, plan = inspect_model(job.model, VOCAB), plan_for(job, "AE")
    line = total_line(job, inventory, needed_memory(job, inventory, plan), 1 << 20, 3 << 20)
    assert line.startswith("2 workers: ") and "beside that; an expert takes 1.0 MiB on its worker" in line
    assert "a checkpoint takes " in line and line.endswith("a step sends 3.0 MiB from worker to worker")


TWO = [{"name": "east", "accelerator": "cpu"}, {"name": "west", "accelerator": "cpu"}]


def warned(islands: list[dict[str, Any]], there: int | None, **changes: Any) -> str:
    job = make_job(islands=islands, **changes)
    inventory = inspect_model(job.model, VOCAB)
    plan = plan_job(job, inventory, seats_of_job(job.islands))
    return "\n".join(machine_lines(job, plan, needed_memory(job, inventory, plan), there))


def test_islands_that_would_not_fit_on_one_machine_are_told_so() -> None:
    assert "warning: east, west: on one machine their workers together take " in warned(TWO, 1 << 20)
    assert warned(TWO, 1 << 40) == warned(TWO, None) == ""
    assert warned(TWO[:1], 1 << 20) == "", "an island by itself is told elsewhere"


def test_so_is_a_named_machine_that_has_too_little_for_all() -> None:
    named = [island | {"node": "10.0.0.1"} for island in TWO]
    assert warned(named, 1 << 20).startswith("warning: 10.0.0.1: its 2 workers take ")


def test_what_lies_beside_a_device_is_held_against_a_machine() -> None:
    said = warned([{"name": "east", "accelerator": "cuda"}], 1 << 10, optimizer={"device": "host"})
    assert said.startswith("warning: a worker takes ") and "beside its device" in said


def test_units_of_dense_tensors_are_told_with_the_largest_and_what_stays() -> None:
    config = config_values("qwen3_moe", tie_word_embeddings=True)
    told = []
    for dense in ("copy", "shard"):
        job = make_job(dense=dense, model={"family": "qwen3_moe", "config": config})
        inventory, plan = inspect_model(job.model, VOCAB), plan_for(job, "AE")
        told.append(list(unit_lines(job, inventory, needed_memory(job, inventory, plan))))
    assert told[0] == []
    (line,) = told[1]
    assert line.startswith("tensors outside of the experts come and go in 4 units, the largest model.layers.0: ")
    assert line.endswith("of weights; model.embed_tokens.weight stays through a step, for several modules use it")
