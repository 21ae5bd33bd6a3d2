"""Every family trains while torch's determinism is strict: none needs an operator without a deterministic form here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from dougong.accelerators.base import switch_on_determinism
from tests.families import FAMILIES, tiny_config

QUICK = ("qwen3_next",)


@pytest.fixture
def strict() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    switch_on_determinism()
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in (*FAMILIES, "zaya")],
)
@pytest.mark.usefixtures("strict")
def test_a_family_trains_strictly(family: str) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(tiny_config(family)).train()
    ids = torch.arange(48).view(2, 24) % 250 + 3
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    assert torch.isfinite(loss)
