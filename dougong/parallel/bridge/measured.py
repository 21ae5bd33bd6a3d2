"""What a link between two islands is found to give, before the first step. Imports no torch."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ConfigDict

from dougong.parallel.plan import Worker

LEAST_RATE = 12e6
"""Fast Ethernet's: slower than that is no link to train over."""
_PART_OF_USUAL = 1 / 4
"""A link that is slower than so much of the others' median has something wrong with it."""
_MOST_SHOWN = 4


@dataclass(frozen=True)
class CopyRates:
    """Bytes a second between a device and the host's memory, in chunks as bridges use them."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    to_host: float
    from_host: float


@dataclass(frozen=True)
class MeasuredLink:
    """Between two workers, `one` and `other`, of unlike islands. `path`: the name of the way;
    `latency_s`: half of a round trip; `bytes_per_s`: of one message from device to device, all legs
    together; `copies`: of each end that computes on a device, by worker; `facts`: how the bytes are
    moved, in the bridge's words."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    one: str
    other: str
    islands: tuple[str, str]
    path: str
    latency_s: float
    bytes_per_s: float
    facts: str = ""

    @property
    def words(self) -> str:
        """In one line."""
        given = f"{rate_words(self.bytes_per_s)}, {self.latency_s * 1e3:.2g} ms"
        return f"{self.one} - {self.other}: {self.path}, {given}"


def pairs_to_probe(workers: Sequence[Worker]) -> list[tuple[int, int]]:
    """The ranks of those who try the links between islands; the same list on all workers.

    One pair for each two machines is enough, as the workers of a machine share its wire and have
    like devices; and each machine meets one of each other island, so that a job of many machines
    tries as many links as it has of them, and not their square. Islands that send each other
    nothing have no link: those of experts alone.
    """
    islands: dict[str, dict[str, Worker]] = {}
    for worker in workers:
        islands.setdefault(worker.island, {}).setdefault(worker.node, worker)
    pairs = []
    for one, other in itertools.combinations(islands.values(), 2):
        ones, others = list(one.values()), list(other.values())
        for number in range(max(len(ones), len(others))):
            first, second = ones[number % len(ones)], others[number % len(others)]
            if first.lanes or second.lanes:
                pairs.append((first.rank, second.rank))
    return pairs


def slow_links(links: Sequence[MeasuredLink]) -> list[str]:
    """A warning for each link that is much slower than it should be."""
    rates: dict[str, list[float]] = {}
    for link in links:
        rates.setdefault(link.path, []).append(link.bytes_per_s)
    usual = {path: statistics.median(found) for path, found in rates.items()}
    return [_warning(link, usual[link.path]) for link in links if _is_slow(link, usual)]


def _is_slow(link: MeasuredLink, usual: Mapping[str, float]) -> bool:
    least = max(LEAST_RATE, _PART_OF_USUAL * usual[link.path])
    return link.bytes_per_s < least


def _warning(link: MeasuredLink, usual: float) -> str:
    against = f"{rate_words(LEAST_RATE)} are the least that a link should give"
    if link.bytes_per_s >= LEAST_RATE:
        against = f"the job's other links give {rate_words(usual)}"
    return (
        f"a slow link: {link.words}; {against}; look for another interface, a cable or a duplex "
        "that was negotiated wrongly, and for other traffic between the two"
    )


def copies_in_words(copies: Mapping[str, CopyRates]) -> Iterable[str]:
    """Of each worker that copies between its device and the host."""
    for worker, rates in copies.items():
        to_host, from_host = rate_words(rates.to_host), rate_words(rates.from_host)
        yield f"{worker} copies {to_host} to the host and {from_host} from it"


def links_in_words(links: Sequence[MeasuredLink], copies: Mapping[str, CopyRates]) -> str:
    """All of them in one line; of many the slowest and the fastest."""
    shown = sorted(links, key=lambda link: link.bytes_per_s)
    words = [link.words for link in shown]
    if len(words) > _MOST_SHOWN:
        words = [f"slowest {words[0]}", f"fastest {words[-1]}", f"{len(words)} links in all"]
    facts = sorted({link.facts for link in links if link.facts})
    return "; ".join([*words, *itertools.islice(copies_in_words(copies), _MOST_SHOWN), *facts])


def rate_words(bytes_per_s: float) -> str:
    """A rate for people: `1.2 GB/s`."""
    if bytes_per_s >= 1e9:
        return f"{bytes_per_s / 1e9:.1f} GB/s"
    return f"{bytes_per_s / 1e6:.3g} MB/s"
