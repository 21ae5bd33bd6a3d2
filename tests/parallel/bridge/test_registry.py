"""Names to bridges, dougong's own and those that another package offers."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.errors import DeviceError, PlanError
from dougong.parallel.bridge.choice import Shore, choose_paths
from dougong.parallel.bridge.registry import get_bridge
from tests.parallel.bridge.packages import offer_bridge

CUDA, NPU = Shore("east", "cuda", False, True), Shore("west", "npu", False, True)


def test_the_hosts_goes_everywhere() -> None:
    assert get_bridge("host").name == "host" and get_bridge("host").joins("cuda", "anything")


def test_a_package_can_add_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_bridge(tmp_path, monkeypatch, "toy_bridge:Toy")
    assert get_bridge("toy").joins("cuda", "npu")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "bridge toy: not known; known are auto, host"),
        (["toy_bridge:Toy"] * 2, "offered by 2 packages; uninstall all but one"),
        (["toy_bridge:Missing"], r"toy_bridge:Missing does not load \(AttributeError.*or set bridge: host"),
        (["no_such_module:Toy"], r"does not load \(ModuleNotFoundError: .*no_such_module"),
        (["toy_bridge:Half"], "toy_bridge:Half is not whole: .*abstract.*; see docs/design/bridge.md"),
        (["pathlib:Path"], "not a subclass of dougong.parallel.bridge.base.Bridge"),
    ],
)
def test_refusals(values: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_bridge(tmp_path, monkeypatch, *values)
    with pytest.raises(DeviceError, match=message) as raised:
        get_bridge("toy")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("toy_bridge:Shy", PlanError, r"bridge: toy does not join east \(cuda\) and west \(npu\); set bridge: auto"),
        ("toy_bridge:Rude", DeviceError, r"does not say whether it joins cuda and npu \(OSError: no libtoy.so\)"),
        ("toy_bridge:Missing", DeviceError, "does not load"),
    ],
)
def test_a_bridge_that_cannot_join_these_islands(
    value: str, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named, it is refused; a job that names none goes through host memory."""
    offer_bridge(tmp_path, monkeypatch, value)
    with pytest.raises(error, match=message):
        choose_paths([CUDA, NPU], "toy")
    assert [path.name for path in choose_paths([CUDA, NPU], "auto")] == ["native", "host-staged", "native"]
