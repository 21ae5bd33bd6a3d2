r"""The words of a schedule: operations, the messages between workers, and the program, a worker's
list of operations.

With L sites (experts calls in a forward) a model has L+1 segments: segment i ends by calling site
i, and segment L ends in the loss. One micro-batch j goes through a step like this, attention
workers above, experts workers below:

    forward(0,j)    forward(1,j) .. forward(L,j) backward(L,j)    backward(L-1,j) .. backward(0,j)
       rows \    / expert outputs            output gradients \  / row gradients
      experts forward(0,j) ..                experts backward(L-1,j), weight gradients(L-1,j) ..
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Literal

from dougong.parallel.plan import Role

CallKey = tuple[int, int]
"""One experts call of a step: (site, micro-batch)."""

Direction = Literal["dispatch", "combine"]
Verb = Literal["compute", "send", "receive"]


class MessageKind(Enum):
    """What travels for one site and micro-batch, from every worker of one side to every worker of
    the other."""

    ROWS = "rows"
    OUTPUTS = "expert outputs"
    OUTPUT_GRADIENTS = "output gradients"
    ROW_GRADIENTS = "row gradients"

    # Members are themselves alone; enum's own hash is of the name, in Python, and slow.
    __hash__ = object.__hash__

    @property
    def direction(self) -> Direction:
        """`dispatch` leads from attention to experts, `combine` back. A worker sends in both
        directions at the same time."""
        if self in (MessageKind.ROWS, MessageKind.OUTPUT_GRADIENTS):
            return "dispatch"
        return "combine"


class Kind(Enum):
    """What a worker does, attention first, then experts.

    `EXPERTS_BACKWARD` computes the gradients of the rows, which attention waits for;
    `WEIGHT_GRADIENTS` of the experts' weights, which nobody waits for (B and W of zero-bubble
    pipelines, Qi et al., arXiv 2401.10241).
    """

    FORWARD = "compute", "forward"
    BACKWARD = "compute", "backward"
    SEND_ROWS = "send", MessageKind.ROWS
    RECEIVE_OUTPUTS = "receive", MessageKind.OUTPUTS
    SEND_OUTPUT_GRADIENTS = "send", MessageKind.OUTPUT_GRADIENTS
    RECEIVE_ROW_GRADIENTS = "receive", MessageKind.ROW_GRADIENTS

    EXPERTS_FORWARD = "compute", "experts forward"
    EXPERTS_BACKWARD = "compute", "experts backward"
    WEIGHT_GRADIENTS = "compute", "weight gradients"
    RECEIVE_ROWS = "receive", MessageKind.ROWS
    SEND_OUTPUTS = "send", MessageKind.OUTPUTS
    RECEIVE_OUTPUT_GRADIENTS = "receive", MessageKind.OUTPUT_GRADIENTS
    SEND_ROW_GRADIENTS = "send", MessageKind.ROW_GRADIENTS

    __hash__ = object.__hash__  # as of a message's kind

    def __init__(self, verb: Verb, what: MessageKind | str) -> None:
        self.verb: Verb = verb
        self.message = what if isinstance(what, MessageKind) else None
        self.words = str(what) if self.message is None else f"{verb} {self.message.value}"

    @property
    def sends(self) -> MessageKind | None:
        """The message that this sends. It goes on in the background; the worker does not wait."""
        return self.message if self.verb == "send" else None

    @property
    def receives(self) -> MessageKind | None:
        """The message that this waits for, from all peers."""
        return self.message if self.verb == "receive" else None

    @property
    def computes(self) -> bool:
        return self.verb == "compute"


@dataclass(frozen=True)
class Operation:
    """One line of a program. `site` is the segment's number for `FORWARD` and `BACKWARD` (0 to L),
    else the site's."""

    kind: Kind
    site: int
    microbatch: int

    def __str__(self) -> str:
        place = "segment" if self.kind in (Kind.FORWARD, Kind.BACKWARD) else "site"
        return f"{self.kind.words} ({place} {self.site}, micro-batch {self.microbatch})"


@dataclass(frozen=True)
class Program:
    """What one worker does in a step: one thread takes the operations from first to last."""

    worker: str
    role: Role
    operations: tuple[Operation, ...]

    @property
    def has_attention(self) -> bool:
        return self.role != "experts"

    @property
    def has_experts(self) -> bool:
        return self.role != "attention"

    @property
    def shared(self) -> tuple[Role, int]:
        """Equal for workers of one role that run one and the same list, as `make_programs` gives
        it to them. A list is as long as a step, so its place in memory stands for it."""
        return self.role, id(self.operations)

    @cached_property
    def waves_of_a_site(self) -> int:
        """The most micro-batches whose experts' backward at one site is still to come."""
        alive: Counter[int] = Counter()
        most = 0
        for operation in self.operations:
            if operation.kind is Kind.EXPERTS_FORWARD:
                alive[operation.site] += 1
                most = max(most, alive[operation.site])
            elif operation.kind is Kind.EXPERTS_BACKWARD:
                alive[operation.site] -= 1
        return most

    def sends(self, message: MessageKind) -> bool:
        """Whether workers of this role send such messages; the other side receives them, `both`
        does both."""
        return self.has_attention if message.direction == "dispatch" else self.has_experts

    def receives(self, message: MessageKind) -> bool:
        return self.has_experts if message.direction == "dispatch" else self.has_attention


ScheduleFunction = Callable[[int, int, Role], list[Operation]]
"""schedule(number of sites L, number of micro-batches R, role) -> the operations of a worker of
that role."""

_SENDS = {kind.message: kind for kind in Kind if kind.verb == "send"}
_RECEIVES = {kind.message: kind for kind in Kind if kind.verb == "receive"}


def send(message: MessageKind, site: int, microbatch: int) -> Operation:
    return Operation(_SENDS[message], site, microbatch)


def receive(message: MessageKind, site: int, microbatch: int) -> Operation:
    return Operation(_RECEIVES[message], site, microbatch)


def forward(segment: int, microbatch: int) -> Operation:
    """F(i, j) of the papers."""
    return Operation(Kind.FORWARD, segment, microbatch)


def backward(segment: int, microbatch: int) -> Operation:
    """B(i, j) of the papers. B(L, j) begins at the loss that F(L, j) ended in; no message lies
    between the two."""
    return Operation(Kind.BACKWARD, segment, microbatch)
