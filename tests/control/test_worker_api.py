"""What a worker's code is given."""

from __future__ import annotations

from dougong.control.worker_api import Kept


def test_a_process_keeps_one_value_of_a_class() -> None:
    kept = Kept()
    assert kept.get(int) is None
    kept.keep(3)
    kept.keep("three")
    kept.keep(4)
    assert (kept.get(int), kept.get(str)) == (4, "three")
    kept.drop(int)
    kept.drop(int)
    assert kept.get(int) is None
