"""The paths between a run's machines: which are tried, and what is said of those that are closed.
Pure."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dougong.addresses import show_address
from dougong.control.path_messages import CONTROLLER, Finding, PathEnd, PathResult
from dougong.deadlines import Deadlines

MOST_TOLD = 6
"""So many findings are told one by one."""
_CLOSED: tuple[Finding, ...] = ("silent", "refused", "unreachable", "unanswered", "broken")
_ABOUT_PORTS = (
    "(workers listen on ports that the system chooses, net.ipv4.ip_local_port_range); or open "
    "fewer, the same on every machine, and name them in the job file: `ports: 20000-20100`"
)
_ETHERNET_MTU, _LEAST_MTU = 1500, 1280


@dataclass
class PathFacts:
    """What is known of the paths. `number`: of the present round of tries, in which `waited_for`
    have been asked, by name; `own_end`: the controller's."""

    number: int = 0
    own_end: PathEnd | None = None
    waited_for: frozenset[str] = frozenset()
    results: dict[str, tuple[PathResult, ...]] = field(default_factory=dict)

    def begin(self, number: int, who: Iterable[str]) -> None:
        """A round of tries begins."""
        self.number, self.waited_for, self.results = number, frozenset(who), {}

    def note(self, number: int, who: str, results: tuple[PathResult, ...]) -> None:
        """Somebody has tried. What belongs to an older round is of no account."""
        if number == self.number:
            self.results[who] = results

    def missing(self, ends: Mapping[str, PathEnd]) -> tuple[str, ...]:
        """Those of the `ends` that there are who have not answered; the controller has none
        before."""
        waited_for = [name for name in self.waited_for if name in ends or name == CONTROLLER]
        return tuple(sorted(name for name in waited_for if name not in self.results))

    def problem(self, agents: Mapping[str, PathEnd], deadlines: Deadlines) -> str | None:
        """What is wrong with the paths between these agents and the controller, in one error; None
        where all of them pass."""
        ends = dict(agents)
        if self.own_end is not None:
            ends[CONTROLLER] = self.own_end
        return judge_paths(ends, self.results, self.missing(agents), deadlines)


def paths_to_try(agents: Sequence[str], new: Collection[str]) -> dict[str, tuple[str, ...]]:
    """By name, the ends that each is to try: all ordered pairs with a new agent in them, the
    controller's machine counting as one more.

    Pairs count whose workers hold no tensors for each other too, such as two islands of experts:
    gloo connects everybody with everybody when a generation's first group is made.
    """
    names = [*agents, CONTROLLER]
    wanted = {}
    for place, name in enumerate(names):
        # Each begins with the one behind it, so that no end is tried by all at once.
        others = names[place + 1 :] + names[:place]
        ends = tuple(other for other in others if name in new or other in new)
        if ends:
            wanted[name] = ends
    return wanted


@dataclass(frozen=True)
class _Pair:
    """Two machines, in one direction: where the connection begins and where it leads."""

    source: str
    target: str

    @property
    def back(self) -> _Pair:
        return _Pair(self.target, self.source)


@dataclass(frozen=True)
class _Failure:
    pair: _Pair
    ends: tuple[PathEnd, PathEnd]
    result: PathResult


class _Trial:
    """All results together, by machine: agents of one node share its paths."""

    def __init__(
        self, ends: Mapping[str, PathEnd], tried: Mapping[str, Sequence[PathResult]]
    ) -> None:
        self.pairs: set[_Pair] = set()
        self.failures: list[_Failure] = []
        self._failed: set[_Pair] = set()
        self._sources: dict[str, set[str]] = {}
        self._targets: dict[str, set[str]] = {}
        for name, results in tried.items():
            for result in results:
                # An agent that is lost by now has no end any more, and its loss is told as such.
                if name in ends and result.target in ends:
                    self._note(ends[name], ends[result.target], result)

    def _note(self, source: PathEnd, target: PathEnd, result: PathResult) -> None:
        pair = _Pair(_words(source), _words(target))
        self.pairs.add(pair)
        if pair.source != pair.target:
            self._sources.setdefault(pair.target, set()).add(pair.source)
            self._targets.setdefault(pair.source, set()).add(pair.target)
        if _fails(result):
            if source.host == target.host and source.machine != target.machine:
                # No firewall: the connection has not left the machine.
                result = replace(result, finding="stranger", text=_OWN_ADDRESS)
            self.failures.append(_Failure(pair, (source, target), result))
            self._failed.add(pair)

    def of(self, *findings: Finding) -> list[_Failure]:
        """The failures of these kinds, one for each pair."""
        found: dict[_Pair, _Failure] = {}
        for failure in self.failures:
            if failure.result.finding in findings:
                found.setdefault(failure.pair, failure)
        return list(found.values())

    def passes(self, pair: _Pair) -> bool:
        """Whether this path was tried, and nothing failed on it."""
        return pair in self.pairs and pair not in self._failed

    def sources_of(self, target: str) -> set[str]:
        """Who else has tried to reach this machine."""
        return self._sources.get(target, set())

    def targets_of(self, source: str) -> set[str]:
        return self._targets.get(source, set())


