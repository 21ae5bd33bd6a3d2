"""The schema by path."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.job.drills.drill import Drill
from dougong.job.lookup import field_at, places_of, section_at, value_at
from dougong.job.optimizers.adamw import AdamW
from dougong.job.parts.data import Validation
from dougong.job.schema import Batch, Island, Job
from dougong.job.yaml.locations import KeyPath


@pytest.mark.parametrize(
    ("path", "section"),
    [
        ((), Job),
        (("batch",), Batch),
        (("islands", 3), Island),
        (("data", "validation"), Validation),
        (("drill", 0), Drill),
        (("optimizer",), AdamW),
        (("model", "config", "rope"), None),
        (("nothing",), None),
    ],
)
def test_section_at(path: KeyPath, section: Any) -> None:
    assert section_at(path) is section


def test_an_item_is_described_with_its_list() -> None:
    assert field_at(("islands", 2)) is Job.model_fields["islands"]
    assert field_at(("optimizer", "betas", 1)) is AdamW.model_fields["betas"]
    assert field_at(("islands", 2, "workers")) is Island.model_fields["workers"]
    assert field_at(()) is None and field_at(("nothing", "at", "all")) is None


def test_what_the_user_has_written() -> None:
    data = {"islands": [{"name": "east"}]}
    assert value_at(("islands", 0, "name"), data) == "east"
    for path in (("islands", 1), ("islands", "east"), ("steps",), ("islands", 0, "name", "x")):
        assert value_at(path, data) is None


def test_places_of_a_key() -> None:
    assert places_of("lanes") == ["batch.lanes"]
    assert places_of("name") == ["optimizer.name", "schedule.name", "islands.name"]
    assert places_of("steps") == []
