"""Which bridges a job may name."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.bridge_names import bridge_names
from tests.parallel.bridge.packages import offer_bridge


def test_dougongs_own_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bridge_names() == ("auto", "host")
    offer_bridge(tmp_path, monkeypatch, "no_such_module:Toy")
    assert bridge_names() == ("auto", "host", "toy"), "no package is loaded"
