"""Which layouts a job is proved on."""

from __future__ import annotations

import pytest
from dougong.job.schema import Job
from dougong.tools.layouts import Layout, layouts
from tests.jobs import make_job


def job(lanes: int = 4, steps: int = 4, **island: object) -> Job:
    islands = [
        {"name": "east", "accelerator": "cpu", "threads": 2, "node": "10.0.0.1", **island},
        {"name": "west", "accelerator": "cpu"},
    ]
    return make_job(batch={"lanes": lanes, "microbatches": 1, "microbatch_size": 1}, steps=steps, islands=islands)


def shape(layout: Layout) -> list[list[tuple[str, int]]]:
    return [[(i.role, i.workers) for i in islands] for islands in (layout.islands, layout.then) if islands]


def test_unlike_layouts_come_first() -> None:
    one, three, apart, resumed = layouts(job(), 8, 4)
    assert shape(one) == [[("both", 1)]]
    assert shape(three) == [[("both", 3)]]
    assert shape(apart) == [[("attention", 1), ("experts", 2)]]
    assert shape(resumed) == [[("both", 2)], [("attention", 2), ("experts", 1)]]
    assert (resumed.name, resumed.workers) == ("2 both, then 2 attention + 1 experts", "2 then 3")


def test_all_are_of_the_first_island_s_kind_on_any_node() -> None:
    islands = [i for layout in layouts(job(), 8, 9) for i in (*layout.islands, *layout.then)]
    assert {(i.accelerator, i.threads, i.node) for i in islands} == {("cpu", 2, None)}


@pytest.mark.parametrize("lanes", [1, 2, 3, 8])
@pytest.mark.parametrize("experts", [1, 2, 16])
@pytest.mark.parametrize("devices", [None, 1, 2, 3])
def test_no_layout_has_more_workers_than_lanes_experts_or_devices_allow(
    lanes: int, experts: int, devices: int | None
) -> None:
    found = layouts(job(lanes), experts, 50, devices)
    assert len({(layout.islands, layout.then) for layout in found}) == len(found) >= 1
    for layout in found:
        for islands in (layout.islands, layout.then or layout.islands):
            assert sum(i.workers for i in islands if i.role != "experts") <= lanes
            assert sum(i.workers for i in islands if i.role != "attention") <= experts
            assert devices is None or sum(i.workers for i in islands) <= devices
            Job.model_validate(job(lanes).model_copy(update={"islands": islands}).model_dump())


def test_one_step_cannot_be_stopped_half_way() -> None:
    assert any(layout.then for layout in layouts(job(), 8, 50))
    assert not any(layout.then for layout in layouts(job(steps=1), 8, 50))


def test_it_gives_as_many_as_asked_for_where_there_are_so_many() -> None:
    assert [len(layouts(job(8), 16, count)) for count in (1, 3, 10)] == [1, 3, 10]
    assert len(layouts(job(1), 1, 10)) < 5
