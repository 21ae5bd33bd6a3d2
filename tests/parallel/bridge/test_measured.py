"""Who tries which link, and what is said of what is found."""

from __future__ import annotations

from dougong.parallel.bridge.measured import CopyRates, MeasuredLink, links_in_words, pairs_to_probe, slow_links
from dougong.parallel.plan import Worker


def worker(rank: int, island: str, node: str, has_lanes: bool = True) -> Worker:
    lanes, experts = ((rank,), ()) if has_lanes else ((), (rank,))
    return Worker(f"{island}/{rank}", rank, island, "both", node, "cpu:0", lanes, (experts,))


def link(name: str, bytes_per_s: float, path: str = "host") -> MeasuredLink:
    return MeasuredLink("a/0", name, ("a", name[0]), path, 0.0002, bytes_per_s, "gloo")


def test_one_worker_of_each_machine_tries_one_link_to_each_other_island() -> None:
    a = [worker(0, "a", "n0"), worker(1, "a", "n0"), worker(2, "a", "n1")]
    b = [worker(3, "b", "n2"), worker(4, "b", "n3"), worker(5, "b", "n4")]
    assert pairs_to_probe([*a, *b]) == [(0, 3), (2, 4), (0, 5)]
    assert pairs_to_probe(a) == []


def test_islands_of_experts_alone_send_each_other_nothing() -> None:
    workers = [worker(0, "a", "n"), worker(1, "b", "n", has_lanes=False), worker(2, "c", "n", has_lanes=False)]
    assert pairs_to_probe(workers) == [(0, 1), (0, 2)]


def test_a_slow_link_is_told_with_what_to_look_for() -> None:
    (told,) = slow_links([link("b/0", 5e6)])
    assert told.startswith("a slow link: a/0 - b/0: host, 5 MB/s, 0.2 ms; 12 MB/s are the least")
    assert "look for another interface" in told
    (told,) = slow_links([link("b/0", 1e9), link("b/1", 1.1e9), link("b/2", 0.2e9)])
    assert "a/0 - b/2: host, 200 MB/s" in told and "the job's other links give 1.0 GB/s" in told


def test_links_of_another_kind_are_not_compared() -> None:
    assert slow_links([link("b/0", 1e10, "toy"), link("c/0", 1.1e10, "toy"), link("d/0", 0.2e9)]) == []


def test_links_are_told_in_one_line() -> None:
    words = links_in_words([link("b/0", 2.5e9)], {"a/0": CopyRates(5e9, 6e9)})
    assert words == "a/0 - b/0: host, 2.5 GB/s, 0.2 ms; a/0 copies 5.0 GB/s to the host and 6.0 GB/s from it; gloo"
    many = links_in_words([link(f"b/{rank}", (9 - rank) * 1e8) for rank in range(6)], {})
    assert many.startswith("slowest a/0 - b/5: host, 400 MB/s, 0.2 ms; fastest a/0 - b/0: host, 900 MB/s")
    assert "6 links in all" in many and "\n" not in many
