"""Speeds of an island."""

import pytest
from dougong.job.parts.rates import Rates
from pydantic import ValidationError


def test_one_in_both_where_nothing_is_said() -> None:
    assert Rates() == Rates(attention=1.0, experts=1.0)


@pytest.mark.parametrize("wrong", [0.0, -1.0, "fast"])
def test_a_rate_is_above_zero(wrong: object) -> None:
    with pytest.raises(ValidationError):
        Rates.model_validate({"experts": wrong})
