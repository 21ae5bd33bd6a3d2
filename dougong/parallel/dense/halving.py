"""Who sends which parts of a sum to whom, from the lanes up to the root of their tree: recursive
halving (Rabenseifner 2004), with distance 1 first.

At each node of the tree the halves meet: every part of the sum has one worker on each side that
holds it, and one of the two sends it to the other. Which one follows from the part's owner: the
way from the root down to what the owner holds itself. So a worker sends half of what it holds, then
a quarter, and so on, and the sum is the tree's, whoever holds which lanes. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dougong.parallel.tree import LaneTree, TreeNode


@dataclass(frozen=True)
class Meeting:
    """The halves of a node are added: `source` sends the parts of `owners` of the half `moved` to
    `target`, which has those of `kept`. The two workers may be one."""

    node: TreeNode
    kept: TreeNode
    moved: TreeNode
    source: int
    target: int
    owners: tuple[int, ...]

    @property
    def level(self) -> int:
        return self.node[1]


class Halving:
    """The meetings of a tree whose maximal nodes are held by workers."""

    def __init__(self, tree: LaneTree, held: Mapping[int, Sequence[TreeNode]]) -> None:
        """`held`: by rank, as `LaneTree.held` gives them; together they are all lanes."""
        self._tree, self._held = tree, held
        self._holders: dict[TreeNode, int] = {}
        for rank, nodes in held.items():
            self._holders |= dict.fromkeys(nodes, rank)
        self._ranks: dict[TreeNode, tuple[int, ...]] = {}
        self._places: dict[TreeNode, dict[int, int]] = {}
        self.levels: tuple[int, ...] = tuple(sorted(set(self._gather(tree.root))))
        """Sizes of the nodes at which workers meet, lowest first."""

    @property
    def root(self) -> TreeNode:
        return self._split(self._tree.root)[0]

    def held_by(self, rank: int) -> Sequence[TreeNode]:
        return self._held.get(rank, ())

    def _gather(self, node: TreeNode) -> Iterator[int]:
        """Note who has lanes of this node and of those below, and give the levels."""
        node, children = self._split(node)
        ranks: dict[int, None] = {}
        for child in children:
            yield from self._gather(child)
            ranks |= dict.fromkeys(self._ranks[child])
        if children:
            yield node[1]
        self._ranks[node] = tuple(ranks) or (self._holders[node],)
        self._places[node] = {rank: place for place, rank in enumerate(self._ranks[node])}

    def _split(self, node: TreeNode) -> tuple[TreeNode, tuple[TreeNode, ...]]:
        """The first node from here down that somebody holds or that has two halves, and these."""
        node, halves = self._first(node)
        return node, tuple(self._first(half)[0] for half in halves)

    def _first(self, node: TreeNode) -> tuple[TreeNode, list[TreeNode]]:
        """The same, the halves as the tree has them."""
        while node not in self._holders:
            children = self._tree.children(node)
            if len(children) == 2:
                return node, children
            (node,) = children
        return node, []

    def meetings(self, owners: Iterable[int], rank: int | None = None) -> Iterator[Meeting]:
        """For the parts of these owners, who hold lanes; those in which a worker of `rank` has a
        part, and some others. Nodes come before those below them."""
        yield from self._meetings(self.root, {owner: (owner,) for owner in owners}, rank)

    def _meetings(
        self, node: TreeNode, wanted: Mapping[int, tuple[int, ...]], rank: int | None
    ) -> Iterator[Meeting]:
        """`wanted`: by the worker that is to have a part of this node, the parts' owners."""
        node, halves = self._split(node)
        if not halves or (rank is not None and rank not in self._places[node]):
            return
        below: dict[TreeNode, dict[int, tuple[int, ...]]] = {half: {} for half in halves}
        for target, owners in wanted.items():
            kept, moved, source = self._sides(target, *halves)
            yield Meeting(node, kept, moved, source, target, owners)
            for half, worker in ((kept, target), (moved, source)):
                below[half][worker] = (*below[half].get(worker, ()), *owners)
        for half in halves:
            yield from self._meetings(half, below[half], rank)

    def crossing(self, num_bytes: Mapping[int, float]) -> dict[tuple[int, int], float]:
        """Bytes of a whole sum by (source, target). `num_bytes`: by owner, of its part."""
        found: dict[tuple[int, int], float] = {}
        self._add_crossing(self.root, num_bytes, found)
        return found

    def _add_crossing(
        self, node: TreeNode, wanted: Mapping[int, float], found: dict[tuple[int, int], float]
    ) -> None:
        node, halves = self._split(node)
        if not halves:
            return
        below: dict[TreeNode, dict[int, float]] = {half: {} for half in halves}
        for target, num_bytes in wanted.items():
            kept, moved, source = self._sides(target, *halves)
            if source != target:
                found[source, target] = found.get((source, target), 0.0) + num_bytes
            for half, worker in ((kept, target), (moved, source)):
                below[half][worker] = below[half].get(worker, 0.0) + num_bytes
        for half in halves:
            self._add_crossing(half, below[half], found)

    def _sides(
        self, target: int, first: TreeNode, second: TreeNode
    ) -> tuple[TreeNode, TreeNode, int]:
        """(kept, moved, source): the half in which `target` has lanes, the other, and who has there
        what it adds."""
        is_first = target in self._places[first]
        kept, moved = (first, second) if is_first else (second, first)
        return kept, moved, self._opposite(target, kept, moved)

    def _opposite(self, target: int, kept: TreeNode, moved: TreeNode) -> int:
        """Who has on the other side what `target` is to add: itself, where it has lanes there,
        else the one at the same place."""
        if target in self._places[moved]:
            return target
        ranks = self._ranks[moved]
        return ranks[self._places[kept][target] % len(ranks)]


