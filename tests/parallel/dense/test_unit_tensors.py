"""Dense tensors that have memory only while somebody uses them."""

from __future__ import annotations

import pytest
import torch
from dougong.parallel.segments.tape import leaf_node
from tests.parallel.dense.united import SHAPES, UNITS, dtype_of, master, tensors_of
from tests.parallel.workers import plan_of


def test_a_group_has_its_masters_values_in_compute_precision_while_it_is_there() -> None:
    tensors, masters = tensors_of(plan_of("B", shapes=SHAPES), 0)
    assert all(buffer.untyped_storage().nbytes() == 0 for buffer in tensors.buffers)
    for _ in range(2):
        for group, names in enumerate(UNITS.groups()):
            tensors.take_memory(group)
            tensors.show(group)
            assert set(tensors.values(group)) == set(names)
            for name, value in tensors.values(group).items():
                assert value.dtype == dtype_of(name) and torch.equal(value, masters[name].to(value.dtype)), name
            tensors.free(group)
            assert all(tensors.parameters[name].numel() == 0 for name in names)
        assert all(buffer.untyped_storage().nbytes() == 0 for buffer in tensors.buffers)
        masters["a"].add_(1.0)


def test_a_graph_that_has_saved_them_finds_them_when_they_have_come_again() -> None:
    tensors, _ = tensors_of(plan_of("B", shapes=SHAPES), 0)
    weight, place = tensors.parameters["a"], leaf_node(tensors.parameters["a"])
    group = 2
    tensors.take_memory(group)
    tensors.show(group)
    given = torch.ones(2, 4, dtype=torch.bfloat16, requires_grad=True)
    output = given @ weight.t()
    tensors.free(group)
    tensors.take_memory(group)
    tensors.show(group)
    assert leaf_node(weight) is place, "the same leaf"
    output.sum().backward()
    due = torch.ones(2, 4, dtype=torch.bfloat16) @ master("a").to(torch.bfloat16)
    assert given.grad is not None and torch.equal(given.grad, due)
    assert weight.grad is not None and weight.grad.shape == (4, 4)


def test_one_that_is_not_there_is_no_made_up_number() -> None:
    tensors, _ = tensors_of(plan_of("B", shapes=SHAPES), 0)
    with pytest.raises(RuntimeError):
        torch.ones(2, 4, dtype=torch.bfloat16) @ tensors.parameters["a"].t()
