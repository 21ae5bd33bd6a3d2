"""The bridge that goes everywhere and needs nothing: host memory and gloo."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from dougong.bridge_names import HOST
from dougong.parallel.bridge.base import Bridge

if TYPE_CHECKING:
    from dougong.parallel.bridge.base import BridgeEnd, Opening


class HostBridge(Bridge):
    """See `host_end`."""

    name: ClassVar[str] = HOST

    def joins(self, one: str, other: str) -> bool:
        return True

    def open(self, opening: Opening) -> BridgeEnd:
        from dougong.parallel.bridge.host_end import HostEnd

        return HostEnd(opening)