Part = tuple[int, TreeNode]
"""(owner, held node): an owner's part of the sum that a worker makes where it holds that node."""


@dataclass
class Round:
    """What one worker does at one level. Parts that go to a peer are in the order in which owners
    lie in a bucket, the same on both sides.

    sends, receives     by peer; what comes is added
    adds                (into, from): both are this worker's own
    """

    sends: dict[int, list[Part]] = field(default_factory=dict)
    receives: dict[int, list[Part]] = field(default_factory=dict)
    adds: list[tuple[Part, Part]] = field(default_factory=list)


@dataclass(frozen=True)
class Share:
    """One worker's rounds, lowest level first, and where its own part of the whole sum is then:
    None for a worker that owns nothing."""

    rounds: tuple[Round, ...]
    result: TreeNode | None


def share_of(halving: Halving, owners: Sequence[int], rank: int) -> Share:
    """`owners`: all of them, in the order in which their parts lie."""
    made = _ShareInTheMaking(halving, owners, rank)
    order = {owner: number for number, owner in enumerate(owners)}
    mine: list[tuple[Meeting, int]] = []
    for meeting in halving.meetings(owners, rank):
        if rank in (meeting.source, meeting.target):
            mine += [(meeting, owner) for owner in meeting.owners]
    for meeting, owner in sorted(mine, key=lambda one: (one[0].level, order[one[1]], one[0].node)):
        made.add(meeting, owner)
    result = made.memory[halving.root, rank] if rank in order else None
    return Share(tuple(made.rounds.values()), result)


class _ShareInTheMaking:
    """A worker's rounds by level, and in the memory of which held node it has an owner's part of a
    node."""

    def __init__(self, halving: Halving, owners: Sequence[int], rank: int) -> None:
        self._rank = rank
        self.rounds = {level: Round() for level in halving.levels}
        self.memory: dict[tuple[TreeNode, int], TreeNode] = {}
        for node in halving.held_by(rank):
            self.memory |= dict.fromkeys(((node, owner) for owner in owners), node)

    def add(self, meeting: Meeting, owner: int) -> None:
        """An owner's part of a meeting in which this worker takes part."""
        its = self.rounds[meeting.level]
        if meeting.target != self._rank:
            moved = owner, self.memory[meeting.moved, owner]
            its.sends.setdefault(meeting.target, []).append(moved)
            return
        kept = self.memory[meeting.node, owner] = self.memory[meeting.kept, owner]
        if meeting.source != self._rank:
            its.receives.setdefault(meeting.source, []).append((owner, kept))
        else:
            its.adds.append(((owner, kept), (owner, self.memory[meeting.moved, owner])))
