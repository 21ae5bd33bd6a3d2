"""Transfers that have begun, whichever way they take."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

import torch

from dougong.parallel.comm.native import NewWait
from dougong.parallel.comm.route import UnderWay
from dougong.parallel.comm.streams import Mark, wait_for


@dataclass(frozen=True)
class Pending:
    """Transfers between attention workers that have begun. The tensors may neither be read nor
    changed before `wait` has returned."""

    _under_way: UnderWay
    _host: Future[None] | None
    _native: Future[Mark] | None
    _device: torch.device
    _new_wait: NewWait

    def is_done(self) -> bool:
        """Whether `wait` would return at once, and a device with it. Raises PeerError when a peer
        is lost."""
        if self._host is not None and not self._host.done():
            return False
        if self._native is None:
            return True
        if not self._native.done():
            return False
        with self._new_wait():
            marked = self._native.result()
            return marked is None or marked.query()

    def wait(self) -> None:
        """Until all that goes through host memory has been sent and received; what this thread
        gives the device from now on comes after the rest. Raises PeerError when a peer is lost or
        does not come."""
        with self._new_wait() as wait:
            if self._native is not None:
                wait_for(wait.for_future(self._native), self._device)
            if self._host is not None:
                wait.for_future(self._host)
        self._under_way.land()
