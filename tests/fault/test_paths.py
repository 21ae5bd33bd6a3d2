"""Which paths are tried, and what is said of all results together."""

from __future__ import annotations

import dataclasses

import pytest
from dougong.control.path_messages import CONTROLLER, Finding, PathEnd, PathResult
from dougong.deadlines import DEADLINES
from dougong.fault.paths import MOST_TOLD, PathFacts, judge_paths, paths_to_try

HEAD = "the machines do not reach each other as their workers must:"
SILENT = "port 40000 did not answer within 2 s (fault.deadlines.path_s)"


def ends(*machines: int, mtu: int | None = 1500, are_chosen: bool = False) -> dict[str, PathEnd]:
    """An agent on each machine, and the controller on node 0."""
    ports = (20000, 20100) if are_chosen else (32768, 60999)
    found = {}
    for number in machines:
        name, host = f"agent{number}", f"10.0.0.{number + 1}"
        found[name] = PathEnd(name, f"node{number}", host, 40000, "eth0", mtu, ports, are_chosen)
    found[CONTROLLER] = PathEnd(CONTROLLER, "node0", "10.0.0.1", 40000, "eth0", mtu, ports, are_chosen)
    return found


def tried(
    known: dict[str, PathEnd], *closed: tuple[int, int], finding: Finding = "silent", text: str = "timed out"
) -> dict[str, list[PathResult]]:
    """All pairs pass but those from and to these machines."""
    results = {}
    for name, source in known.items():
        results[name] = []
        for other, target in known.items():
            pair = (int(source.machine[-1]), int(target.machine[-1]))
            if name != other:
                is_closed = pair in closed
                result = PathResult(other, 40000, finding if is_closed else "passes", text if is_closed else "")
                results[name].append(result)
    return results


def judged(known: dict[str, PathEnd], *closed: tuple[int, int], finding: Finding = "silent", text: str = "x") -> str:
    said = judge_paths(known, tried(known, *closed, finding=finding, text=text), (), DEADLINES)
    assert said is not None and said.startswith(HEAD)
    return said.removeprefix(HEAD + "\n")


def test_every_ordered_pair_is_tried_and_the_controllers_machine_is_one_more() -> None:
    wanted = paths_to_try(("a", "b", "c"), {"a", "b", "c"})
    assert wanted == {
        "a": ("b", "c", CONTROLLER), "b": ("c", CONTROLLER, "a"), "c": (CONTROLLER, "a", "b"),
        CONTROLLER: ("a", "b", "c"),
    }  # fmt: skip


def test_in_a_recovery_only_pairs_with_a_new_agent_are_tried() -> None:
    wanted = paths_to_try(("a", "b", "c"), {"c"})
    assert wanted == {"a": ("c",), "b": ("c",), "c": (CONTROLLER, "a", "b"), CONTROLLER: ("c",)}


def test_paths_that_pass_are_no_error() -> None:
    known = ends(0, 1, 2)
    assert judge_paths(known, tried(known), (), DEADLINES) is None


def test_two_machines_that_are_closed_to_one_another_are_one_sentence() -> None:
    assert judged(ends(0, 1, 2), (1, 2), (2, 1)) == (
        f"  node1 (10.0.0.2) and node2 (10.0.0.3) are closed to one another, both ways: {SILENT}\n"
        "open TCP ports 32768-60999 of node2 (10.0.0.3) to 10.0.0.2; TCP ports 32768-60999 of node1 (10.0.0.2) to "
        "10.0.0.3: a firewall is in between (workers listen on ports that the system chooses, "
        "net.ipv4.ip_local_port_range); or open fewer, the same on every machine, and name them in the job file: "
        "`ports: 20000-20100`"
    )


def test_one_direction_is_told_as_one() -> None:
    assert judged(ends(0, 1, 2, are_chosen=True), (1, 2), finding="refused") == (
        "  node1 (10.0.0.2) does not reach node2 (10.0.0.3), though node2 (10.0.0.3) reaches node1 (10.0.0.2): port "
        "40000 refused the connection\n"
        "open TCP ports 20000-20100 of node2 (10.0.0.3) to 10.0.0.2 (`ports` in the job file): a firewall is in between"
    )


def test_a_machine_that_nobody_reaches_is_one_sentence() -> None:
    said = judged(ends(0, 1, 2, 3), (0, 2), (1, 2), (3, 2)).splitlines()
    assert said[0] == f"  node2 (10.0.0.3) is reached by nobody: {SILENT}"
    assert said[1].startswith("open TCP ports 32768-60999 of node2 (10.0.0.3) to 10.0.0.1, 10.0.0.2, 10.0.0.4: a fire")
    assert len(said) == 2


def test_a_machine_that_reaches_nobody_is_one_sentence() -> None:
    said = judged(ends(0, 1, 2), (2, 0), (2, 1), finding="unreachable", text="no route to host")
    assert said.splitlines()[0] == "  node2 (10.0.0.3) reaches nobody: port 40000: no route to host"


