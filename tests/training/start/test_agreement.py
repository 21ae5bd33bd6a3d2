"""Workers that read other tokens than their peers, or compute experts otherwise, are named before the first step."""

from __future__ import annotations

from pathlib import Path

from dougong.data.windows import open_data
from dougong.errors import DataError, DeviceError
from dougong.ops.experts.reference import ByBlock, SwiGLUExpert, TiledSwiGLU
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.training.start.agreement import agree_on_data, agree_on_operators
from tests.jobs import make_job, plan_for
from tests.parallel.workers import plan_of
from tests.processes import run_workers


def read_and_compare(world: World, plan: Plan, texts: list[str], folder: Path) -> str:
    """Open this worker's own text; the error's message, or nothing."""
    file = folder / f"{world.rank}.txt"
    file.write_text(texts[world.rank] * 100)
    job = make_job(data={"text": str(file), "sequence_length": 16})
    try:
        agree_on_data(world, plan, open_data(job, 256, folder / "cache"))
    except DataError as error:
        return str(error)
    return ""


def test_equal_texts_agree_wherever_they_lie(tmp_path: Path) -> None:
    plan = plan_for(make_job(), "BE")
    assert run_workers(read_and_compare, plan, ["one text ", "one text "], tmp_path) == ["", ""]


def test_the_worker_with_another_text_is_named_by_everybody(tmp_path: Path) -> None:
    plan = plan_for(make_job(), "BBE")
    told = run_workers(read_and_compare, plan, ["one text ", "one text ", "a text more "], tmp_path)
    assert all("east/2 on node read other tokens than east/0" in message for message in told)


def other_operators(world: World, plan: Plan) -> str | None:
    """The last worker computes its experts by another form: what each worker says."""
    op = TiledSwiGLU(16) if world.rank == world.size - 1 else ByBlock(SwiGLUExpert())
    try:
        agree_on_operators(world, plan, op)
    except DeviceError as error:
        return str(error)
    return None


def test_workers_that_compute_experts_by_other_forms_are_named() -> None:
    first, second, third = run_workers(other_operators, plan_of("BAE"))
    assert first is second is None
    assert third is not None and third.startswith("east/2: experts are computed by TiledSwiGLU, not by the form")
