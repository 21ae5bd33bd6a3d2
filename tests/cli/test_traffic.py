"""`dougong plan`'s table of the bytes that a step sends."""

from __future__ import annotations

from typing import Any

from dougong.cli.traffic import crossing_bytes, traffic_table
from dougong.models.inventory import inspect_model
from dougong.planner.placement import seats_of_job
from dougong.planner.plan_job import plan_job
from tests.jobs import VOCAB, make_job, plan_for

BATCH = {"lanes": 4, "microbatches": 1, "microbatch_size": 1}


def island(name: str, workers: int = 1, role: str = "both", **more: Any) -> dict[str, Any]:
    return {"name": name, "accelerator": "cpu", "workers": workers, "role": role, **more}


def columns_of(*islands: dict[str, Any]) -> dict[str, list[str]]:
    job = make_job(islands=list(islands), batch=BATCH)
    model = inspect_model(job.model, VOCAB)
    table = traffic_table(job, model, plan_job(job, model, seats_of_job(job.islands)))
    assert table is not None
    return {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}


def test_each_link_with_what_crosses_it() -> None:
    columns = columns_of(island("east", 2, "attention"), island("west", 2, "experts"))
    links = list(zip(columns["from"], columns["to"], strict=True))
    assert links == [("east", "east"), ("east", "west"), ("west", "east"), ("west", "west")]
    assert columns["rows"][0] == "-" and columns["rows"][1].startswith("~")  # two of eight experts: not all
    assert columns["dense sums"][0].endswith("KiB") and columns["dense sums"][1:] == ["-"] * 3
    assert columns["outputs"][2].startswith("~") and columns["sizes"][1][0].isdigit()


def test_nodes_stand_below_islands_that_share_them() -> None:
    columns = columns_of(island("a", node="n0"), island("b", node="n0"), island("c", node="n1"))
    assert ("node n0", "node n1") in zip(columns["from"], columns["to"], strict=True)
    apart = columns_of(island("a", node="n0"), island("c", node="n1"))
    assert apart["from"] == ["a", "c"] and apart["to"] == ["c", "a"]  # each island is a node: nothing more to say


def test_a_worker_alone_has_no_table() -> None:
    job = make_job()
    model = inspect_model(job.model, VOCAB)
    assert traffic_table(job, model, plan_job(job, model, seats_of_job(job.islands))) is None


def test_all_that_crosses_is_nothing_for_a_worker_alone() -> None:
    job = make_job()
    model = inspect_model(job.model, VOCAB)
    assert crossing_bytes(job, model, plan_for(job, "AE")) > 0 == crossing_bytes(job, model, plan_for(job))
