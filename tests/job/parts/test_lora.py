"""The keys of `model.lora`."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.job.parts.lora import ATTENTION_AND_EXPERTS, Lora
from pydantic import ValidationError


def test_defaults_come_back_as_defaults_from_another_process() -> None:
    lora = Lora.model_validate_json(Lora().model_dump_json())
    assert lora == Lora() and lora.targets == ATTENTION_AND_EXPERTS


@pytest.mark.parametrize("values", [{"rank": 0}, {"alpha": 0.0}, {"alpha": float("nan")}, {"dropout": 0.1}])
def test_what_makes_no_adapter_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Lora(**values)
