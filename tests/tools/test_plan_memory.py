"""Memory of a plan in words."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.job.optimizers.declaration import ElementwiseRule, of_every_tensor, of_no_tensor
from dougong.models.inventory import inspect_model
from dougong.parallel import pieces
from dougong.parallel.plan import make_plan
from dougong.planner.needs.terms import Term, WorkerMemory
from dougong.planner.needs.worker_memory import needed_memory
from dougong.planner.placement import seats_of_job
from dougong.planner.plan_job import plan_job
from dougong.tools.plan_memory import kind_lines, machine_lines, owner_lines, total_line, unit_lines
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


def told_of_owners(rule: ElementwiseRule, **changes: Any) -> list[str]:
    job = make_job(**changes)
    inventory, seats = inspect_model(job.model, VOCAB), seats_of_job(job.islands)
    plan = make_plan(job.batch.lanes, inventory, seats * 2, is_elementwise=rule)
    return list(owner_lines(job, inventory, plan))


def test_what_is_owned_in_pieces_is_told_and_what_stays_whole_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told_of_owners(of_every_tensor) == [], "the model has no large tensor"
    monkeypatch.setattr(pieces, "PIECE_NUMEL", 2048)
    (line,) = told_of_owners(of_every_tensor)
    assert line.startswith("outside of the experts east/0 owns most: ")
    assert " of weights and moments (" in line
    assert line.endswith("; 8 tensors of more than 2,048 elements are owned in 28 pieces")
    assert told_of_owners(of_no_tensor)[1] == (
        "model.embed_tokens.weight [256, 64] is not cut, since adamw updates it as a whole: 192.0 KiB on east/0; "
        "7 smaller ones likewise"
    )
    some, whole = told_of_owners(lambda name, shape: "q_proj" not in name)
    assert "are owned in" in some and whole.startswith("model.layers.0.self_attn.q_proj.weight [")
