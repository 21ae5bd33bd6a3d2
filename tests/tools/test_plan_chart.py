"""A plan's step as a chart: times by emulation or by speed, and what it says above."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.models.inventory import inspect_model
from dougong.parallel.schedules.operation import Kind, MessageKind, Operation, send
from dougong.planner.placement import seats_of_job
from dougong.planner.plan_job import plan_job
from dougong.tools.plan_chart import chart_lines, cost_of, fits
from tests.jobs import VOCAB, make_job

EMULATE = {"attention_ms": 30.0, "expert_ms_per_1k_tokens": 500.0, "link": {"latency_ms": 2.0}}


def laid_out(east: dict[str, Any], west: dict[str, Any]) -> Any:
    islands = [
        {"name": "east", "accelerator": "cpu", "role": "attention", **east},
        {"name": "west", "accelerator": "cpu", "role": "experts", "workers": 2, **west},
    ]
    job = make_job(islands=islands, batch={"lanes": 2, "microbatches": 2, "microbatch_size": 2})
    inventory = inspect_model(job.model, VOCAB)
    return job, plan_job(job, inventory, seats_of_job(job.islands)), inventory


def test_emulated_times_are_those_of_the_workers() -> None:
    job, plan, inventory = laid_out({"emulate": EMULATE}, {"emulate": EMULATE})
    cost = cost_of(job, plan, inventory)
    assert cost("east/0", Operation(Kind.FORWARD, 0, 0)) == pytest.approx(2 * 0.030)  # two lanes
    assert cost("east/0", Operation(Kind.BACKWARD, 0, 0)) == pytest.approx(4 * 0.030)
    rows = 2 * 2 * 16 * 2  # lanes, sequences, tokens, choices; half of the experts
    assert cost("west/1", Operation(Kind.EXPERTS_FORWARD, 1, 0)) == pytest.approx(rows / 2 / 1000 * 0.5)
    assert cost("west/1", send(MessageKind.OUTPUTS, 0, 0)) == pytest.approx(0.002)


def test_without_times_speeds_count() -> None:
    fast = {"speed": {"attention": 4.0, "experts": 1.0}}
    job, plan, inventory = laid_out(fast, {})
    cost = cost_of(job, plan, inventory)
    assert cost("east/0", Operation(Kind.FORWARD, 0, 0)) == pytest.approx(2 / 4)
    assert cost("west/0", Operation(Kind.EXPERTS_BACKWARD, 0, 0)) == pytest.approx(2 / 2)
    assert cost("west/0", Operation(Kind.WEIGHT_GRADIENTS, 0, 0)) == pytest.approx(2 / 2)
    assert cost("west/0", send(MessageKind.OUTPUTS, 0, 0)) == 0


@pytest.mark.parametrize(
    ("given", "words"), [({"speed": {"attention": 4.0, "experts": 2.0}}, "`speed`"), ({"emulate": EMULATE}, "emulated")]
)
def test_where_every_speed_is_known_the_axis_is_in_seconds(given: dict[str, Any], words: str) -> None:
    job, plan, inventory = laid_out(given, given)
    _, times, chart = chart_lines(job, plan, inventory, 80)
    assert words in times
    assert chart.splitlines()[0].endswith("s") and "whole" not in chart
    if "speed" in given:  # a thousand rows in half a second: 2 lanes x 2 x 16 tokens x 2 choices on two workers
        took = cost_of(job, plan, inventory)("west/1", Operation(Kind.EXPERTS_FORWARD, 1, 0))
        assert took == pytest.approx(128 / 2 / 1000 / 2.0)


def test_the_chart_names_the_schedule_and_fits_the_terminal() -> None:
    job, plan, inventory = laid_out({}, {})
    head, times, chart = chart_lines(job, plan, inventory, 80)
    assert head.startswith("pipeline zebra, 2 micro-batches: attention keep ")
    assert head.endswith(" waves alive at most")
    assert times.startswith("a step as parts of its time: no island's speed is known")
    assert chart.splitlines()[0].endswith("─ the whole step") and " s\n" not in chart
    lines = chart.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert any(line.startswith("east/0 ") for line in lines) and any("west/0" in line for line in lines)
    assert fits(plan, job)
    assert not fits(plan, job.model_copy(update={"batch": job.batch.model_copy(update={"microbatches": 4096})}))
