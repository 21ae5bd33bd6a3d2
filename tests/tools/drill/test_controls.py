"""What the proof says was not there is found where it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.tools.drill.controls import Controls
from dougong.tools.drill.leftovers import shared_memory, sockets_in


def test_what_is_left_on_purpose_is_found_and_is_gone_afterwards(tmp_path: Path) -> None:
    before, told = shared_memory(), list[str]()
    found = list(Controls(tmp_path, tell=told.append).of_leftovers())
    assert all(control.is_found for control in found), "\n".join(map(str, found))
    names = [control.name for control in found]
    assert names[:3] == ["process", "socket", "shared memory"] and len(names) + len(told) == 4
    assert str(found[0]).startswith("process: a process of the run lives on: found: process ")
    assert not sockets_in(tmp_path) and not [name for name in shared_memory() - before if "control" in name]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_flipped_bit_a_lost_sample_a_hang_and_a_wrong_name_are_found(tmp_path: Path) -> None:
    found = list(Controls(tmp_path).all())
    assert all(control.is_found for control in found), "\n".join(map(str, found))
    assert {control.name for control in found} >= {"bits", "name", "samples", "hang"}
    assert not list(tmp_path.glob("control-*")), "what was made on purpose is cleared away"