def test_a_machine_that_is_closed_both_ways_is_told_so() -> None:
    said = judged(ends(0, 1, 2), (2, 0), (2, 1), (0, 2), (1, 2)).splitlines()
    assert said[0] == f"  node2 (10.0.0.3) is reached by nobody: {SILENT}"
    assert said[1] == f"  node2 (10.0.0.3) reaches nobody: {SILENT}"
    assert said[2].startswith("open TCP ports") and len(said) == 3


def test_a_flood_is_summed_up() -> None:
    numbers = range(8)
    known = ends(*numbers)
    every = [(a, b) for a in numbers for b in numbers if a < b]
    lines = judged(known, *every, finding="unanswered").splitlines()
    assert lines[-2] == "  and 11 more of the kind" and len(lines) == MOST_TOLD + 2


def test_a_network_that_drops_large_packets_is_told_with_what_to_set() -> None:
    assert judged(ends(0, 1, 2, mtu=9000), (1, 2), (2, 1), finding="too_large") == (
        "  node1 (10.0.0.2, eth0, MTU 9000) and node2 (10.0.0.3, eth0, MTU 9000): a small message passes, and 64 KiB "
        "do not within 2 s (fault.deadlines.path_s)\n"
        "the network between them drops packets as large as their MTU allows: `ip link set dev eth0 mtu 1500` on "
        "node1, `ip link set dev eth0 mtu 1500` on node2; or set on the switch what the machines have; on a slow "
        "network raise fault.deadlines.path_s instead"
    )
    tunnel = judged(ends(0, 1), (0, 1), finding="too_large")
    assert "node0 (10.0.0.1, eth0, MTU 1500) to node1" in tunnel and "mtu 1280` on node0" in tunnel
    assert "interface not known, MTU not known" in judge_paths(
        {n: PathEnd(n, f"node{i}", f"10.0.0.{i}", 1, None, None, (1, 2)) for i, n in enumerate(("a", "b"))},
        {"a": [PathResult("b", 1, "too_large")]}, (), DEADLINES,
    )  # type: ignore[operator]  # fmt: skip


def test_somebody_elses_listener_is_told_as_such() -> None:
    said = judged(ends(0, 1), (0, 1), finding="stranger", text="it does not know this run's token")
    assert said.startswith("  node0 (10.0.0.1) finds somebody else at 10.0.0.2:40000, where node1 should be: it does")
    assert "GLOO_SOCKET_IFNAME" in said


def test_two_machines_with_one_address_reach_only_themselves() -> None:
    """docker's bridge: no port is to be opened there."""
    known = {}
    for name in ("agent0", "agent1"):
        known[name] = dataclasses.replace(ends(0, 1)[name], host="172.17.0.1")
    said = judged(known, (0, 1), (1, 0), finding="refused", text="")
    own = "finds somebody else at 172.17.0.1:40000, where node1 should be: it has that address itself"
    assert f"node0 (172.17.0.1) {own}" in said and "GLOO_SOCKET_IFNAME" in said
    assert "firewall" not in said


def test_who_has_not_answered_is_named_beside_what_is_known() -> None:
    known = ends(0, 1)
    said = judge_paths(known, {}, ("agent1", CONTROLLER), DEADLINES)
    assert said == (
        f"{HEAD}\nagent1 on node1 (10.0.0.2) has not said what it found\n"
        "the controller on node0 (10.0.0.1) has not said what it found"
    )


def test_of_many_machines_the_first_are_named() -> None:
    known = {f"agent{i}": PathEnd(f"agent{i}", f"node{i}", f"10.0.0.{i}", 1, "eth0", 1500, (1, 2)) for i in range(300)}
    found = {name: [PathResult("agent7", 1, "silent")] for name in known if name != "agent7"}
    said = str(judge_paths(known, found, sorted(known), DEADLINES)).splitlines()
    assert said[1].startswith("  node7 (10.0.0.7) is reached by nobody") and "and 293 more: a firewall" in said[2]
    assert said[-1] == "and 294 more of the kind" and len(said) == MOST_TOLD + 4


@pytest.mark.parametrize("gone", ["agent1", CONTROLLER])
def test_an_end_that_is_gone_meanwhile_is_no_closed_path(gone: str) -> None:
    known = ends(0, 1)
    results = tried(known, (0, 1), (1, 0))
    del known[gone]
    said = judge_paths(known, results, (), DEADLINES)
    assert said is None if gone == "agent1" else "closed to one another" in str(said)


def test_facts_know_one_round_and_who_is_missing_of_those_that_are_there() -> None:
    facts = PathFacts()
    facts.begin(2, ("agent0", "agent1", CONTROLLER))
    facts.note(1, "agent0", (PathResult("agent1", 1, "silent"),))
    known = {name: end for name, end in ends(0, 1).items() if name != CONTROLLER}
    assert facts.missing(known) == ("agent0", "agent1", CONTROLLER)
    facts.note(2, "agent0", ())
    del known["agent1"]
    assert facts.missing(known) == (CONTROLLER,)
    facts.note(2, CONTROLLER, ())
    assert facts.missing(known) == ()
