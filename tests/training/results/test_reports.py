"""What workers tell each other: every value to the bit, and sums that no layout moves."""

from __future__ import annotations

import math
import struct

import pytest
import torch
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.training.results.integrity_word import WORD_BYTES
from dougong.training.results.reports import (
    LossKey,
    ReportForm,
    StepReport,
    clip_scale,
    gather_losses,
    gather_reports,
    gather_vectors,
    global_norm,
    loss_keys,
    mean_loss,
    merged_losses,
    pack_reached,
    unreached_names,
)
from hypothesis import given
from hypothesis import strategies as st
from tests.parallel.workers import plan_of
from tests.processes import run_workers
from torch import Tensor

FORM = ReportForm(((0, 0), (0, 1)), ("a", "b[0]", "c"))
FLOATS = st.floats(width=64)


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


@given(st.booleans(), st.booleans(), FLOATS, st.lists(FLOATS, min_size=5, max_size=5))
def test_a_report_arrives_to_the_bit(stop: bool, rest: bool, exchange_s: float, values: list[float]) -> None:
    """Not a number, infinities and the zero's sign, too."""
    report = StepReport(
        stop,
        exchange_s,
        dict(zip(FORM.losses, values[:2], strict=True)),
        dict(zip(FORM.squares, values[2:], strict=True)),
        rest=rest,
    )
    payload = FORM.encode(report)
    found = FORM.decode(payload)
    assert len(payload) == FORM.num_bytes and (found.stop, found.rest) == (stop, rest)
    assert list(map(bits, [found.exchange_s, *found.losses.values(), *found.squares.values()])) == list(
        map(bits, [exchange_s, *values])
    )
    assert (tuple(found.losses), tuple(found.squares)) == (FORM.losses, FORM.squares)


def test_a_worker_without_lanes_and_tensors_has_a_report_all_the_same() -> None:
    empty = ReportForm((), ())
    report = StepReport(True, 0.5, {}, {})
    assert empty.decode(empty.encode(report)) == report


def test_a_report_that_lacks_a_value_is_no_report() -> None:
    with pytest.raises(KeyError):
        FORM.encode(StepReport(False, 0.0, {(0, 0): 1.0}, {}))


def report_of(rank: int, form: ReportForm) -> StepReport:
    losses = {key: rank + key[0] / 3 + key[1] / 7 for key in form.losses}
    return StepReport(rank == 1, rank / 10, losses, dict.fromkeys(form.squares, rank + 1 / 3))


DENSE = tuple(f"t{number}" for number in range(11))


def test_what_no_worker_has_reached_is_named() -> None:
    """A worker without lanes says nothing of it, and one bit a tensor is all that travels."""
    form, silent = ReportForm((), (), DENSE), ReportForm((), ())
    forms = [form, silent, form]
    reached: list[set[str]] = [{"t0", "t9"}, set(), {"t0", *DENSE[3:9]}]
    reports = []
    for own, names in zip(forms, reached, strict=True):
        payload = own.encode(StepReport(False, 0.0, {}, {}, pack_reached(own.dense, names)))
        assert len(payload) == own.num_bytes == 9 + WORD_BYTES + (2 if own.dense else 0)
        reports.append(own.decode(payload))
    assert unreached_names(reports, forms) == {"t1", "t2", "t10"}
    assert unreached_names(reports[1:2], [silent]) == frozenset()


FORMS = [ReportForm(((0, 0), (1, 0)), ("b", "d")), ReportForm(((2, 0),), ()), ReportForm((), ("a", "c"))]


def everybodys(world: World, plan: Plan) -> list[StepReport]:
    return gather_reports(world, report_of(world.rank, FORMS[world.rank]), FORMS)


def test_all_workers_have_all_reports() -> None:
    expected = [report_of(rank, form) for rank, form in enumerate(FORMS)]
    assert run_workers(everybodys, plan_of("BAE")) == [expected] * 3
    assert merged_losses(expected).keys() == {(0, 0), (1, 0), (2, 0)}


KEYS: list[list[LossKey]] = [[(0, 0), (1, 0)], [], [(0, 1), (1, 1)]]
LOSSES: list[dict[LossKey, float]] = [{(1, 0): 0.0}, {}, {(0, 1): math.nan, (1, 1): 2.5}]


def losses_of(world: World, plan: Plan) -> list[tuple[LossKey, bytes]]:
    found = gather_losses(world, LOSSES[world.rank], KEYS)
    return [(key, bits(loss)) for key, loss in found.items()]


def test_a_loss_that_is_zero_or_no_number_is_there_and_one_that_is_missing_is_not() -> None:
    expected = [((1, 0), bits(0.0)), ((0, 1), bits(math.nan)), ((1, 1), bits(2.5))]
    assert run_workers(losses_of, plan_of("BEB")) == [expected] * 3


LENGTHS = [{"b": 2, "a": 3}, {}, {"c": 1}]


def vectors_of(world: World, plan: Plan) -> dict[str, Tensor]:
    mine = {name: torch.arange(n) / 3 + world.rank for name, n in LENGTHS[world.rank].items()}
    return gather_vectors(world, mine, LENGTHS)


def test_vectors_arrive_by_name() -> None:
    third = torch.tensor(1 / 3)
    for found in run_workers(vectors_of, plan_of("BEB")):
        assert list(found) == ["b", "a", "c"]
        assert found["a"].tolist() == [0.0, float(third), float(torch.tensor(2.0) / 3)]
        assert found["c"].tolist() == [2.0] and found["c"].dtype == torch.float32


@given(st.integers(1, 6), st.integers(1, 3), st.data())
def test_the_mean_loss_depends_on_lanes_alone(lanes: int, microbatches: int, data: st.DataObject) -> None:
    numbers = st.floats(-1e3, 1e3)
    losses = {key: data.draw(numbers) for key in loss_keys(range(lanes), microbatches)}
    shuffled = dict(data.draw(st.permutations(list(losses.items()))))
    found = mean_loss(losses, lanes, microbatches)
    assert bits(mean_loss(shuffled, lanes, microbatches)) == bits(found)
    assert found == pytest.approx(math.fsum(losses.values()) / len(losses), abs=1e-9)


@given(st.permutations([f"t{i}" for i in range(9)]), st.integers(0, 9))
def test_the_norm_does_not_depend_on_who_owns_what(names: list[str], first: int) -> None:
    squares = {name: (int(name[1:]) + 0.1) ** 7 for name in names}
    parts = [{n: squares[n] for n in names[:first]}, {n: squares[n] for n in names[first:]}]
    reports = [StepReport(False, 0.0, {}, part) for part in parts]
    assert bits(global_norm(reports)) == bits(sum(squares[n] for n in sorted(names)) ** 0.5)


@pytest.mark.parametrize(
    ("norm", "limit", "scale"), [(4.0, 1.0, 0.25), (1.0, 1.0, 1.0), (0.5, 1.0, 1.0), (4.0, None, 1.0), (0.0, 1.0, 1.0)]
)
def test_gradients_are_scaled_down_to_the_limit_and_never_up(norm: float, limit: float | None, scale: float) -> None:
    assert clip_scale(norm, limit) == scale
