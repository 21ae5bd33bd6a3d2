"""The keys of `data`."""

from __future__ import annotations

import pytest
from dougong.job.parts.data import Data
from pydantic import ValidationError


def test_packing_is_off_unless_it_is_asked_for() -> None:
    assert not Data(chat="a.jsonl").packing and Data(chat="a.jsonl", packing=True).packing


def test_a_word_is_no_yes() -> None:
    with pytest.raises(ValidationError):
        Data.model_validate({"chat": "a.jsonl", "packing": "yes"})
