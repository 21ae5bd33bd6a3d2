"""A model in two places: the same segments, and the first that departs is named (`test_defects.py` on a device)."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.accelerators.cpu import Cpu
from dougong.conform.check import CPU, Bed, outcome_of
from dougong.conform.record import CheckOutcome
from dougong.conform.steps.segments import segment_checks
from tests.families import FAMILIES
from tests.folders import small_folder


def tried(model: str) -> CheckOutcome:
    (check,) = segment_checks()
    return outcome_of(check, Bed(Cpu(), CPU, Path(), model=model))


def test_segments_lie_between_experts_forward_and_back() -> None:
    outcome = tried("deepseek_v3")
    assert outcome.grade == "sound", outcome.words
    names = [segment.name for segment in outcome.segments]
    sites = [f"model.layers.{layer}.mlp.experts" for layer in (1, 2)]
    assert names == [
        f"segment 0 (before {sites[0]})",
        f"experts of {sites[0]}",
        f"segment 1 (before {sites[1]})",
        f"experts of {sites[1]}",
        f"segment 2 (after {sites[1]}, with the loss)",
        f"segment 2 (after {sites[1]}, with the loss), backward",
        f"experts of {sites[1]}, backward",
        f"segment 1 (before {sites[1]}), backward",
        f"experts of {sites[0]}, backward",
        f"segment 0 (before {sites[0]}), backward",
    ]
    assert not any(segment.error or segment.departs for segment in outcome.segments)


@pytest.mark.slow
def test_a_folder_is_tried_with_its_own_weights(tmp_path: Path) -> None:
    outcome = tried(str(small_folder(tmp_path / "model")))
    assert outcome.grade == "sound", outcome.words
    assert len(outcome.segments) > 4


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_sound_on_the_processor(family: str) -> None:
    outcome = tried(family)
    assert outcome.grade == "sound", outcome.words
