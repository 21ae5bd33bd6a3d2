"""Packages that offer bridges, as pip leaves them behind."""

from __future__ import annotations

from pathlib import Path

import pytest

SOURCE = """
from dougong.parallel.bridge.base import Bridge
from dougong.parallel.bridge.host import HostBridge

class Toy(HostBridge):
    name = 'toy'

    def joins(self, one, other):
        return 'cpu' not in (one, other)

class Shy(Toy):
    def joins(self, one, other):
        return False

class Rude(Toy):
    def joins(self, one, other):
        raise OSError('no libtoy.so')

class Half(Bridge):
    name = 'toy'
"""


def offer_bridge(folder: Path, monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    """As many packages, each with the bridge `toy` at one of these places."""
    (folder / "toy_bridge.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(folder))
    for number, value in enumerate(values):
        info = folder / f"toy_{number}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: toy-{number}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[dougong.bridges]\ntoy = {value}\n")
