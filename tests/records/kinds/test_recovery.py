"""Events of a recovery come back from their lines."""

from __future__ import annotations

import pytest
from dougong.records.events import Event, from_json, to_json
from dougong.records.kinds.recovery import Recovered, StateRestored, SurvivorLost


@pytest.mark.parametrize(
    "event",
    [
        StateRestored(generation=2, step=7, tiers={"own": 3, "peer": 4}, seconds=0.5),
        SurvivorLost(generation=1, worker="east/1", failure="crash", cause="SIGKILL"),
        Recovered(
            generation=2,
            failed=1,
            noticed_s=0.0,
            decided_s=0.1,
            left_s=0.2,
            begun_s=0.2,
            first_step_s=0.5,
            kept=("a/0",),
        ),
    ],
)
def test_a_line_holds_all_of_it(event: Event) -> None:
    assert from_json(to_json(event)) == event
