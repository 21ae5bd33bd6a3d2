"""Judgements of interfaces, ports, paths and links, from made facts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dougong.control.path_messages import PathResult
from dougong.doctor.ask.demand import Demand
from dougong.doctor.ask.observations import Observations
from dougong.doctor.facts import LinkAnswer, Post
from dougong.doctor.judge.network import check_interfaces, check_links, check_paths, check_ports, culprits
from dougong.job.schema import Job
from tests.doctor.made import sound, title, with_facts
from tests.launcher.toyrun import toy_job


def with_network(name: str, **changes: object) -> Observations:
    seen = sound()
    return with_facts(seen, name, network=replace(seen.facts[name].network, **changes))


@pytest.mark.parametrize("check", [check_interfaces, check_ports, check_paths, check_links])
def test_like_nodes_are_sound(check) -> None:  # type: ignore[no-untyped-def]
    assert check(sound()).grade == "sound"
    assert check(sound(quick=True)).grade == ("not run" if check is check_links else "sound")


def test_another_packet_size_and_a_slower_interface_name_their_node() -> None:
    found = check_interfaces(with_network("n1", mtu=9000))
    assert found.named == (title(1),) and "the MTU is 9000 on node1" in found.symptoms[0].words
    assert "mtu 1500" in found.symptoms[0].remedy
    found = check_interfaces(with_network("n2", mbits_s=100))
    assert found.named == (title(2),) and "100 Mbit/s" in found.symptoms[0].words
    found = check_interfaces(with_network("n2", problem="GLOO_SOCKET_IFNAME=ib0: node2 has no such interface"))
    assert found.named == (title(2),) and "GLOO_SOCKET_IFNAME" in found.symptoms[0].remedy


def test_ports_that_are_taken_or_too_few_name_their_node() -> None:
    found = check_ports(with_network("n1", num_free=0, ports_problem="all 5 ports of 20000-20004 are taken on node1"))
    assert found.named == (title(1),) and "all 5 ports" in found.symptoms[0].words
    seen = with_network("n1", num_free=7)
    seen.demand = Demand({name: (Post("east", "cpu", 2),) for name in seen.nodes})
    found = check_ports(seen)  # 5 for each of two workers, one for their agent
    assert found.named == (title(1),) and "up to 11" in found.symptoms[0].remedy


def test_ports_are_widened_where_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_PORTS", "20000-20004")
    taken = "all 5 ports of 20000-20004 are taken on node1; widen `ports` in the job file (or DOUGONG_PORTS)"
    seen = with_network("n1", num_free=0, ports_problem=taken)
    (symptom,) = check_ports(seen).symptoms
    assert symptom.words == "all 5 ports of 20000-20004 are taken on node1"
    assert symptom.remedy == "widen DOUGONG_PORTS, or free some"
    few = with_network("n1", num_free=0)
    assert check_ports(few).symptoms[0].remedy.startswith("widen DOUGONG_PORTS: a run needs up to ")
    few.request = replace(few.request, job=Job.model_validate({**toy_job(), "ports": "20000-20004"}))
    assert check_ports(few).symptoms[0].remedy.startswith("widen `ports` of the job: a run needs up to ")


def test_a_node_that_nobody_reaches_is_named_and_what_to_open() -> None:
    seen = sound()
    for name in ("n0", "n1"):
        closed = PathResult("n2", 40000, "silent", "timed out")
        others = tuple(result for result in seen.paths[name] if result.target != "n2")
        seen.paths[name] = (*others, closed)
    found = check_paths(seen)
    assert found.named == (title(2),)
    assert "is reached by nobody" in found.symptoms[0].words
    assert found.symptoms[0].remedy.startswith("open TCP ports 32768-60999 of node2 (10.0.0.3)")
    assert found.evidence == ("4 of 6 paths pass",)


def test_who_has_not_said_what_it_found_is_told() -> None:
    seen = sound()
    del seen.paths["n1"]
    found = check_paths(seen)
    assert found.grade == "failed" and "n1 on node1 (10.0.0.2) has not said what it found" in str(found.symptoms)


@pytest.mark.parametrize(
    ("failed", "named"),
    [
        ([], []),
        (["ac", "bc"], ["c"]),
        (["ca", "cb"], ["c"]),
        (["ac"], []),  # one cable
        (["ab", "ba", "ac", "ca", "bc", "cb"], []),  # of all nodes nobody is the odd one
    ],
)
def test_a_node_is_a_culprit_where_nothing_passes_to_it_or_from_it(failed: list[str], named: list[str]) -> None:
    tried = {(a, b) for a in "abc" for b in "abc" if a != b}
    assert culprits(tried, {(pair[0], pair[1]) for pair in failed}) == named


def test_of_two_nodes_none_is_the_culprit() -> None:
    assert culprits({("a", "b"), ("b", "a")}, {("a", "b")}) == []


SLOW = LinkAnswer(1e-4, 4e7, 3e7)


def test_a_node_without_any_good_link_is_named_in_the_middle_of_good_ones() -> None:
    seen = sound()
    seen.links["n0", "n2"] = seen.links["n1", "n2"] = SLOW
    found = check_links(seen)
    assert found.named == (title(2),) and len(found.symptoms) == 1
    assert found.symptoms[0].words == "node2 (10.0.0.3) gives 30 MB/s at best to any node, the others 1.0 GB/s"


def test_one_slow_cable_between_good_nodes_names_none_of_them() -> None:
    seen = sound(4)
    seen.links["n0", "n2"] = SLOW
    found = check_links(seen)
    assert found.grade == "failed" and found.named == ()
    assert found.symptoms[0].words.startswith("node0 (10.0.0.1) - node2 (10.0.0.3) gives 30 MB/s")


def test_the_only_link_of_two_nodes_is_held_to_what_a_link_should_give() -> None:
    seen = sound(2)
    assert check_links(seen).grade == "sound"
    seen.links["n0", "n1"] = LinkAnswer(1e-3, 5e6, 5e6)
    found = check_links(seen)
    assert found.named == () and "should give 12 MB/s at least" in found.symptoms[0].words


def test_links_inside_of_islands_are_not_compared_with_those_between_them() -> None:
    job = "any"
    seen = sound(4)
    seen.demand = Demand(
        {name: (Post(island, "cpu", 1),) for name, island in zip(seen.nodes, ["east"] * 2 + ["west"] * 2)}
    )
    seen.request = replace(seen.request, job=job)  # type: ignore[arg-type]
    for pair in seen.links:
        if {pair[0] in ("n0", "n1"), pair[1] in ("n0", "n1")} == {True, False}:
            seen.links[pair] = SLOW
    found = check_links(seen)
    assert found.grade == "sound"
    assert any("between east and west" in line for line in found.evidence)
    assert any("inside east" in line for line in found.evidence)


def test_a_link_without_a_figure_is_a_finding() -> None:
    seen = sound()
    seen.links["n0", "n1"] = LinkAnswer(problem="too little came through within 10 s")
    assert "too little came through" in check_links(seen).symptoms[0].words
