"""How the load of experts is kept even."""

import pytest
from dougong.job.parts.router import Router


@pytest.mark.parametrize(
    ("keys", "has_loss"),
    [({}, False), ({"bias_rate": 0.001}, False), ({"sequence_loss": 0.1}, True), ({"global_loss": 0.1}, True)],
)
def test_a_loss_is_one_of_two(keys: dict[str, float], has_loss: bool) -> None:
    assert Router.model_validate(keys).has_loss is has_loss
