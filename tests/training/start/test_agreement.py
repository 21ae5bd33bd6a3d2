"""Workers that read other tokens than their peers, or compute experts otherwise, are named before the first step."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dougong.control.worker_messages import WorkerMessage, WorkerWarning
from dougong.data.windows import open_data
from dougong.errors import DataError, DeviceError
from dougong.ops.experts.reference import ByBlock, SwiGLUExpert, TiledSwiGLU
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan, Worker
from dougong.training.start.agreement import agree_on_data, agree_on_operators, fallback_teller
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


class Grouped(ByBlock):
    """A vendor's form of one release."""

    def __init__(self, version: int) -> None:
        super().__init__(SwiGLUExpert())
        self.identity = f"grouped (version {version})"


def other_release(world: World, plan: Plan) -> str | None:
    try:
        agree_on_operators(world, plan, Grouped(world.rank))
    except DeviceError as error:
        return str(error)
    return None


def test_another_release_of_the_same_form_is_another_form() -> None:
    first, second = run_workers(other_release, plan_of("BE"))
    assert first is None and second is not None
    assert (
        "east/1: experts are computed by grouped (version 1), not by the form used on east/0 (grouped (version 0))"
        in second
    )


@dataclass
class Heard:
    """A worker, as far as it can tell the controller something."""

    plan: Plan
    worker: Worker
    control: Heard | None = None
    told: list[WorkerMessage] = field(default_factory=list)

    def send(self, message: WorkerMessage) -> None:
        self.told.append(message)


def test_a_fallback_is_told_by_the_first_worker_with_experts() -> None:
    plan, told = plan_of("AEE"), []
    for worker in plan.workers:
        heard = Heard(plan, worker)
        heard.control = heard
        fallback_teller(heard)("experts are not computed by x: y")  # type: ignore[arg-type]
        told.append(heard.told)
    assert told == [[], [WorkerWarning("experts are not computed by x: y")], []]
