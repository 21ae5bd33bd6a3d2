"""The key-value store over which the workers of a generation find each other; it lives in the
controller's process.

There it outlives every generation (each has its own prefix), and no worker's death takes it away.
This module imports torch when called, in a background thread, while the agents start.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any


class RendezvousStore:
    """A torch.distributed TCPStore that listens on one interface only. It lives as long as this
    object. `listener`: its socket, which may have listened before torch was there, so that the
    path to it could be tried; it is taken over. `timeout_s`: longest wait of one of its own
    calls."""

    def __init__(self, listener: socket.socket, timeout_s: float) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        host, port = listener.getsockname()[:2]
        self.address: tuple[str, int] = (host, port)
        self._store: Any = TCPStore(
            host,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=timeout_s),
            master_listen_fd=listener.detach(),
        )


def load_torch() -> None:
    """Pay for the import before the store is needed."""
    import torch.distributed  # noqa: F401
