r"""The words of a schedule: operations, the messages between workers, and the program, a worker's list of operations.

With L sites (experts calls in a forward) a model has L+1 segments: segment i ends by calling site i, and segment L ends
in the loss. One micro-batch j goes through a step like this, attention workers above, experts workers below:

    forward(0,j)    forward(1,j)  ...  forward(L,j) backward(L,j)    backward(L-1,j)  ...  backward(0,j)
          rows \  / answers                    answer gradients \  / row gradients
        experts forward(0,j)  ...                 experts backward(L-1,j), weight gradients(L-1,j)  ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from dougong.parallel.plan import Role

CallKey = tuple[int, int]
"""One experts call of a step: (site, micro-batch)."""


class MessageKind(Enum):
    """What travels for one site and micro-batch, from every worker of one side to every worker of
    the other."""

    ROWS = "rows"
    ANSWERS = "answers"
    ANSWER_GRADIENTS = "answer gradients"
    ROW_GRADIENTS = "row gradients"

    @property
    def channel(self) -> Literal["dispatch", "combine"]:
        """`dispatch` leads from attention to experts, `combine` back. A worker sends on both at the
        same time."""
        return "dispatch" if self in (MessageKind.ROWS, MessageKind.ANSWER_GRADIENTS) else "combine"


class Kind(Enum):
    """What a worker does, attention first, then experts.

    `EXPERTS_BACKWARD` computes the gradients of the rows, which attention waits for;
    `WEIGHT_GRADIENTS` of the experts' weights, which nobody waits for (B and W of zero-bubble
    pipelines, Qi et al., arXiv 2401.10241).
    """

    FORWARD = "forward"
    BACKWARD = "backward"
    SEND_ROWS = "send rows"
    RECEIVE_ANSWERS = "receive answers"
    SEND_ANSWER_GRADIENTS = "send answer gradients"
    RECEIVE_ROW_GRADIENTS = "receive row gradients"

    EXPERTS_FORWARD = "experts forward"
    EXPERTS_BACKWARD = "experts backward"
    WEIGHT_GRADIENTS = "weight gradients"
    RECEIVE_ROWS = "receive rows"
    SEND_ANSWERS = "send answers"
    RECEIVE_ANSWER_GRADIENTS = "receive answer gradients"
    SEND_ROW_GRADIENTS = "send row gradients"

    @property
    def sends(self) -> MessageKind | None:
        """The message that this posts. It goes on in the background; the worker does not wait."""
        return (
            MessageKind(self.value.removeprefix("send "))
            if self.value.startswith("send ")
            else None
        )

    @property
    def receives(self) -> MessageKind | None:
        """The message that this waits for, from all peers."""
        return (
            MessageKind(self.value.removeprefix("receive "))
            if self.value.startswith("receive ")
            else None
        )

    @property
    def computes(self) -> bool:
        return self.sends is None and self.receives is None


@dataclass(frozen=True)
class Operation:
    """One line of a program. `site` is the segment's number for `FORWARD` and `BACKWARD` (0 to L),
    else the site's."""

    kind: Kind
    site: int
    microbatch: int

    def __str__(self) -> str:
        place = "segment" if self.kind in (Kind.FORWARD, Kind.BACKWARD) else "site"
        return f"{self.kind.value} ({place} {self.site}, micro-batch {self.microbatch})"


@dataclass(frozen=True)
class Program:
    """What one worker does in a step: one thread takes the operations from the first to the
    last."""

    worker: str
    role: Role
    operations: tuple[Operation, ...]

    @property
    def has_attention(self) -> bool:
        return self.role != "experts"

    @property
    def has_experts(self) -> bool:
        return self.role != "attention"

    def sends(self, message: MessageKind) -> bool:
        """Whether workers of this role send such messages; the other side receives them, `both`
        does both."""
        return self.has_attention if message.channel == "dispatch" else self.has_experts

    def receives(self, message: MessageKind) -> bool:
        return self.has_experts if message.channel == "dispatch" else self.has_attention


ScheduleFunction = Callable[[int, int, Role], list[Operation]]
"""schedule(number of sites L, number of micro-batches R, role) -> the operations of a worker of
that role."""


def send(message: MessageKind, site: int, microbatch: int) -> Operation:
    return Operation(Kind(f"send {message.value}"), site, microbatch)


def receive(message: MessageKind, site: int, microbatch: int) -> Operation:
    return Operation(Kind(f"receive {message.value}"), site, microbatch)


def forward(segment: int, microbatch: int) -> Operation:
    """F(i, j) of the papers."""
    return Operation(Kind.FORWARD, segment, microbatch)


def backward(segment: int, microbatch: int) -> Operation:
    """B(i, j) of the papers. B(L, j) begins at the loss that F(L, j) ended in; no message lies
    between the two."""
    return Operation(Kind.BACKWARD, segment, microbatch)
