"""Each epoch is an order of its own of the windows that are not held out."""

from __future__ import annotations

import numpy as np
import pytest
from dougong.data.samples.order import WindowOrder, num_held_out


def test_each_epoch_has_every_window_once_and_none_that_is_held_out() -> None:
    order = WindowOrder(num_windows=31, num_held_out=7, seed=3)
    held = set(order.held_out(np.arange(7)).tolist())
    epochs = [order.train(np.arange(24) + 24 * epoch).tolist() for epoch in range(3)]
    assert all(sorted(epoch) == sorted(set(range(31)) - held) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_samples_of_two_epochs_are_those_that_each_alone_would_be() -> None:
    order = WindowOrder(10, 0, 1)
    together = order.train(np.arange(5, 15)).tolist()
    assert together == [int(order.train(np.array([sample]))[0]) for sample in range(5, 15)]


def test_sources_of_equal_size_have_orders_of_their_own_and_the_first_that_which_it_has_alone() -> None:
    samples = np.arange(50)
    orders = [tuple(WindowOrder(50, 0, 1, source).train(samples).tolist()) for source in range(3)]
    assert len(set(orders)) == 3 and orders[0] == tuple(WindowOrder(50, 0, 1).train(samples).tolist())


@pytest.mark.parametrize(("num_windows", "fraction", "count"), [(53, 0.25, 14), (1, 0.02, 1), (100, 0.02, 2)])
def test_how_many_are_held_out(num_windows: int, fraction: float, count: int) -> None:
    assert num_held_out(num_windows, fraction) == count
