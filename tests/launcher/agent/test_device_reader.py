"""The process that reads devices: by the names that workers have for them."""

from __future__ import annotations

import socket

import pytest
from dougong.accelerators.cuda import Cuda
from dougong.accelerators.telemetry.reading import DeviceReading, Telemetry
from dougong.control.messages import DevicesRead
from dougong.launcher.agent.device_reader import main, read_once


class Four(Telemetry):
    """A machine of four devices that are well."""

    def read(self, wait_s: float) -> tuple[DeviceReading, ...]:
        return tuple(DeviceReading(number, f"GPU-{number}") for number in range(4))


@pytest.mark.parametrize(
    ("visible", "keys"),
    [
        (None, ["GPU-0", "GPU-1", "GPU-2", "GPU-3"]),
        ("3,1", ["GPU-3", "GPU-1"]),
        ("GPU-2,0", ["GPU-2", "GPU-0"]),
        ("1,9,2", ["GPU-1"]),
        ("", []),
    ],
)
def test_devices_are_named_as_workers_know_them(
    visible: str | None, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    read = read_once(Cuda(), Four(), 0.0)
    assert {name: reading.key for name, reading in read.readings.items()} == {
        f"cuda:{number}": key for number, key in enumerate(keys)
    }
    assert read == DevicesRead(read.readings)


def test_it_ends_where_there_is_nothing_to_read_and_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dougong.launcher.agent.device_reader.die_with_parent", lambda parent: None)
    monkeypatch.setattr("dougong.launcher.agent.device_reader.title_process", lambda title: None)
    ours, theirs = socket.socketpair()
    assert main(["cpu", str(theirs.detach()), "1"]) == 0
    ours.close()
