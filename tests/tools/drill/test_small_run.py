"""Which faults a run of the small job orders itself, and which come from outside; `test_proof` runs it."""

from __future__ import annotations

import pytest
from dougong.tools.drill.schedule import PlannedFault
from dougong.tools.drill.small_run import comes_from_outside, takes_audit, takes_hosts


@pytest.mark.parametrize(
    ("fault", "outside", "hosts"),
    [
        (PlannedFault("kill", "both/0", at_step=5), False, False),
        (PlannedFault("kill_controller", "", at_step=5), False, False),
        (PlannedFault("kill", "both/0", after_s=1.0), True, False),
        (PlannedFault("oom_kill", "both/0", at_step=5), True, False),
        (PlannedFault("flip_gradient", "both/0", at_step=5), True, False),
        (PlannedFault("kill_node", "both/0", at_step=5), True, True),
        (PlannedFault("freeze_all_5", "both/0", at_step=5, for_s=5.0), True, True),
    ],
)
def test_what_the_job_file_cannot_order_comes_from_outside(fault: PlannedFault, outside: bool, hosts: bool) -> None:
    assert (comes_from_outside(fault), takes_hosts([fault])) == (outside, hosts)
    assert takes_hosts([PlannedFault("stop", "both/0", at_step=3), fault]) is hosts


def test_only_what_is_computed_wrongly_takes_an_audit() -> None:
    assert takes_audit([PlannedFault("flip_activation", "both/0", at_step=5)])
    assert not takes_audit([PlannedFault("flip_weight", "both/0", at_step=5), PlannedFault("kill", "both/0")])
