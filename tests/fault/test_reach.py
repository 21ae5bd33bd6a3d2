"""Stopped agent, dead machine, cut link: told apart by heartbeats, a connection, and who hears whom."""

from __future__ import annotations

import pytest
from dougong.control.path_messages import CONTROLLER, Hearing
from dougong.deadlines import DEADLINES
from dougong.fault.reach import AgentView, Reach
from dougong.fault.suspicion import Suspicion

NOW = 2.0
EAST, WEST, NORTH = AgentView("east", "n1"), AgentView("west", "n2"), AgentView("north", "n3")
HEARS_ALL = Hearing(("east", "west", "north", CONTROLLER))
DEAF = Hearing()


def mute(name: str, machine: str, answers: bool | None, seconds: float = NOW) -> AgentView:
    return AgentView(name, machine, seconds, answers)


def lost(*names: str) -> Hearing:
    return Hearing((), dict.fromkeys(names, NOW))


def look(agents: list[AgentView], hearings: dict[str, Hearing], still_s: float | None = NOW) -> tuple[Suspicion, ...]:
    return Reach(agents, hearings, "n0", still_s, DEADLINES).suspicions()


ROWS = {
    "all is well": ([EAST, WEST], {"east": HEARS_ALL, "west": HEARS_ALL}, []),
    "a heartbeat is late": ([EAST, mute("west", "n2", None, 0.3)], {"east": HEARS_ALL}, []),
    "not known yet what its machine says": ([EAST, mute("west", "n2", None, 0.6)], {"east": lost("west")}, []),
    "a stopped agent": (
        [EAST, mute("west", "n2", True)],
        {"east": lost("west"), CONTROLLER: lost("west")},
        [("agent west", "does not answer", ("west",))],
    ),
    "a machine that is gone": (
        [EAST, mute("west", "n2", False)],
        {"east": lost("west"), CONTROLLER: lost("west")},
        [("node n2", "nothing comes from it, and nothing reaches it", ("west",))],
    ),
    "a machine that is gone, where machines do not hear each other at all": (
        [EAST, mute("west", "n2", False)],
        {"east": DEAF, CONTROLLER: DEAF},
        [("node n2", "nothing comes from it, and nothing reaches it", ("west",))],
    ),
    "with two agents": (
        [EAST, mute("west", "n2", False), mute("south", "n2", False)],
        {"east": lost("west", "south")},
        [("node n2", "nothing comes from it, and nothing reaches it", ("west", "south"))],
    ),
    "a machine that others hear": (
        [EAST, mute("west", "n2", False)],
        {"east": HEARS_ALL, CONTROLLER: lost("west")},
        [("link n0 - n2", "n2 and n0 do not reach each other", ("west",))],
    ),
    "what is sent to a machine is dropped there": (
        [EAST, mute("west", "n2", False)],
        {"east": Hearing(("west",), {}, {"west": ("east", CONTROLLER)})},
        [("link n0 - n2", "what is sent to n2 is lost, what it sends arrives", ("west",))],
    ),
    "two machines do not reach each other": (
        [EAST, WEST, NORTH],
        {"east": lost("west"), "west": lost("east"), "north": HEARS_ALL},
        [("link n1 - n2", "n1 and n2 do not reach each other", ("west",))],
    ),
    "one way between two machines": (
        [EAST, WEST, NORTH],
        {"east": HEARS_ALL, "west": lost("east"), "north": HEARS_ALL},
        [("link n1 - n2", "what n1 sends does not reach n2", ("west",))],
    ),
    "one machine is cut off from two": (
        [EAST, WEST, NORTH],
        {"east": lost("west"), "west": lost("east", "north"), "north": lost("west")},
        [
            ("link n1 - n2", "n1 and n2 do not reach each other", ("west",)),
            ("link n2 - n3", "n2 and n3 do not reach each other", ("west",)),
        ],
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_what_is_suspected(row: str) -> None:
    agents, hearings, expected = ROWS[row]
    found = look(agents, hearings)
    assert [(str(one.culprit), one.why, one.agents) for one in found] == expected
    assert not any(one.is_due for one in found)


@pytest.mark.parametrize(
    ("answers", "silent_s", "still_s", "is_due"),
    [
        (False, 3.1, 3.0, True),
        (False, 2.9, 2.8, False),
        (True, 3.1, 3.0, True),
        # The others train with its workers: it holds nobody up, and may be on a slow disk.
        (True, 9.0, 0.1, False),
        (True, 10.1, 0.1, True),
        # Nobody's workers are seen: a machine that is there has an agent that is stopped, others may be cut off.
        (True, 3.1, None, True),
        (True, 2.9, None, False),
        (False, 9.0, None, False),
    ],
)
def test_how_long_an_agent_may_be_silent(answers: bool, silent_s: float, still_s: float | None, is_due: bool) -> None:
    (one,) = look([EAST, mute("west", "n2", answers, silent_s)], {"east": lost("west")}, still_s)
    assert one.is_due is is_due


@pytest.mark.parametrize(("still_s", "is_due"), [(0.1, False), (3.1, True)])
def test_a_cut_that_keeps_nobody_from_training_is_not_acted_on(still_s: float, is_due: bool) -> None:
    cut = Hearing((), {"west": 60.0})
    (one,) = look([EAST, WEST], {"east": cut, "west": HEARS_ALL}, still_s)
    assert one.is_due is is_due


def test_the_evidence_names_who_hears_whom() -> None:
    (one,) = look([EAST, mute("west", "n2", False)], {"east": lost("west")})
    assert one.evidence == (
        "no heartbeat of agent west for 2.0 s",
        "its machine takes no connection",
        "agent east has not heard it for 2.0 s",
    )