def judge_paths(
    ends: Mapping[str, PathEnd],
    tried: Mapping[str, Sequence[PathResult]],
    missing: Sequence[str],
    deadlines: Deadlines,
) -> str | None:
    """What is wrong with the paths, in one error; None where all of them pass.

    `ends` and `tried` by name; `missing`: names of those who have not answered.
    """
    # The pairs of a thousand machines are a million: none is made where all is well.
    if not missing and not any(map(_fails, itertools.chain(*tried.values()))):
        return None
    trial = _Trial(ends, tried)
    closed, narrow = trial.of(*_CLOSED), trial.of("too_large")
    strangers = trial.of("stranger")
    lines = []
    if closed:
        lines += [*_told(_closed_words(trial, closed, deadlines)), _how_to_open(closed)]
    if narrow:
        lines += [*_told(_narrow_words(narrow, deadlines)), _how_to_widen(narrow)]
    if strangers:
        lines += [*_told([_stranger_words(failure) for failure in strangers]), _ABOUT_STRANGERS]
    late = [f"{_with_machine(name, ends)} has not said what it found" for name in missing]
    lines += [line.lstrip() for line in _told(late)]
    if not lines:
        return None
    return "\n".join(["the machines do not reach each other as their workers must:", *lines])


def _fails(result: PathResult) -> bool:
    return result.finding != "passes"


def _words(end: PathEnd) -> str:
    return f"{end.machine} ({end.host})"


def _with_machine(name: str, ends: Mapping[str, PathEnd]) -> str:
    return f"{name} on {_words(ends[name])}" if name in ends else name


def _some(hosts: Collection[str]) -> str:
    """The first ones, and how many more there are."""
    told = ", ".join(sorted(hosts)[:MOST_TOLD])
    more = len(hosts) - MOST_TOLD
    return f"{told} and {more} more" if more > 0 else told


def _told(sentences: Sequence[str]) -> list[str]:
    """The first ones, and how many more there are."""
    told = [f"  {sentence}" for sentence in sentences[:MOST_TOLD]]
    if len(sentences) > MOST_TOLD:
        told.append(f"  and {len(sentences) - MOST_TOLD} more of the kind")
    return told


# Closed: no connection


def _closed_words(trial: _Trial, failures: Sequence[_Failure], deadlines: Deadlines) -> list[str]:
    """Whole machines first, then pairs."""
    why = {failure.pair: _why_closed(failure, deadlines) for failure in failures}
    left = dict(why)
    cut_off = _cut_off(trial, set(why))
    sentences = []
    for machine, pairs, words in cut_off:
        taken = [left.pop(pair) for pair in pairs if pair in left]
        if taken:
            sentences.append(f"{machine} {words}: {taken[0]}")
    while left:
        pair, words = next(iter(left.items()))
        del left[pair]
        sentences.append(_pair_words(trial, pair, words, left))
    return sentences


def _cut_off(trial: _Trial, closed: set[_Pair]) -> list[tuple[str, list[_Pair], str]]:
    """Machines that nobody reaches, or that reach nobody, with those pairs; of two machines alone a
    pair says as much."""
    found = []
    for machine in dict.fromkeys(pair.target for pair in closed):
        into = [_Pair(source, machine) for source in sorted(trial.sources_of(machine))]
        if len(into) > 1 and closed.issuperset(into):
            found.append((machine, into, "is reached by nobody"))
    for machine in dict.fromkeys(pair.source for pair in closed):
        out = [_Pair(machine, target) for target in sorted(trial.targets_of(machine))]
        if len(out) > 1 and closed.issuperset(out):
            found.append((machine, out, "reaches nobody"))
    return sorted(found, key=lambda entry: entry[0])  # of one machine twice, as they stand


