"""Several refused rows at once."""

from __future__ import annotations

import pytest
from dougong.data.chats.faults import Faults
from dougong.errors import DataError


def test_one_fault_is_itself_and_several_name_their_places() -> None:
    faults = Faults()
    faults.check()
    faults.add("a: line 1", DataError("a: line 1: no"))
    with pytest.raises(DataError, match="^a: line 1: no$"):
        faults.check()
    for number in range(2, 9):
        faults.add(f"a: line {number}", DataError("no"))
    places = r"a: line 2, a: line 3, a: line 4, a: line 5, \.\.\."
    shown = rf"^a: line 1: no -- and 7 more rows are refused \({places}\); the other"
    with pytest.raises(DataError, match=shown):
        faults.check()


def test_many_faults_end_the_look() -> None:
    faults = Faults()
    for number in range(19):
        faults.add(f"a: line {number}", DataError("no"))
    with pytest.raises(DataError, match="and 19 more rows are refused .* it may be that no row is good"):
        faults.add("a: line 19", DataError("no"))
