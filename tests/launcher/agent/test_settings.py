"""An agent's settings survive the way to its process."""

from __future__ import annotations

import dataclasses
import json

import pytest
from dougong.deadlines import DEADLINES
from dougong.launcher.agent.settings import AgentSettings
from pydantic import ValidationError

SETTINGS = AgentSettings(
    name="east",
    island="east",
    accelerator="cuda",
    threads=4,
    deterministic=True,
    controller=("10.0.0.1", 4000),
    token="secret",
    run_dir="/runs/toy",
    preload=("a.module", "b.module"),
    cwd="/home/somebody",
    deadlines=dataclasses.replace(DEADLINES, controller_silence_s=7.5),
)


@pytest.mark.parametrize("parent", [None, 4711])
def test_settings_survive(parent: int | None) -> None:
    settings = dataclasses.replace(SETTINGS, parent=parent)
    text = settings.to_json()
    assert "\n" not in text
    assert AgentSettings.from_json(text) == settings


def test_what_is_no_setting_is_refused() -> None:
    fields = json.loads(SETTINGS.to_json())
    with pytest.raises(ValidationError, match="threads"):
        AgentSettings.from_json(json.dumps({**fields, "threads": "many"}))
