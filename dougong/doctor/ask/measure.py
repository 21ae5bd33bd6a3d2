"""How quick the nodes are, measured so that they do not measure each other.

Nodes of one machine take turns; so do pairs of a few nodes. Many pairs are measured in rounds in
which no node is in two of them. Whoever is found slow is measured again before he is told, and the
better figures count: a moment's load names nobody.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from dougong.doctor.ask.observations import Inquiry, Observations
from dougong.doctor.facts import (
    LINK,
    SPEED,
    STORE,
    DeviceSpeed,
    Doors,
    LinkAnswer,
    LinkQuestion,
    Post,
    SpeedAnswer,
    SpeedQuestion,
    StoreAnswer,
    StoreQuestion,
)
from dougong.doctor.majority import (
    PART_OF_LINK,
    PART_OF_MATMUL,
    PART_OF_MEMORY,
    PART_OF_STORAGE,
    judge_numbers,
)
from dougong.doctor.node.disk import NUM_BYTES

Pair = tuple[str, str]

TIMES_AGAIN = 2
_MOST_AGAIN = 32
_PAIRS_IN_TURN = 15
"""So many links are measured one after another: those of six nodes."""
_MOST_ROUNDS = 4
"""Of more nodes each is measured with so many others."""


def measure_devices(inquiry: Inquiry) -> None:
    """Products, memory and bits of all devices."""
    found = inquiry.found
    for names in inquiry.in_turn():
        _ask_speeds(inquiry, names, with_bits=True)
    for _ in range(TIMES_AGAIN):
        for name in slow_nodes(found)[:_MOST_AGAIN]:
            _ask_speeds(inquiry, [name], with_bits=False)


def _ask_speeds(inquiry: Inquiry, names: Sequence[str], with_bits: bool) -> None:
    found, deadlines = inquiry.found, inquiry.deadlines
    questions = {}
    for name in names:
        posts = _free_posts(found, name)
        questions[name] = SpeedQuestion(posts, found.request.precision, with_bits, deadlines)
    answers = inquiry.nodes.ask(SPEED, questions, deadlines.doctor_speed_s + deadlines.kill_s)
    inquiry.note_silence("speed", answers.silent)
    for name, answer in answers.given.items():
        known = found.speeds.get(name)
        found.speeds[name] = answer if known is None else better_speeds(known, answer)


def _free_posts(found: Observations, name: str) -> tuple[Post, ...]:
    """Without devices of which another job holds some: it would be held up."""
    node = found.nodes[name]
    free = []
    for post in found.demand.posts[name]:
        if node.count_free(post.accelerator) == node.count(post.accelerator):
            free.append(post)
    return tuple(free)


def slow_nodes(found: Observations) -> list[str]:
    """The nodes with a device that its peers are quicker than."""
    products: dict[Pair, dict[Pair, float]] = {}
    memories: dict[Pair, dict[Pair, float]] = {}
    for node, answer in found.speeds.items():
        for device in answer.devices:
            if not device.problem:
                group, key = (device.accelerator, device.name), (node, str(device.index))
                products.setdefault(group, {})[key] = device.matmul_flops
                memories.setdefault(group, {})[key] = device.memory_bytes_per_s
    slow: list[Pair] = []
    for values, part in ((products, PART_OF_MATMUL), (memories, PART_OF_MEMORY)):
        for alike in values.values():
            judged = judge_numbers(alike, part)
            slow += [*judged.named, *judged.disagree]
    return list(dict.fromkeys(node for node, _ in slow))


def better_speeds(one: SpeedAnswer, other: SpeedAnswer) -> SpeedAnswer:
    """The better figures of two measurements of a node; the bits of the first."""
    again = {(device.accelerator, device.index): device for device in other.devices}
    devices = []
    for device in one.devices:
        second = again.get((device.accelerator, device.index))
        devices.append(device if second is None else _better(device, second))
    return SpeedAnswer(tuple(devices))


def _better(one: DeviceSpeed, other: DeviceSpeed) -> DeviceSpeed:
    quicker = max(one, other, key=lambda device: device.matmul_flops)
    return replace(
        one,
        matmul_flops=quicker.matmul_flops,
        cpu_share=quicker.cpu_share,
        memory_bytes_per_s=max(one.memory_bytes_per_s, other.memory_bytes_per_s),
    )


def measure_storage(inquiry: Inquiry) -> None:
    """Bytes a second where runs lie."""
    found = inquiry.found
    for names in inquiry.in_turn():
        _ask_storage(inquiry, names)
    for _ in range(TIMES_AGAIN):
        rates = {name: store.write_bytes_per_s for name, store in found.stores.items()}
        for name in judge_numbers(rates, PART_OF_STORAGE).named[:_MOST_AGAIN]:
            _ask_storage(inquiry, [name])


def _ask_storage(inquiry: Inquiry, names: Sequence[str]) -> None:
    found = inquiry.found
    questions = {}
    for name in names:
        folder = found.facts[name].folder
        has_room = (folder.free_bytes or 0) > NUM_BYTES
        if has_room and not (folder.problem or folder.trouble):
            questions[name] = StoreQuestion(folder.place)
    answers = inquiry.nodes.ask(STORE, questions, inquiry.deadlines.doctor_store_s)
    inquiry.note_silence("storage", answers.silent)
    for name, answer in answers.given.items():
        known = found.stores.get(name, StoreAnswer())
        found.stores[name] = max(known, answer, key=lambda store: store.write_bytes_per_s)


def measure_links(inquiry: Inquiry, doors: Mapping[str, Doors]) -> None:
    """Bytes a second from node to node."""
    links = inquiry.found.links
    for pairs in rounds_of_pairs(tuple(doors)):
        links |= _ask_links(inquiry, doors, pairs)
    for _ in range(TIMES_AGAIN):
        for pair in slow_pairs(links)[:_MOST_AGAIN]:
            links[pair] = _better_link(links[pair], _ask_links(inquiry, doors, [pair])[pair])


def _ask_links(
    inquiry: Inquiry, doors: Mapping[str, Doors], pairs: Sequence[Pair]
) -> dict[Pair, LinkAnswer]:
    """Of pairs no two of which have a node in common."""
    deadlines = inquiry.deadlines
    questions = {}
    for one, other in pairs:
        host, port = doors[other].end.host, doors[other].bulk_port
        questions[one] = LinkQuestion(host, port, inquiry.found.place.token, deadlines)
    answers = inquiry.nodes.ask(LINK, questions, deadlines.link_s + deadlines.last_word_s)
    links = {}
    for one, other in pairs:
        silent = LinkAnswer(problem=answers.silent.get(one, ""))
        links[one, other] = answers.given.get(one, silent)
    return links


def slow_pairs(links: Mapping[Pair, LinkAnswer]) -> list[Pair]:
    """Those that give less than a part of the quickest, or nothing."""
    rates = {pair: link_rate(link) for pair, link in links.items()}
    most = max(rates.values(), default=0.0)
    return [pair for pair, rate in rates.items() if rate < PART_OF_LINK * most]


def link_rate(link: LinkAnswer) -> float:
    """Bytes a second of the slower direction; 0 where there is no figure."""
    return min(link.out_bytes_per_s, link.in_bytes_per_s)


def _better_link(one: LinkAnswer, other: LinkAnswer) -> LinkAnswer:
    return max(one, other, key=link_rate)


def best_of_nodes(rates: Mapping[Pair, float]) -> dict[str, float]:
    """By node, the rate of its best link: one that is slow itself has no good one."""
    best: dict[str, float] = {}
    for pair, rate in rates.items():
        for node in pair:
            best[node] = max(rate, best.get(node, 0.0))
    return best


def rounds_of_pairs(names: Sequence[str]) -> Iterator[list[Pair]]:
    """All pairs, one in each round; of many nodes some rounds in which no node is in two pairs (the
    circle method of tournaments)."""
    if len(names) * (len(names) - 1) // 2 <= _PAIRS_IN_TURN:
        yield from ([pair] for pair in itertools.combinations(names, 2))
        return
    places: list[str | None] = list(names)
    if len(places) % 2:
        places.append(None)
    for _ in range(_MOST_ROUNDS):
        half = len(places) // 2
        pairs = zip(places[:half], reversed(places[half:]), strict=True)
        yield [(one, other) for one, other in pairs if one is not None and other is not None]
        places = [places[0], places[-1], *places[1:-1]]
