"""What of dense tensors is there at a time, where they come and go."""

from __future__ import annotations

from dougong.models.inventory import inspect_model
from dougong.parallel.units import DenseUnits, Unit
from dougong.planner.needs.dense_units import UnitBytes, owned_gradient_bytes
from dougong.planner.needs.holdings import dense_groups
from tests.jobs import VOCAB, make_job, plan_for

UNITS = DenseUnits(
    tuple(Unit(name, (name,)) for name in ("embed", "one", "two", "three", "head")), ("tied",), ((0, 1), (1, 2), (2, 4))
)
BYTES = UnitBytes(UNITS, (1, 10, 100, 1000, 10000), (2, 20, 200, 2000, 20000), 5, 7)


def test_a_forward_has_what_its_segment_touches_and_the_next_unit() -> None:
    assert BYTES.forward(0) == 5 + 1 + 10 + 100
    assert BYTES.forward(1) == 5 + 10 + 100 + 1000
    assert BYTES.forward(2) == 5 + 10 + 100 + 1000 + 10000, "behind the last one comes the backward's first"


def test_a_backward_has_the_unit_before_and_gradients_of_what_it_touches_or_of_the_one_behind() -> None:
    assert BYTES.backward(0) == 5 + 1 + 10 and BYTES.backward(1) == 5 + 1 + 10 + 100
    assert BYTES.sums(0) == 7 + 20 + 200 and BYTES.sums(2) == 7 + 200 + 2000 + 20000
    assert BYTES.largest == ("head", 10000)


def test_the_sums_of_what_is_owned_are_those_of_all_dense_tensors_together() -> None:
    job = make_job(dense="shard", precision="bfloat16")
    inventory, plan = inspect_model(job.model, VOCAB), plan_for(job, "BBE")
    assert inventory.units is not None
    buckets, groups = dense_groups(job, inventory, plan)
    owned = owned_gradient_bytes(buckets, plan)
    assert owned[2] == 0 and min(owned[:2]) > 0
    whole = UnitBytes.of(inventory.units, buckets, groups)
    assert sum(owned) == sum(whole.gradients) + whole.lasting_gradients == 2 * sum(whole.weights)
