"""A configuration comes back as it was, or is refused."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from dougong.errors import ModelError
from dougong.job.schema import Job, Model
from dougong.job.settled import settle
from dougong.models.configs.load import load_config
from dougong.models.configs.settled import changed_keys, class_of, config_from, config_values
from tests.families import FAMILIES
from tests.families import config_values as family_values
from tests.launcher.toyrun import toy_job


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_back_with_every_value(family: str) -> None:
    config = load_config(Model(family=family, config=family_values(family)), 256)
    again = config_from(config_values(config), class_of(config))
    assert type(again) is type(config)
    assert config_values(again) == config_values(config)


def test_of_a_settled_model_nothing_else_is_read() -> None:
    config = load_config(Model(family="qwen3_moe", config=family_values("qwen3_moe")), 256)
    job = Job.model_validate(toy_job(model={"path": "/gone"}))
    settled = settle(job, config_values(config), class_of(config), None)
    assert config_values(load_config(settled.model, None)) == config_values(config)


def test_another_reader_is_refused() -> None:
    config = load_config(Model(family="qwen3_moe", config=family_values("qwen3_moe")), 256)
    values = config_values(config)
    with pytest.raises(ModelError, match="cannot be read by the transformers that is installed"):
        config_from(values, "transformers.models.nowhere.Config")
    # A key that this release gives back under another value.
    with pytest.raises(ModelError, match='read otherwise .*model_type: "other" then, "qwen3_moe" now'):
        config_from({**values, "model_type": "other"}, class_of(config))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"eps": 1e-6}, {"eps": 0.5}, ["eps: 1e-06 then, 0.5 now"]),
        ({"a": None}, {}, ["a: null then, absent now"]),
        ({}, {"a": [1]}, ["a: absent then, [1] now"]),
        ({"rope": {"theta": 1, "type": "x"}}, {"rope": {"theta": 2, "type": "x"}}, ["rope.theta: 1 then, 2 now"]),
    ],
)
def test_what_differs_is_named(before: dict[str, Any], after: dict[str, Any], expected: list[str]) -> None:
    assert changed_keys(before, after) == expected


@pytest.mark.parametrize("name", ["os.path", "antigravity.Config", "transformers_of_somebody.Config"])
def test_a_record_that_was_changed_has_no_other_code_loaded(name: str) -> None:
    with pytest.raises(ModelError, match="is no class of transformers; sources.json of the run was changed"):
        config_from({}, name)
    assert name.partition(".")[0] not in sys.modules or name == "os.path"
