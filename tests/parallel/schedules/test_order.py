"""From an order of segments to programs."""

from __future__ import annotations

import pytest
from dougong.parallel.plan import Role
from dougong.parallel.schedules.check import check
from dougong.parallel.schedules.operation import Kind, MessageKind, Program, send
from dougong.parallel.schedules.order import lay_out
from dougong.parallel.schedules.registry import SCHEDULES, make_programs
from dougong.parallel.schedules.zebra import zebra
from hypothesis import given, settings
from tests.parallel.schedules.orders import SPLIT, TEAMS, any_programs, order_of


def words(role: Role) -> list[str]:
    return [str(operation).replace(", micro-batch 0)", ")") for operation in zebra(1, 1, role)]


def test_one_micro_batch_through_one_site() -> None:
    assert words("attention") == [
        "forward (segment 0)", "send rows (site 0)",
        "receive expert outputs (site 0)", "forward (segment 1)",
        "backward (segment 1)", "send output gradients (site 0)",
        "receive row gradients (site 0)", "backward (segment 0)",
    ]  # fmt: skip
    assert words("experts") == [
        "receive rows (site 0)", "experts forward (site 0)", "send expert outputs (site 0)",
        "receive output gradients (site 0)", "experts backward (site 0)", "send row gradients (site 0)",
        "weight gradients (site 0)",
    ]  # fmt: skip
    assert words("both") == [
        *words("attention")[:2], *words("experts")[:3], *words("attention")[2:6], *words("experts")[3:],
        *words("attention")[6:],
    ]  # fmt: skip


def test_a_worker_of_both_roles_works_between_question_and_answer() -> None:
    """With four micro-batches, two other operations hide the way there and two the way back."""
    programs = make_programs("zebra", 2, 4, {"b": "both"})
    computed = [operation for operation in programs[0].operations if operation.kind.computes]
    shown = [f"{'E' if o.kind.words.startswith('experts') else 'A'}{o.site}{o.microbatch}" for o in computed[:12]]
    assert " ".join(shown) == "A00 A01 A02 E00 A03 E01 A10 E02 A11 E03 A12 E10"


@given(any_programs())
@settings(max_examples=150, deadline=None)
def test_every_order_of_segments_becomes_programs_that_hold(drawn: tuple[list[Program], int, int]) -> None:
    programs, num_sites, num_microbatches = drawn
    check(programs, num_sites, num_microbatches)


@given(any_programs())
@settings(max_examples=150, deadline=None)
def test_experts_serve_in_the_order_in_which_they_are_asked(drawn: tuple[list[Program], int, int]) -> None:
    asked = (MessageKind.ROWS, MessageKind.OUTPUT_GRADIENTS)
    posted = [[send(m, o.site, o.microbatch) for o in p.operations if (m := o.kind.sends) in asked] for p in drawn[0]]
    taken = [[send(m, o.site, o.microbatch) for o in p.operations if (m := o.kind.receives) in asked] for p in drawn[0]]
    orders = [order for order in [*posted, *taken] if order]
    assert all(order == orders[0] for order in orders)


@pytest.mark.parametrize("name", SCHEDULES)
def test_weights_wait_until_the_row_gradients_have_left_but_for_serial(name: str) -> None:
    operations = make_programs(name, 2, 2, TEAMS["alone"])[0].operations
    behind = [Kind.SEND_ROW_GRADIENTS, Kind.WEIGHT_GRADIENTS]
    for at, operation in enumerate(operations):
        if operation.kind is Kind.EXPERTS_BACKWARD:
            following = operations[at + 1 : at + 3]
            assert [o.kind for o in following] == (behind[::-1] if name == "serial" else behind)
            assert {(o.site, o.microbatch) for o in following} == {(operation.site, operation.microbatch)}


def test_no_sites_no_messages() -> None:
    programs = make_programs("zebra", 0, 2, SPLIT)
    assert order_of(programs, "attention") == ["F(0,0)", "B(0,0)", "F(0,1)", "B(0,1)"]
    assert len(programs[0].operations) == 4 and not programs[1].operations
    assert lay_out([], 3, "both") == []
