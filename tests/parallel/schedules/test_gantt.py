"""The picture of a step, character by character."""

from __future__ import annotations

import itertools

import pytest
from dougong.parallel.schedules.gantt import draw
from dougong.parallel.schedules.operation import Operation
from dougong.parallel.schedules.registry import make_programs
from dougong.parallel.schedules.simulate import simulate
from tests.parallel.schedules.orders import SPLIT, TEAMS
from tests.parallel.schedules.timing import Durations

MS = Durations(0.001, 0.002, 0.001, 0.002, 0.001)


def test_zebra_with_one_site_and_three_micro_batches() -> None:
    """A millisecond is two columns: forwards and messages take two, backwards four."""
    picture = draw(simulate(make_programs("zebra", 1, 3, SPLIT), MS), 52)
    assert picture.splitlines() == [
        "         0─────────────────────────────── 19 ms",
        "a        001122··00aaaa11bbbb22ccccaaaabbbbcccc  95%",
        "e        ····001122······aaaa··bbbb··cccc······  47%",
        "dispatch ·0001122·····aaa···bbb···ccc··········  32%",
        "combine  ·····0001122·······aaa···bbb···ccc····  32%",
        "0 1 2 .. forward of that micro-batch",
        "a b c .. its backward    · idle",
    ]


def test_workers_that_do_the_same_share_a_line() -> None:
    picture = draw(simulate(make_programs("zebra", 1, 3, TEAMS["3:2"]), MS), 47)
    assert [line[:8].strip() for line in picture.splitlines()[1:5]] == ["a0 .. a2", "e0 .. e1", "dispatch", "combine"]
    alone = draw(simulate(make_programs("zebra", 1, 3, SPLIT), MS), 47)
    assert [line[9:] for line in picture.splitlines()[1:5]] == [line[9:] for line in alone.splitlines()[1:5]]


def test_a_slower_worker_has_a_line_of_its_own() -> None:
    def cost(worker: str, operation: Operation) -> float:
        return MS(worker, operation) * (2.0 if worker == "a1" else 1.0)

    picture = draw(simulate(make_programs("zebra", 1, 3, TEAMS["3:2"]), cost))
    assert [line[:8].strip() for line in picture.splitlines()[1:5]] == ["a0", "a1", "a2", "e0 .. e1"]


def test_weights_alone_are_capital_letters() -> None:
    programs = make_programs("serial", 1, 2, SPLIT)
    picture = draw(simulate(programs, Durations(0.001, 0.002, 0.001, 0.002, 0.001, 0.001)), 100)
    experts = picture.splitlines()[2]
    shown = [name for name, _ in itertools.groupby(experts.split()[1]) if name != "·"]
    assert "".join(shown) == "0aA1bB"
    assert "A B C .. its experts' weights" in picture


@pytest.mark.parametrize("width", [1, 20, 40, 80, 133])
@pytest.mark.parametrize("team", TEAMS)
def test_lines_fit(team: str, width: int) -> None:
    picture = draw(simulate(make_programs("zebra", 8, 12, TEAMS[team]), MS), width)
    chart = [line for line in picture.splitlines() if line[:1] in " abcde" and " .." not in line[3:]]
    assert len({len(line) for line in chart[1:]}) == 1
    if width >= 40:
        assert max(map(len, picture.splitlines())) == width


@pytest.mark.parametrize(
    ("step_s", "text"),
    [(0.0, " 0 s"), (2.5e-6, " 2.5 µs"), (0.0125, " 12.5 ms"), (3.0, " 3 s"), (1234.0, " 1230 s"), (0.9999, " 1 s")],
)
def test_the_axis_ends_in_the_time_of_a_step(step_s: float, text: str) -> None:
    cost = Durations(step_s / 2, step_s / 2, 0, 0, 0)
    trace = simulate(make_programs("zebra", 0, 1, {"a": "attention"}), cost)
    assert draw(trace, 40).splitlines()[0].endswith(f"─{text}")
