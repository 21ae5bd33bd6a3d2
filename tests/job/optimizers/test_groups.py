"""Which rate and decay a tensor has."""

from __future__ import annotations

import pytest
from dougong.job.optimizers.groups import GroupRates, ParameterGroup, TensorRates

GROUPS = (
    ParameterGroup(match="*.experts.*", lr=2e-4),
    ParameterGroup(match="*norm*", weight_decay=0.2),
    ParameterGroup(match="*", lr=5e-4, weight_decay=0.0),
)
RATES = GroupRates(1e-3, 0.1, GROUPS)


@pytest.mark.parametrize(
    ("name", "dimensions", "rates"),
    [
        ("layers.0.experts.down_proj[3]", 2, TensorRates(0.2, 0.1)),
        ("layers.0.experts.bias[3]", 1, TensorRates(0.2, 0.0)),
        ("layers.0.norm.weight", 1, TensorRates(1.0, 0.2)),
        ("head.weight", 2, TensorRates(0.5, 0.0)),
    ],
)
def test_the_first_group_that_matches_decides(name: str, dimensions: int, rates: TensorRates) -> None:
    found = RATES.of(name, dimensions)
    assert (found.factor, found.weight_decay) == (pytest.approx(rates.factor), rates.weight_decay)


def test_without_groups_matrices_decay() -> None:
    plain = GroupRates(1e-3, 0.1, ())
    assert plain.of("a", 2) == TensorRates(1.0, 0.1) and plain.of("a", 1) == TensorRates(1.0, 0.0)
