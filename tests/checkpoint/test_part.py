"""A part crosses from worker to controller as JSON and is the same there."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from dougong.checkpoint.manifest import Entry, FileRecord, ModelTensors
from dougong.checkpoint.part import CheckpointPart, ModelDescription, StateShape

ENTRY = Entry("model", "w", 3, 64, 16, "F32", (4,), "aa")
PART = CheckpointPart(
    worker="east/0",
    rank=0,
    generation=2,
    step=40,
    directory="step-000040.g2",
    files={"model/x.safetensors": FileRecord(80, None, (64, "bb"), (ENTRY,)), "model/a": FileRecord(2, "cc")},
    state=(StateShape("model", "w[3]", (4,)), StateShape("exp_avg", "scalar", ())),
)
MODEL = ModelDescription(ModelTensors({"v": (2, 3)}, {"w": (8, 4)}), {"config.json": "{}\n"}, ("v",))


@pytest.mark.parametrize(
    "part", [PART, replace(PART, model=MODEL), replace(PART, ledger="dd"), replace(PART, files={})]
)
def test_a_part_is_read_back_as_it_was(part: CheckpointPart) -> None:
    assert CheckpointPart.from_json(json.loads(json.dumps(part.to_json()))) == part


def test_a_shared_file_may_come_without_its_header() -> None:
    part = replace(PART, files={"model/experts.safetensors": FileRecord(80, None, None, (ENTRY,))})
    assert CheckpointPart.from_json(part.to_json()).files["model/experts.safetensors"].header is None
