"""What the backend is asked for agents that stand by, beside the training: whatever comes of it is
an answer, and never the end of anything. Runs in the backend's thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dougong.errors import DougongError
from dougong.launcher.backends.base import Backend
from dougong.launcher.controller.inbound.items import ReserveBegun, ReserveFailed, ReserveSeen
from dougong.planner.placement import AgentSpec


def see_reserve(
    backend: Backend, gone: Sequence[str], kinds: Sequence[str]
) -> ReserveSeen | ReserveFailed:
    """The nodes that there are, when what the agents `gone` hold has been given back."""
    try:
        backend.end(gone)
        nodes = tuple(backend.nodes(kinds))
        return ReserveSeen(nodes, backend.ended(), tuple(gone))
    except DougongError as error:
        return ReserveFailed(_line(error))


def begin_reserve(specs: Sequence[AgentSpec], start: Callable[[], None]) -> ReserveBegun:
    """Start these agents, by `start`."""
    names = tuple(spec.name for spec in specs)
    try:
        start()
    except DougongError as error:
        return ReserveBegun(names, _line(error))
    return ReserveBegun(names)


def _line(error: DougongError) -> str:
    return str(error).splitlines()[0]
