"""What dougong asks of a bridge: the way of tensors between islands that share no native library.

A package offers one as an entry point of the group dougong.bridges. Its module is loaded where a
job is planned, without torch: it imports torch inside of its methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed import Store as Store  # type: ignore[attr-defined]

    from dougong.parallel.comm.membership import Membership
    from dougong.parallel.comm.threads import MessageThread
    from dougong.parallel.comm.transfer import Transfer
    from dougong.parallel.comm.wait import PeerWait


class BridgeWork(ABC):
    """Transfers that have begun. Their tensors may neither be read nor changed before `wait` has
    returned."""

    @abstractmethod
    def wait(self, wait: PeerWait) -> None:
        """Until all has been sent, and all that comes lies in its place, for every stream of the
        device. In the thread of the messages' kind, not in the worker's own.

        Ends within `wait.left_s` seconds, and when `BridgeEnd.abort` is called, by a RuntimeError,
        of which `wait`, as a context, makes a PeerError. `wait.of` says for whom it waits.
        """


class BridgeEnd(ABC):
    """One worker's end of a bridge, for messages of one kind and one generation."""

    @abstractmethod
    def begin(
        self, sends: Sequence[Transfer], receives: Sequence[Transfer], wait: PeerWait
    ) -> BridgeWork:
        """Begin all of them and return at once; none of them is empty. Tensors are contiguous, of
        any shape and dtype, on this worker's device or in host memory: what lies on a device here
        may lie in host memory at the other end. The bytes arrive as they are.

        What leaves may be read, and what comes may be written to, when the device has done what the
        current stream of the calling thread was given by now. Both ends begin the same transfers,
        in orders of their own: rank and `tag` tell them apart, and those of one `begin` come before
        those of the next. No receive waits for a send of the same worker: two of them may send to
        each other. Raises as `BridgeWork.wait` does where a peer is known to be gone.
        """

    @abstractmethod
    def facts(self) -> str:
        """How it moves the bytes, in some words, for the record of the run."""

    @abstractmethod
    def abort(self) -> None:
        """A peer is lost, or the generation is to be left: have whoever waits raise RuntimeError
        within a second. Any thread may call this, more than once."""

    @abstractmethod
    def close(self) -> None:
        """Give back memory and connections. Nothing is under way, or it has been aborted."""


@dataclass(frozen=True)
class Opening:
    """Where a end is opened: by this `member` of the generation, with the workers `ranks`, itself
    among them, for messages of the kind `purpose`. `store`: the generation's, with keys of this
    kind's own, where the ends tell each other addresses. `connections`: gloo groups of everybody.
    `make_thread`: a thread of this name that has entered the device and ends with the generation.
    """

    member: Membership
    ranks: tuple[int, ...]
    purpose: str
    store: Store | None
    connections: tuple[ProcessGroup, ...]
    make_thread: Callable[[str], MessageThread]


class Bridge(ABC):
    """A way between islands. Objects hold no state."""

    name: ClassVar[str]
    """What a job file says: `bridge: NAME`."""

    @abstractmethod
    def joins(self, one: str, other: str) -> bool:
        """Whether it goes between islands of these accelerators, in both directions. Asked where a
        job is planned: opens no device and imports no torch."""

    @abstractmethod
    def open(self, opening: Opening) -> BridgeEnd:
        """This worker's end, of messages of one kind. Called by all of `opening.ranks`, for every
        kind in the same order, within `member.deadlines.message_s` seconds.

        Raises DeviceError that says what is missing here, and RuntimeError where a peer does not
        come.
        """
