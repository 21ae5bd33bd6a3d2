"""Whether the nodes reach each other as workers must, and how quickly. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from dougong.addresses import num_needed
from dougong.doctor.ask.measure import Pair, best_of_nodes, link_rate
from dougong.doctor.ask.observations import Observations
from dougong.doctor.judge.machine import ALONE
from dougong.doctor.majority import LEAST_NODES, PART_OF_LINK, judge_kinds, judge_numbers
from dougong.doctor.record import DoctorCheck, Symptom, check_of, not_run
from dougong.fault.paths import judge_paths
from dougong.parallel.bridge.measured import LEAST_RATE, rate_words

PART_OF_PAIR = 0.25
"""A link is told, and no node named, that gives less of what both its ends have elsewhere."""


def check_interfaces(seen: Observations) -> DoctorCheck:
    """The interface over which each node's workers would speak."""
    symptoms = []
    evidence = []
    mtus: dict[str, int | None] = {}
    speeds: dict[str, float] = {}
    for node, facts in seen.facts.items():
        name, network = seen.title(node), facts.network
        if network.problem:
            remedy = "set GLOO_SOCKET_IFNAME before `ray start` there, or leave it out"
            symptoms.append(Symptom(words=network.problem, remedy=remedy, nodes=(name,)))
            continue
        mtus[name] = network.mtu
        if network.mbits_s:
            speeds[name] = float(network.mbits_s)
        speed = f", {network.mbits_s} Mbit/s" if network.mbits_s else ""
        others = f"; also up: {', '.join(network.others)}" if network.others else ""
        place = f"{network.interface or 'no interface'} ({network.address})"
        evidence.append(f"{name}: {place}, MTU {network.mtu or 'not known'}{speed}{others}")
    symptoms += _on_mtus(mtus)
    symptoms += _on_speeds(speeds)
    return check_of("interfaces", tuple(symptoms), tuple(evidence))


def _on_mtus(mtus: Mapping[str, int | None]) -> Iterator[Symptom]:
    judged = judge_kinds(mtus)
    if judged.disagree:
        each = ", ".join(f"{mtu} on {name}" for name, mtu in mtus.items())
        remedy = "set one MTU on all of them and on the switch between"
        yield Symptom(words=f"the MTU is {each}", remedy=remedy)
    for name in judged.named:
        words = f"the MTU is {mtus[name]} on {name}, {judged.usual} on the others"
        remedy = f"`ip link set dev INTERFACE mtu {judged.usual}` there"
        yield Symptom(words=words, remedy=remedy, nodes=(name,))


def _on_speeds(speeds: Mapping[str, float]) -> Iterator[Symptom]:
    for name in judge_numbers(speeds, PART_OF_LINK).named:
        words = f"the interface of {name} runs at {speeds[name]:g} Mbit/s, the others faster"
        remedy = "look at its cable, its port of the switch, and what was negotiated (`ethtool`)"
        yield Symptom(words=words, remedy=remedy, nodes=(name,))


def check_ports(seen: Observations) -> DoctorCheck:
    """Whether workers can listen, on as many ports as a run needs on each node."""
    symptoms = []
    evidence = []
    for node, facts in seen.facts.items():
        name, network = seen.title(node), facts.network
        if network.problem:
            continue
        if network.ports_problem:
            words, remedy = network.ports_problem, "mend its network: workers listen there"
            if seen.request.ports is not None:
                words = words.partition("; ")[0]  # behind it a remedy that knows no key's place
                remedy = f"widen {seen.request.ports_key}, or free some"
            symptoms.append(Symptom(words=words, remedy=remedy, nodes=(name,)))
            continue
        if network.num_free is None:
            evidence.append(f"{name}: the system chooses")
            continue
        needed = _num_needed(seen, node)
        evidence.append(f"{name}: {network.num_free} free of {seen.request.ports}, {needed} needed")
        if network.num_free < needed:
            words = f"{name} has {network.num_free} ports free of {seen.request.ports}"
            remedy = f"widen {seen.request.ports_key}: a run needs up to {needed} there"
            symptoms.append(Symptom(words=words, remedy=remedy, nodes=(name,)))
    return check_of("ports", tuple(symptoms), tuple(evidence))


def _num_needed(seen: Observations, node: str) -> int:
    posts = seen.demand.posts[node]
    workers = sum(post.num_workers for post in posts)
    leads = seen.place.towards in (None, seen.nodes[node].address)
    return num_needed(workers, len(posts), leads)


