"""An agent's line to who reads its devices: heard, held to a deadline, begun anew, and never waited for."""

from __future__ import annotations

import contextlib
import dataclasses
import selectors
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dougong.accelerators.telemetry.reading import DeviceFault
from dougong.control.messages import DevicesRead
from dougong.deadlines import DEADLINES, Deadlines
from dougong.launcher.agent.device_line import DeviceLine
from tests.accelerators.pretended import NAME, PretendedDevices, offer

QUICK = dataclasses.replace(DEADLINES, telemetry_retry_s=0.2)
IMPATIENT = dataclasses.replace(QUICK, telemetry_start_s=4.0)
LIMIT_S = 60.0


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretendedDevices:
    made = offer(tmp_path / "installed", count=2)
    monkeypatch.syspath_prepend(made.folder)
    return made


class Agent:
    """As much of one as this line needs."""

    def __init__(self, kind: str, deadlines: Deadlines, variables: dict[str, str]) -> None:
        self.told: list[DevicesRead] = []
        self.selector = selectors.DefaultSelector()
        self.line = DeviceLine(kind, variables, self.selector, self.told.append, deadlines)

    def run(self, until: Callable[[], object]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not until():
            assert time.monotonic() < deadline, f"not within {LIMIT_S} s; told last: {self.told[-3:]}"
            self.line.tick(time.monotonic())
            if self.selector.get_map():
                for key, _ in self.selector.select(0.05):
                    key.data()
            else:
                time.sleep(0.05)

    @property
    def problems(self) -> list[str]:
        return [one.problem for one in self.told if one.problem]


@contextlib.contextmanager
def agent(kind: str = NAME, deadlines: Deadlines = QUICK, **variables: str) -> Iterator[Agent]:
    made = Agent(kind, deadlines, variables)
    try:
        yield made
    finally:
        made.line.close()
        made.selector.close()


def test_what_devices_tell_arrives(devices: PretendedDevices) -> None:
    fault, name = DeviceFault("Code 7", "it is tired", "reset"), f"{NAME}:0"
    with agent(PRETENDED_VISIBLE_DEVICES="1") as made:
        made.run(lambda: made.told)
        assert {device: reading.key for device, reading in made.told[0].readings.items()} == {name: "PRE-1"}
        devices.say(1, fault)
        made.run(lambda: made.told[-1].readings[name].faults == (fault,))


def test_a_driver_that_hangs_is_given_up_and_asked_again(devices: PretendedDevices) -> None:
    devices.mark("hangs")
    with agent(deadlines=IMPATIENT) as made:
        made.run(lambda: made.problems)
        assert made.problems == ["nothing from its driver for 4 s"]
        devices.mend("hangs")
        made.run(lambda: made.told[-1].readings)  # by another one


def test_a_reader_that_dies_or_is_refused_is_begun_anew(devices: PretendedDevices) -> None:
    devices.mark("dies", "refuses")
    with agent() as made:
        made.run(lambda: len(made.problems) > 1)
        assert set(made.problems) == {"no driver is there"}
        devices.mend("refuses")
        devices.mend("dies")
        made.run(lambda: made.told[-1].readings)


def test_where_nothing_is_read_nobody_is_begun_a_second_time() -> None:
    with agent("cpu") as made:
        made.run(lambda: made.selector.get_map())
        made.run(lambda: not made.selector.get_map())
        begun = time.monotonic()
        made.run(lambda: time.monotonic() > begun + 3 * QUICK.telemetry_retry_s)
        assert not made.selector.get_map() and made.told == []
