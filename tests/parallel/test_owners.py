"""Who owns what: balanced, pieces of a worker side by side, and what a plan file may not say."""

from __future__ import annotations

import itertools

import pytest
from dougong.errors import PlanError
from dougong.job.optimizers.declaration import of_every_tensor, of_no_tensor
from dougong.parallel import pieces
from dougong.parallel.owners import assign_owners, check_owners
from dougong.parallel.pieces import cut_tensors, owned_specs
from dougong.parallel.plan import Inventory, Plan, Seat, TensorSpec, make_plan
from hypothesis import given, settings
from hypothesis import strategies as st

PIECE = 64


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_loads_differ_by_a_piece_at_most_and_a_workers_pieces_lie_side_by_side(sizes: list[int], num: int) -> None:
    tensors = [TensorSpec(f"t{i}", (size,), trainable=True) for i, size in enumerate(sizes)]
    ranks = [3 * rank for rank in range(num)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_NUMEL", PIECE)
        owners = assign_owners(tensors, ranks, of_every_tensor)
        whole = assign_owners(tensors, ranks, of_no_tensor)
    check_owners(owners, 3 * num)
    loads = dict.fromkeys(ranks, 0)
    for spec, owner in owned_specs(tensors, owners):
        assert spec.num_parameters <= PIECE
        loads[owner] += spec.num_parameters
    assert sum(loads.values()) == sum(sizes) and max(loads.values()) - min(loads.values()) <= PIECE
    assert set(whole) == {tensor.name for tensor in tensors}
    small = [tensor.name for tensor in tensors if tensor.num_parameters <= PIECE]
    assert set(small) <= set(owners), "a tensor of one piece keeps its name"


def test_it_is_the_same_for_a_rule_that_cuts_nothing_and_for_small_tensors() -> None:
    tensors = [TensorSpec(f"t{i}", (i + 1, 7), trainable=True) for i in range(30)]
    assert assign_owners(tensors, [0, 1, 2], of_every_tensor) == assign_owners(tensors, [0, 1, 2], of_no_tensor)


@pytest.mark.parametrize(
    ("owners", "message"),
    [
        ({"t": 2}, "owners.t: is rank 2, but the plan has 2 workers"),
        ({"t[0:4]": -1}, r"owners.t\[0:4\]: is rank -1"),
        ({"t": 0, "t[0:4]": 1}, r"owners.t: is owned whole, and t\[0:4\] beside it"),
        ({"t[0:4]": 0, "t[8:9]": 1}, r"owners.t\[8:9\]: begins at 8, but the piece before it ends at 4"),
        ({"t[0:4]": 0, "t[2:9]": 1}, r"owners.t\[2:9\]: begins at 2, but the piece before it ends at 4"),
        ({"t[4:8]": 0}, r"owners.t\[4:8\]: begins at 4, but the piece before it ends at 0"),
        ({"t[0:4]": 0, "t[4:8]": 1, "t[8:9]": 0}, "owners.t: the pieces of a worker do not lie side by side"),
    ],
)
def test_a_plan_file_that_does_not_make_sense_is_refused(owners: dict[str, int], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_owners(owners, 2)


def test_pieces_are_in_order_whatever_the_order_of_names() -> None:
    """As text, 1024 comes before 64."""
    owners = {f"t[{begin}:{begin + 64}]": 0 for begin in range(0, 2048, 64)}
    (found,) = cut_tensors(sorted(owners)).values()
    assert all(one.end == other.begin for one, other in itertools.pairwise(found)) and len(found) == 32


def test_a_plan_of_pieces_is_written_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_NUMEL", PIECE)
    tensors = (TensorSpec("a", (10, 20), trainable=True), TensorSpec("b", (3,), trainable=False))
    inventory = Inventory("tiny", tensors, ("x.experts",), 4, (("down_proj", (3, 5)),))
    seats = [Seat(f"east/{rank}", "east", "both", "node", f"cpu:{rank}") for rank in range(2)]
    plan = make_plan(2, inventory, seats, is_elementwise=of_every_tensor)
    assert list(plan.owners) == ["a[0:64]", "a[128:192]", "a[192:200]", "a[64:128]", "b"]
    assert Plan.from_json(plan.to_json()) == plan
    with pytest.raises(PlanError, match=r"owners.a\[64:128\]: begins at 64, but the piece before it ends at 65"):
        Plan.from_json(plan.to_json().replace("a[0:64]", "a[0:65]"))
