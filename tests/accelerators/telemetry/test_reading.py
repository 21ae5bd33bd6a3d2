"""What devices say: counters from the first look on, and codes that nobody knows."""

import dataclasses

import pytest
from dougong.accelerators.telemetry.reading import DeviceFault, DeviceReading, ErrorCounts, Telemetry, fault_of


def test_a_counter_begins_with_the_first_look() -> None:
    """It may have counted for years. One that is smaller was set back, by a reset."""
    counts = ErrorCounts(40, 1000)
    assert counts.since(40, 1000) == (0, 0)
    assert counts.since(42, 1001) == (2, 1)
    assert counts.since(1, 0) == (0, 0)
    assert counts.since(2, 5) == (1, 5)


def test_a_code_that_is_not_known_is_told_and_nothing_follows() -> None:
    known = {7: DeviceFault("Code 7", "it is tired", "reset")}
    assert str(fault_of(7, "Code", known)) == "Code 7 (it is tired)"
    assert (str(fault_of(8, "Code", known)), fault_of(8, "Code", known).consequence) == ("Code 8", "note")


def test_a_reading_is_a_value() -> None:
    assert DeviceReading(0, "k") == DeviceReading(0, "k")
    with pytest.raises(dataclasses.FrozenInstanceError):
        DeviceReading(0, "k").number = 1  # type: ignore[misc]


def test_to_let_go_is_nothing_where_nothing_is_held() -> None:
    class Own(Telemetry):
        def read(self, wait_s: float) -> tuple[DeviceReading, ...]:
            return (DeviceReading(0, "k"),)

    own = Own()
    assert own.read(0.0) == (DeviceReading(0, "k"),)
    own.close()
