"""`dougong plan`: the plan as a table, and the workers' environment."""

from __future__ import annotations

from dougong.cli.plan import environment_lines, plan_table, remark_lines
from dougong.models.inventory import inspect_model
from dougong.planner.placement import seats_of_job
from dougong.planner.plan_job import plan_job
from dougong.remarks import Remarks
from tests.jobs import VOCAB, make_job

ISLANDS = [{"name": "east", "accelerator": "cpu", "workers": 2, "threads": 3}]


def test_a_row_for_each_worker() -> None:
    job = make_job(islands=ISLANDS, batch={"lanes": 4, "microbatches": 1, "microbatch_size": 1})
    model = inspect_model(job.model, VOCAB)
    plan = plan_job(job, model, seats_of_job(job.islands))
    table = plan_table(plan, [1 << 20, 1 << 30])
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["worker"] == ["east/0", "east/1"]
    assert columns["lanes"] == ["0-1", "2-3"]
    assert columns["experts"][0].startswith("0")
    assert sum(map(int, columns["dense tensors owned"])) == len(plan.owners)
    assert columns["state"] == ["1.0 MiB", "1.0 GiB"]


def test_the_environment_of_each_island_s_workers() -> None:
    (line,) = environment_lines(make_job(islands=ISLANDS))
    assert line.startswith("east: workers run with ") and "OMP_NUM_THREADS=3" in line.split()


def test_what_a_run_would_tell_once() -> None:
    told = Remarks(("the separator is </s>",), ("nothing separates documents",))
    assert list(remark_lines(told)) == ["note: the separator is </s>", "warning: nothing separates documents"]
