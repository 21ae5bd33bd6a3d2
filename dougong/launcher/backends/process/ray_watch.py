"""Ray under watch: that a part of it is gone, or there again, is noticed while nobody asks it for
anything."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Mapping

import psutil

from dougong.addresses import read_address
from dougong.control.processes import process_exists
from dougong.deadlines import Deadlines
from dougong.launcher.backends.base import RayNews, TellNews
from dougong.launcher.backends.ray_choice import RayChoice
from dougong.launcher.backends.ray_cluster import RayBackend
from dougong.launcher.backends.ray_head import open_words
from dougong.launcher.backends.ray_processes import raylets_of
from dougong.records.directory import RunDir

_SILENT = 2
"""A head that has not answered so often in a row is told to be gone: one that is busy may miss
one."""


class WatchedRay(RayBackend):
    """The backend of Ray, in a process that may end whenever Ray does: after a run's own Ray has
    lost a part, nothing that it could still be asked for would succeed."""

    def __init__(
        self, choice: RayChoice, deadlines: Deadlines, run_dir: RunDir | None, tell: TellNews
    ) -> None:
        super().__init__(choice, deadlines, run_dir)
        self._head = choice
        self._limits = deadlines
        self._tell = tell
        self._is_over = threading.Event()

    def open(self) -> str:
        host = super().open()
        if self.is_open_cluster and not self._head.may_be_open:
            self._tell(RayNews("head", False, open_words(self._head), is_warning=True))
        watch = self._watch_own if self._head.address is None else self._watch_cluster
        threading.Thread(target=watch, name="dougong-watch", daemon=True).start()
        return host

    def close(self) -> None:
        self._is_over.set()
        super().close()

    def _watch_own(self) -> None:
        parts = {child.name(): child.pid for child in psutil.Process().children()}
        while not self._is_over.wait(self._limits.ended_every_s):
            news = lost_part(parts)
            if news is not None:
                self._tell(news)
                os._exit(1)

    def _watch_cluster(self) -> None:
        address = str(self._head.address)
        looks, gone, here = HeadLooks(address), set[str](), raylets_of(address)
        while not self._is_over.wait(self._limits.ping_every_s):
            with contextlib.suppress(Exception):  # Ray raises many; the next look may tell
                gone = self._tell_of_actors(gone)
            news = looks.take(self.head_answers())
            if news is not None:
                self._tell(news)
            if here and not any(map(process_exists, here)):
                self._tell(RayNews("raylet", True, _about_here(address)))
                os._exit(1)  # Ray is reached through this machine's node alone

    def _tell_of_actors(self, known: set[str]) -> set[str]:
        """Tell of agents whose actor has ended since; all of them."""
        ended = self.ended()
        for name, why in ended.items():
            if name not in known:
                text = f"Ray holds nothing for agent {name} any more: {why}"
                self._tell(RayNews("raylet", True, text, name))
        return set(ended)


def _about_here(address: str) -> str:
    return (
        f"Ray has ended on this machine ({socket.gethostname()}), from which the run is led (`ray "
        f"start --address={address}` here begins it again)"
    )


def lost_part(parts: Mapping[str, int]) -> RayNews | None:
    """What has ended of a Ray of a run's own; None: nothing. `parts`: its processes, by name."""
    if not process_exists(parts.get("gcs_server", os.getpid())):
        return RayNews("head", True, "the head of this run's own Ray has ended")
    if not process_exists(parts.get("raylet", os.getpid())):
        return RayNews("raylet", True, "the raylet of this run's own Ray has ended")
    return None


class HeadLooks:
    """What is told of looks at a cluster's head, one after the other. Pure."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._num_silent = 0

    def take(self, answers: bool) -> RayNews | None:
        """One more look; what of it is news."""
        was_gone = self._num_silent >= _SILENT
        self._num_silent = 0 if answers else self._num_silent + 1
        if answers and was_gone:
            return RayNews("head", False, f"Ray's head at {self._address} answers again")
        if self._num_silent != _SILENT:
            return None
        port = read_address(self._address)[1]
        text = (
            f"Ray's head at {self._address} does not answer (`ray start --head --port={port}` "
            "there begins one, and `ray start` on each node joins it)"
        )
        return RayNews("head", True, text)
