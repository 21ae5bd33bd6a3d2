"""`islands.*.emulate`: times above zero; a link is as fast as it is where nothing is said."""

from __future__ import annotations

import pytest
from dougong.job.emulate.emulation import Emulate, Link
from pydantic import ValidationError


def test_a_link_is_as_it_is_by_default() -> None:
    assert Emulate(attention_ms=1.0, expert_ms_per_1k_tokens=2.0).link == Link(bandwidth_mb_s=None, latency_ms=0.0)


@pytest.mark.parametrize("key", ["attention_ms", "expert_ms_per_1k_tokens"])
def test_a_time_is_above_zero(key: str) -> None:
    with pytest.raises(ValidationError):
        Emulate.model_validate({"attention_ms": 1.0, "expert_ms_per_1k_tokens": 1.0, key: 0.0})