def check_paths(seen: Observations) -> DoctorCheck:
    """Whether a connection and 64 KiB pass from each node to each other one."""
    if not seen.ends:
        return not_run("paths", "no node can be listened on")
    missing = [node for node in seen.ends if node not in seen.paths and not seen.is_alone]
    problem = judge_paths(seen.ends, seen.paths, missing, seen.request.deadlines)
    tried: set[Pair] = set()
    failed: set[Pair] = set()
    for source, results in seen.paths.items():
        for result in results:
            pair = (source, result.target)
            tried.add(pair)
            if result.finding != "passes":
                failed.add(pair)
    evidence = (f"{len(tried) - len(failed)} of {len(tried)} paths pass",)
    if problem is None:
        return check_of("paths", (), evidence)
    named = tuple(seen.title(node) for node in culprits(tried, failed))
    head, _, last = problem.rpartition("\n")
    return check_of("paths", (Symptom(words=head or problem, remedy=last, nodes=named),), evidence)


def culprits(tried: set[Pair], failed: set[Pair]) -> list[str]:
    """The nodes to or from which nothing passes though others were tried; none where the failures
    are not one node's, or there are two nodes."""
    nodes = sorted(set(itertools.chain(*tried)))
    if len(nodes) < LEAST_NODES:
        return []
    found = []
    for node in nodes:
        into = {pair for pair in tried if pair[1] == node}
        out = {pair for pair in tried if pair[0] == node}
        if (into and into <= failed) or (out and out <= failed):
            found.append(node)
    return found if 2 * len(found) < len(nodes) else []


def check_links(seen: Observations) -> DoctorCheck:
    """Bytes a second from node to node, inside of islands and between them."""
    if seen.request.quick:
        return not_run("links", "not with --quick")
    if not seen.links:
        return not_run("links", ALONE)
    symptoms: list[Symptom] = []
    evidence = []
    rates: dict[str, dict[Pair, float]] = {}
    for pair, link in seen.links.items():
        words = f"{_words(seen, pair)} ({_group(seen, pair)})"
        if link.problem:
            symptoms.append(Symptom(words=f"{words}: {link.problem}", remedy=_CABLE))
            continue
        there, back = rate_words(link.out_bytes_per_s), rate_words(link.in_bytes_per_s)
        evidence.append(f"{words}: {there} there, {back} back, {1e3 * link.latency_s:.2g} ms")
        rates.setdefault(_group(seen, pair), {})[pair] = link_rate(link)
    for found in rates.values():
        symptoms += _on_rates(seen, found)
    return check_of("links", tuple(symptoms), tuple(evidence))


_CABLE = (
    "look for another interface (GLOO_SOCKET_IFNAME), a cable or a duplex that was negotiated "
    "wrongly, and for other traffic"
)


def _words(seen: Observations, pair: Pair) -> str:
    return " - ".join(seen.title(node) for node in pair)


def _group(seen: Observations, pair: Pair) -> str:
    """Links that are compared with each other: those inside of an island, those between two."""
    if seen.request.job is None:
        return "between nodes"
    ones, others = (seen.demand.islands_of(node) for node in pair)
    if set(ones) & set(others):
        return f"inside {', '.join(sorted(set(ones) & set(others)))}"
    sides = sorted(("+".join(ones) or "no island", "+".join(others) or "no island"))
    return f"between {' and '.join(sides)}"


def _on_rates(seen: Observations, rates: Mapping[Pair, float]) -> Iterator[Symptom]:
    """A node by the best of its links: one that is slow itself has no good one. Then single links
    between nodes that have others."""
    best = best_of_nodes(rates)
    judged = judge_numbers(best, PART_OF_LINK)
    for node in judged.named:
        usual = rate_words(float(str(judged.usual)))
        name, found = seen.title(node), rate_words(best[node])
        words = f"{name} gives {found} at best to any node, the others {usual}"
        yield Symptom(words=words, remedy=_CABLE, nodes=(name,))
    for pair, rate in rates.items():
        if set(pair) & set(judged.named):
            continue
        least = max(LEAST_RATE, PART_OF_PAIR * min(best[node] for node in pair))
        if rate < least:
            found, wanted = rate_words(rate), rate_words(least)
            words = f"{_words(seen, pair)} gives {found}, and should give {wanted} at least"
            yield Symptom(words=words, remedy=_CABLE)
