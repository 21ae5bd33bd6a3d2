"""What is exchanged between attention and experts for one site and micro-batch, and its place in
words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dougong.parallel.comm.message import SplitTensor, TableSpec
from dougong.parallel.comm.peers import Sides
from dougong.parallel.schedules.operation import CallKey, MessageKind


def place_in_words(key: CallKey, names: Sequence[str]) -> str:
    """Where in the step a message belongs; `names` of the model's modules, by site."""
    site, microbatch = key
    name = f" ({names[site]})" if site < len(names) else ""
    return f"site {site}{name}, micro-batch {microbatch}"


@dataclass(frozen=True)
class Expected:
    """The messages of one kind, site and micro-batch: who sends and who receives them, of how many
    parts they are, and the table that goes ahead."""

    kind: MessageKind
    key: CallKey
    sides: Sides
    num_parts: int
    table: TableSpec | None = None


@dataclass(frozen=True)
class Outgoing:
    """What a worker sends all receivers. `table`: where one goes ahead."""

    parts: Sequence[SplitTensor]
    table: Tensor | None = None


@dataclass(frozen=True)
class Received:
    """What all senders have sent: each part of all of them, one after another by rank. `sizes`: of
    each part, the shares of the senders."""

    parts: Sequence[Tensor]
    sizes: Sequence[Sequence[int]] = ()
