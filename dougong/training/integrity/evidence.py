"""What each worker has seen, where their words of a step do not fit together, and whom it points
at. Pure, but for the telling."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dougong.parallel.comm.tally import Seen, changed_message
from dougong.parallel.dense.doubling import Doubling
from dougong.training.integrity.held_state import in_words
from dougong.training.memory.source import StateKey

_MOST_NAMES = 3


@dataclass(frozen=True)
class WorkerEvidence:
    """Of one worker. `changed`: tensors that are not what they were after its last update;
    `messages`: its tally; `spread`: by tensor, the sums of dense weights; `replicas`: those that it
    keeps and that came damaged, by owner."""

    changed: tuple[StateKey, ...]
    messages: Mapping[Seen, int]
    spread: Mapping[str, int]
    replicas: tuple[int, ...] = ()

    def encode(self) -> bytes:
        messages = [[*seen, value] for seen, value in self.messages.items()]
        return json.dumps([self.changed, messages, self.spread, self.replicas]).encode()

    @staticmethod
    def decode(payload: bytes) -> WorkerEvidence:
        changed, messages, spread, replicas = json.loads(payload)
        keys = tuple((group, name) for group, name in changed)
        tally = {(what, peer, is_sent): value for what, peer, is_sent, value in messages}
        return WorkerEvidence(keys, tally, spread, tuple(replicas))


@dataclass(frozen=True)
class WrongNumbers:
    """What has changed, in words, and whom that points at, by rank: one worker, whose own memory it
    was, or two between which it happened, the one who noticed it last, or nobody."""

    what: str
    accused: tuple[int, ...]


def find(
    evidences: Sequence[WorkerEvidence], owners: Mapping[str, int], is_handed_on: bool = True
) -> WrongNumbers | None:
    """The first thing that is wrong, what is certain of one worker before what is between two.
    `evidences`: by rank; `owners` of dense tensors; `is_handed_on`: workers have got them from each
    other, else each from the owner. None: all fits."""
    return next(_findings(evidences, owners, is_handed_on), None)


def _findings(
    evidences: Sequence[WorkerEvidence], owners: Mapping[str, int], is_handed_on: bool
) -> Iterator[WrongNumbers]:
    for rank, evidence in enumerate(evidences):
        if evidence.changed:
            yield WrongNumbers(
                f"{_some(evidence.changed)} changed in memory, computed by nobody", (rank,)
            )
    message = changed_message([evidence.messages for evidence in evidences])
    if message is not None:
        ends = tuple(dict.fromkeys((message.sender, message.receiver)))
        yield WrongNumbers(f"{message.what}: what arrived is not what was sent", ends)
    for rank, evidence in enumerate(evidences):
        for owner in evidence.replicas:
            yield WrongNumbers("a snapshot's replica that came is not what was sent", (owner, rank))
    yield from _unlike_copies([evidence.spread for evidence in evidences], owners, is_handed_on)


def _unlike_copies(
    spread: Sequence[Mapping[str, int]], owners: Mapping[str, int], is_handed_on: bool
) -> Iterator[WrongNumbers]:
    """Dense weights that are not the same on all workers that compute with them."""
    for name in sorted(set().union(*spread)):
        values = {rank: sums[name] for rank, sums in enumerate(spread) if name in sums}
        if len(set(values.values())) > 1:
            what = f"the weight {name} is not the same on its owner and on all who got it"
            owner = owners[name]
            handed_on = [(owner, rank) for rank in values if rank != owner]
            if is_handed_on:
                handed_on = list(Doubling(values).handed_on(owner))
            yield WrongNumbers(what, _where_it_changed(values, owner, handed_on))


def _where_it_changed(
    values: Mapping[int, int], owner: int, handed_on: Sequence[tuple[int, int]]
) -> tuple[int, ...]:
    """`values`: of one weight, by all who have it. Where workers have handed it on to each other,
    one flip may have come to many of them: it happened where the first two differ."""
    got_from: dict[int, list[int]] = {}
    for source, target in handed_on:
        got_from.setdefault(source, []).append(values[target])
    # All who got it from the owner have the same: then it is the owner's that changed later.
    first, *others = got_from[owner]
    if others and first != values[owner] and all(value == first for value in others):
        return (owner,)
    source, target = next(pair for pair in handed_on if values[pair[0]] != values[pair[1]])
    # The source has what the owner sent, since nothing was wrong on the way to it. If somebody has
    # the same from the target, the target had it, and what it has now changed later.
    if values[source] in got_from.get(target, ()):
        return (target,)
    return source, target


def _some(keys: Sequence[StateKey]) -> str:
    more = len(keys) - _MOST_NAMES
    text = ", ".join(in_words(key) for key in keys[:_MOST_NAMES])
    return f"{text} and {more} more" if more > 0 else text