def _pair_words(trial: _Trial, pair: _Pair, why: str, left: dict[_Pair, str]) -> str:
    """One pair; the same pair the other way round is taken out of `left`."""
    if pair.source == pair.target:
        return f"{pair.source} does not reach itself: {why}"
    if left.pop(pair.back, None) is not None:
        return f"{pair.source} and {pair.target} are closed to one another, both ways: {why}"
    reached = trial.passes(pair.back)
    though = f", though {pair.target} reaches {pair.source}" if reached else ""
    return f"{pair.source} does not reach {pair.target}{though}: {why}"


def _why_closed(failure: _Failure, deadlines: Deadlines) -> str:
    result = failure.result
    place = f"port {result.port}"
    match result.finding:
        case "silent":
            return f"{place} did not answer within {deadlines.words('path_s')}"
        case "refused":
            return f"{place} refused the connection"
        case "unanswered":
            return (
                f"{place} took the connection, and nothing came over it within "
                f"{deadlines.words('path_s')}"
            )
        case _:
            return f"{place}: {result.text}"


def _how_to_open(failures: Sequence[_Failure]) -> str:
    """What to open, literally."""
    sources: dict[str, set[str]] = {}
    targets: dict[str, PathEnd] = {}
    for failure in failures:
        source, target = failure.ends
        sources.setdefault(failure.pair.target, set()).add(source.host)
        targets[failure.pair.target] = target
    opened = []
    for words, target in list(targets.items())[:MOST_TOLD]:
        first, last = target.ports
        opened.append(f"TCP ports {first}-{last} of {words} to {_some(sources[words])}")
    text = f"open {'; '.join(opened)}"
    if any(target.are_chosen for target in targets.values()):
        return f"{text} (`ports` in the job file): a firewall is in between"
    return f"{text}: a firewall is in between {_ABOUT_PORTS}"


# Narrow: small messages pass, large ones do not


def _narrow_words(failures: Sequence[_Failure], deadlines: Deadlines) -> list[str]:
    sentences = []
    left = {failure.pair: failure for failure in failures}
    while left:
        pair, failure = next(iter(left.items()))
        del left[pair]
        way = "to"
        if left.pop(pair.back, None) is not None:
            way = "and"
        source, target = failure.ends
        sentences.append(
            f"{_with_mtu(source)} {way} {_with_mtu(target)}: a small message passes, and 64 KiB do "
            f"not within {deadlines.words('path_s')}"
        )
    return sentences


def _with_mtu(end: PathEnd) -> str:
    mtu = "not known" if end.mtu is None else str(end.mtu)
    return f"{end.machine} ({end.host}, {end.interface or 'interface not known'}, MTU {mtu})"


def _how_to_widen(failures: Sequence[_Failure]) -> str:
    ends: dict[str, PathEnd] = {}
    for failure in failures:
        for end in failure.ends:
            ends[_words(end)] = end
    largest = max((end.mtu or 0 for end in ends.values()), default=0)
    fits = _ETHERNET_MTU if largest > _ETHERNET_MTU else _LEAST_MTU
    commands = []
    for end in list(ends.values())[:MOST_TOLD]:
        commands.append(
            f"`ip link set dev {end.interface or 'INTERFACE'} mtu {fits}` on {end.machine}"
        )
    return (
        "the network between them drops packets as large as their MTU allows: "
        f"{', '.join(commands)}; or set on the switch what the machines have; on a slow network "
        "raise fault.deadlines.path_s instead"
    )


# Strangers

_OWN_ADDRESS = "it has that address itself"
_ABOUT_STRANGERS = (
    "each machine needs an address of its own that the others reach: choose the interface by "
    "GLOO_SOCKET_IFNAME before `ray start` (docker's bridges have the same address everywhere)"
)


def _stranger_words(failure: _Failure) -> str:
    place = show_address(failure.ends[1].host, failure.result.port)
    return (
        f"{failure.pair.source} finds somebody else at {place}, where "
        f"{failure.ends[1].machine} should be: {failure.result.text}"
    )
