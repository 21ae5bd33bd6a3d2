"""What every kind of device shares."""

import pytest
from dougong.accelerators.base import thread_environment, visible_count


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        (None, 4),
        ("", 0),
        ("-1", 0),
        ("2", 1),
        ("3,0", 2),
        (" 0 , 1 ", 2),
        ("0,7,1", 1),
        ("0,-1,1", 1),
        ("GPU-1f2e,GPU-77", 2),
        ("0,1,2,3,0,1", 4),
    ],
)
def test_visible_devices_narrow_what_is_found(visible: str | None, count: int) -> None:
    assert visible_count(4, visible) == count


def test_threads_are_fixed_in_every_library() -> None:
    environment = thread_environment(3)
    assert {environment[f"{library}_NUM_THREADS"] for library in ("OMP", "MKL")} == {"3"}
    assert {environment[f"{library}_DYNAMIC"] for library in ("OMP", "MKL")} == {"FALSE"}
    assert environment["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"
