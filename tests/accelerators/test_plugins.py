"""Inside, no vendor's plug-in is there; what was there before, or is imported afterwards, is as it was."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types

import pytest
from dougong.accelerators.npu import Npu
from dougong.accelerators.plugins import without_plugins
from dougong.accelerators.vendors import Mlu


def test_a_plug_in_is_as_good_as_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = types.ModuleType(Mlu.plugin)
    monkeypatch.setitem(sys.modules, Mlu.plugin, loaded)
    monkeypatch.delitem(sys.modules, Npu.plugin, raising=False)
    with without_plugins():
        assert importlib.util.find_spec(Npu.plugin) is None
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(Npu.plugin)
        assert importlib.import_module(Mlu.plugin) is loaded
    assert Npu.plugin not in sys.modules
    assert sys.modules[Mlu.plugin] is loaded


def test_it_is_there_again_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, Npu.plugin, raising=False)
    with pytest.raises(ModuleNotFoundError, match="halted"), without_plugins():
        importlib.import_module(Npu.plugin)
    assert Npu.plugin not in sys.modules
