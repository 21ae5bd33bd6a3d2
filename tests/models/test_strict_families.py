"""Every family trains while torch's determinism is strict: none needs an operator without a deterministic form here."""

from __future__ import annotations

import pytest
import torch
from tests.families import FAMILIES, tiny_config

QUICK = ("qwen3_next",)


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
