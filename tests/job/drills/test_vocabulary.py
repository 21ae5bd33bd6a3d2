"""The table of faults: whole, and of one mind with those who score against it."""

from __future__ import annotations

import typing
from collections import Counter

import pytest
from dougong.fault.diagnosis import FailureKind
from dougong.job.drills.vocabulary import FAULTS, NamedFault, Target, continuing, known_fault, lasts, orderable

LATER = {"partition", "slow", "corruption"}
KINDS = {*typing.get_args(FailureKind), *LATER}
CULPRITS = {*typing.get_args(Target), "device", "workers"}


def test_there_are_many_and_each_has_its_own_name() -> None:
    assert len(FAULTS) >= 30
    assert max(Counter(fault.name for fault in FAULTS).values()) == 1
    assert [known_fault(fault.name) for fault in FAULTS] == list(FAULTS)
    assert known_fault("nothing") is None


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_row_is_whole(fault: NamedFault) -> None:
    """It names what a diagnosis must give, and says why a job file cannot order it."""
    assert fault.does and {fault.kind, fault.or_kind} <= {"", *KINDS} and set(fault.culprits) <= CULPRITS
    assert bool(fault.kind) == bool(fault.culprits)
    assert fault.kind or not fault.must_be_named
    assert not (fault.needs and not fault.refusal), "what needs root is refused to a job file"
    assert all(known_fault(part) for part in fault.parts) and len(fault.parts) in (0, 2)


def test_agents_fork_servers_nodes_and_links_are_culprits_of_their_own() -> None:
    for fault in FAULTS:
        if fault.target in ("agent", "fork_server", "node", "link"):
            assert "worker" not in fault.culprits, fault.name


def test_schedules_draw_what_goes_on_to_the_same_bits() -> None:
    drawn = {fault.name for fault in continuing()}
    assert {"kill", "stop", "kill_agent", "pull_cable", "freeze_all_15", "kill+kill"} <= drawn
    assert {"flip_weight", "flip_moment", "flip_message"} <= drawn, "each is compared with its copy"
    assert "nan" in drawn and not drawn & {"flip_activation", "flip_gradient"}


def test_a_job_file_may_order_what_a_process_does_to_itself() -> None:
    names = {fault.name for fault in orderable()}
    assert {"kill", "segfault", "stop", "hold_interpreter", "notice", "kill_agent", "kill_fork_server"} <= names
    assert not names & {"kill_node", "kill_raylet", "oom_kill", "flip_activation", "kill+kill"}


@pytest.mark.parametrize(("name", "answer"), [("stop", True), ("pause", True), ("kill", False), ("nothing", False)])
def test_what_lasts(name: str, answer: bool) -> None:
    assert lasts(name) is answer
