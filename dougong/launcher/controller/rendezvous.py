"""The key-value store over which the workers of a generation find each other; it lives in the
controller's process.

There it outlives every generation (each has its own prefix), and no worker's death takes it away.
This module imports torch when called, in a background thread, while the agents start.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from dougong.control.ports import listen
from dougong.job.port_range import Ports


class RendezvousStore:
    """A torch.distributed TCPStore that listens on one interface only. It lives as long as this
    object. `timeout_s`: longest wait of one of its own calls. `ports`: to listen on one of these,
    None: on one that the system chooses."""

    def __init__(self, host: str, timeout_s: float, ports: Ports | None = None) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        listener = listen(host, ports)
        port = listener.getsockname()[1]
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
